"""SimpleLogic: forward chaining by hand and by a loop, what the samplers promise, and weights that reason without error."""

from random import Random

import numpy as np
import pytest
import torch

from activation_descent.reasoning import SAMPLERS, logic_training, simple_logic
from activation_descent.reasoning import encoder as encoders
from activation_descent.reasoning.logic_construction import construct
from activation_descent.reasoning.logic_training import Logic
from activation_descent.reasoning.simple_logic import FIRST_PREDICATE, Problems, Space

SPACE = Space([5, 8], 20, [2.0, 1.5], 3)
SETTINGS = Logic(
    space={"predicates": [5, 6], "rules": 12, "random_rules": [2.0, 1.5], "depth": 2},
    layers=3,
    tied=True,
    seeds=2,
    pool=30,
    steps=3,
    warmup_steps=1,
    decay_share=0.5,
    batch_size=5,
    learning_rate=0.003,
    evaluation=150,
)


def drawn(sampler="rule_priority", number=200, seed=0, space=SPACE):
    return simple_logic.draw(space, sampler, np.random.default_rng(seed), number)


def rules_of(problems, i):
    """Rules of one problem as sets."""
    most = problems.fact.shape[1]
    return [
        ({b for b in body if b < most}, head)
        for body, head in zip(problems.body[i].tolist(), problems.head[i].tolist(), strict=True)
        if head < most
    ]


def proofs(rules, facts):
    """Round by round, from the definition."""
    depth = dict.fromkeys(facts, 0)
    for step in range(1, 99):
        new = {head for body, head in rules if body <= set(depth) and head not in depth}
        if not new:
            return depth
        depth |= dict.fromkeys(new, step)
    return depth


def chain(length, most):
    """0, then 0 -> 1, 0 and 1 -> 2, 0, 1 and 2 -> 3, 1, 2 and 3 -> 4, ...; the last predicate follows from itself alone."""
    body, head = np.full((1, length + 1, 3), most), np.full((1, length + 1), most)
    for k in range(length):
        needed = range(max(0, k - 2), k + 1)
        body[0, k, : len(needed)] = needed
        head[0, k] = k + 1
    body[0, -1, 0] = head[0, -1] = most - 1
    fact = np.zeros((1, most), bool)
    fact[0, 0] = True
    depth = np.array([[*range(length + 1), *[-1] * (most - length - 1)]])
    return Problems(body, head, fact, np.ones((1, most), bool), depth)


def test_forward_chaining_by_hand():
    problem = chain(4, 6)
    assert simple_logic.forward_chaining(problem.body, problem.head, problem.fact).tolist() == [[0, 1, 2, 3, 4, -1]]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_depths_are_those_of_the_definition(sampler):
    problems = drawn(sampler)
    for i in range(len(problems)):
        wanted = proofs(rules_of(problems, i), np.flatnonzero(problems.fact[i]).tolist())
        assert problems.depth[i].tolist() == [wanted.get(p, -1) for p in range(SPACE.most)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_problems_keep_to_their_space(sampler):
    problems = drawn(sampler)
    assert problems.depth.max() == SPACE.depth
    assert set(problems.asked.sum(1)) == {5, 6, 7, 8}
    for i in range(len(problems)):
        rules = rules_of(problems, i)
        names = set(np.flatnonzero(problems.asked[i]))
        assert all(1 <= len(body) <= 3 and head not in body and body | {head} <= names for body, head in rules)
        assert set(np.flatnonzero(problems.fact[i])) <= names


def test_rule_priority_draws_distinct_rules_and_any_facts():
    shares = []
    for seed in range(300):
        rules, facts = simple_logic.rule_priority(SPACE, Random(seed), list(range(6)))
        assert len({(frozenset(body), head) for body, head in rules}) == len(rules) <= 12
        shares.append((len(rules) / 12, len(facts) / 6))
    assert np.mean(shares, 0) == pytest.approx([0.5, 0.5], abs=0.06)


def test_label_priority_has_true_facts_and_false_predicates():
    """Each level has both, so something is never proved; what is proved is a fact or the head of a rule."""
    for seed in range(300):
        rules, facts = simple_logic.label_priority(SPACE, Random(seed), list(range(8)))
        provable = set(proofs([(set(body), head) for body, head in rules], facts))
        assert facts
        assert provable != set(range(8))
        assert provable - set(facts) <= {head for _, head in rules}
        assert all(head in provable for body, head in rules if set(body) <= provable)


def test_samplers_differ_in_how_much_can_be_proved():
    """Random facts are half of the predicates; the first of several levels holds fewer."""
    shares = {sampler: drawn(sampler, 600).fact.sum() / drawn(sampler, 600).asked.sum() for sampler in SAMPLERS}
    assert shares["rule_priority"] > shares["label_priority"] + 0.1


def test_renaming_keeps_the_problem():
    problems = drawn("label_priority")
    renamed = simple_logic.renamed(problems, np.random.default_rng(1))
    assert (renamed.depth != problems.depth).any()
    assert np.array_equal(simple_logic.forward_chaining(renamed.body, renamed.head, renamed.fact), renamed.depth)
    assert np.array_equal(np.sort(renamed.depth, 1), np.sort(problems.depth, 1))
    assert np.array_equal(renamed.asked.sum(1), problems.asked.sum(1))


def test_every_token_has_five_ones():
    x = simple_logic.tokens(SPACE, drawn())
    assert x.shape == (200, 2 + 8 + 20, simple_logic.features(SPACE))
    assert set(x.unique().tolist()) == {0, 1}
    assert (x.sum(-1) == 5).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("most", "layers"), [(8, 2), (8, 4), (11, 7)])
def test_the_construction_proves_what_its_layers_reach_and_nothing_else(sampler, most, layers):
    space = Space([5, most], 40, [3.0, 2.0], most)
    problems = drawn(sampler, 150, space=space)
    encoder, weights = construct(space, layers)
    with torch.no_grad():
        said = logic_training.logits(encoder, weights, space, simple_logic.tokens(space, problems)[None])[0].numpy()
    wanted = (problems.depth >= 0) & (problems.depth <= layers - 1)
    assert np.array_equal(said > 0, wanted)
    assert np.abs(said).min() > 9.9


def test_the_construction_follows_the_deepest_chain():
    """Depth 9 with 10 layers, not with 9."""
    space = Space([5, 11], 10, [1.0, 1.0], 9)
    raw = simple_logic.tokens(space, chain(9, 11))[None]
    for layers, reached in ((10, 10), (9, 9)):
        encoder, weights = construct(space, layers)
        with torch.no_grad():
            said = logic_training.logits(encoder, weights, space, raw)[0, 0]
        assert (said > 0).tolist() == [True] * reached + [False] * (11 - reached)


def test_the_construction_proves_one_round_a_layer():
    """After layer k the states hold what k rounds prove, and nothing is left in the scratch entry."""
    problem = chain(4, 6)
    space = Space([5, 6], 5, [1.0, 1.0], 4)
    encoder, weights = construct(space, 5)
    raw = simple_logic.tokens(space, problem)[None]
    with torch.no_grad():
        states = encoders.run(weights, encoder, encoders.embed(weights, encoder, raw), raw.shape[2])
    names = space.most + 1
    for layer, state in enumerate(states):
        rule_states = state[0, 0, FIRST_PREDICATE + space.most :, 4 * names : 4 * names + space.most]
        assert [bool(rule_states[k].sum() > 0.99) for k in range(4)] == [layer > k for k in range(4)]
        assert state[..., simple_logic.features(space)].abs().max() < 1e-5


# Training and its measurement


def test_depth_weights_by_hand():
    """Two questions that cannot be proved, one fact, two of depth 2; another is not asked."""
    depth, asked = np.array([[-1, -1, 0], [2, 2, 0]]), np.array([[True, True, True], [True, True, False]])
    problems = Problems(np.zeros((2, 1, 3), int), np.zeros((2, 1), int), np.zeros((2, 3), bool), asked, depth)
    assert logic_training.depth_weights(problems).tolist() == [0.25, 0, 0.125, 0.25]
    proved = np.array([[False, True, True], [True, False, False]])
    rows = {row.get("depth"): row["value"] for row in logic_training.accuracies(problems, proved)}
    assert rows == {None: 0.25 + 0.25 + 0.125, -1: 0.5, 0: 1.0, 2: 0.5}


def test_training_learns_a_few_problems_by_heart(monkeypatch):
    """Without renaming; the loss of each sampler's networks falls to a small part of log 2."""
    settings = Logic(**{**vars(SETTINGS), "pool": 4, "steps": 150, "batch_size": 4, "learning_rate": 0.01})
    monkeypatch.setattr(simple_logic, "renamed", lambda problems, rng: problems)
    losses = []
    weights = logic_training.train_networks(settings, 0, report=lambda step, values: losses.append([*values.values()]))
    assert max(losses[-1]) < 0.1  # log 2 = .69 at first
    for place, sampler in enumerate(SAMPLERS):
        problems = logic_training.draw(settings, 0, sampler, "train", 0, 4)
        raw = simple_logic.tokens(settings.problems, problems)
        proved = logic_training._proved(settings.encoder, weights, settings.problems, raw)[place * settings.seeds]
        assert (proved == (problems.depth >= 0))[problems.asked].mean() > 0.95


def test_training_and_evaluation_share_no_stream():
    train = logic_training.draw(SETTINGS, 0, "rule_priority", "train", 0, 20)
    evaluate = logic_training.draw(SETTINGS, 0, "rule_priority", "evaluate", 0, 20)
    assert not np.array_equal(train.body, evaluate.body)


def test_records_of_the_construction_are_perfect():
    rows = logic_training.accuracy_records(SETTINGS, logic_training.new_networks(SETTINGS, 0), 0)
    found = {(r["variant"], r["sampler"], r["seed"], r.get("depth")): r["value"] for r in rows}
    for sampler in SAMPLERS:
        for seed in (0, 1):
            assert all(found["construction", sampler, seed, depth] == 1 for depth in (-1, 0, 1, 2))
            assert found["construction", sampler, seed, None] == pytest.approx(1)
        assert found["shallow_construction", sampler, 0, 2] == 0
        assert found["shallow_construction", sampler, 0, 1] == 1
        assert found["rule_priority", sampler, 0, None] < 0.9  # untrained
