"""Small language models of the study's own against plain loops, and what their kinds are."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from activation_descent.errors import CheckpointError, DivergedError
from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.world import make_world
from activation_descent.lens import BODIES, bodies
from activation_descent.lens.bodies import Body, Letters, Shape
from activation_descent.lens.states import Subject, batch_of

WORLD = make_world(0, 0.1)
MIXTURE = Mixture(0.5, 0.25, 0.12, 0.13, 0.3, 0.3, 0.4, 0.2, 0.2, 0.2)
SHAPE = Shape(
    hidden_size=8,
    layers=3,
    heads=2,
    mlp_size=12,
    length=20,
    rows=4,
    steps=6,
    learning_rate=0.01,
    warmup_steps=2,
    weight_decay=0.01,
    clip_norm=1.0,
)


@pytest.fixture(scope="module")
def letters():
    return Letters(Corpus(WORLD, MIXTURE), WORLD.vocabulary)


def body(kind, words=30, seeds=2):
    return Body.initial(kind, SHAPE, words, [np.random.default_rng(seed) for seed in range(seeds)])


def tokens(seeds=2, rows=3, length=11, words=30):
    return torch.randint(words, (seeds, rows, length), generator=torch.Generator().manual_seed(0))


def test_letters_spell_the_corpus(letters):
    rows = letters.rows(np.random.default_rng(5), 40, 30)
    words = Corpus(WORLD, MIXTURE).rows(np.random.default_rng(5), 40, 15)
    for row, document in zip(rows, words, strict=True):
        text = "\n" + "".join(WORLD.vocabulary[word] + " " for word in document[1:])
        assert "".join(letters.alphabet[letter] for letter in row) == text[:30]
    assert letters.alphabet[0] == "\n"
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1:] > 0).all()


@pytest.mark.parametrize("kind", BODIES)
def test_states_are_those_of_a_loop_over_heads_and_positions(kind):
    made, read = body(kind), tokens()
    states = made.record(read)
    assert isinstance(made, Subject)
    assert states.shape == (2, 4, 3, 11, 8)
    weights = made.weights
    head_dim = 4

    def norm(x):
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)

    def turn(x, position):
        """Rotary embedding of one head's vector: pairs (i, i + 2) by the angle p 1000^(-2i/4)."""
        first, second = x[:2], x[2:]
        angle = position * 1000.0 ** (-torch.arange(0, 4, 2) / 4)
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()])

    for seed in range(2):
        x = weights["embedding"][seed][read[seed, 1]]
        for layer in range(3):
            torch.testing.assert_close(states[seed, layer, 1], x, atol=1e-5, rtol=1e-4)
            own = {name: value[seed, min(layer, value.shape[1] - 1)] for name, value in weights.items() if value.dim() == 4}
            q, k, v = (norm(x) @ own["attention"].T).view(11, 3, 2, head_dim).unbind(1)
            said = torch.zeros(11, 8)
            for head in range(2):
                for t in range(11):
                    scores = torch.stack([turn(q[t, head], t) @ turn(k[i, head], i) / math.sqrt(head_dim) for i in range(t + 1)])
                    said[t, head * head_dim : (head + 1) * head_dim] = scores.softmax(0) @ v[: t + 1, head]
            x = x + said @ own["output"].T
            x = x + F.gelu(norm(x) @ own["up"].T) @ own["down"].T
        torch.testing.assert_close(states[seed, 3, 1], x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", BODIES)
def test_losses_by_hand(kind):
    made, read = body(kind), tokens()
    states = made.record(read)
    wanted = []
    for seed in range(2):
        loops = []
        for depth in (1, 2, 3) if kind == "tied_loops" else (3,):
            x = states[seed, depth]
            logits = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5) @ made.weights["head"][seed].T
            loops.append(F.cross_entropy(logits[:, :-1].flatten(0, 1), read[seed, :, 1:].flatten()))
        wanted.append(sum(loops) / len(loops))
    torch.testing.assert_close(bodies.loss(made, read), torch.stack(wanted))


def test_what_is_tied_and_what_is_frozen():
    layers = {kind: body(kind).weights["attention"].shape[1] for kind in BODIES}
    assert layers == {"untied": 3, "tied_loops": 1, "tied": 1, "random_body": 3}
    frozen = body("random_body", words=4000)
    assert len(frozen.trained()) == 1
    assert frozen.trained()[0] is frozen.weights["head"]
    assert float(frozen.weights["embedding"].std()) == pytest.approx(1.0, rel=0.02)
    assert float(frozen.weights["up"].std()) == pytest.approx(1.5 / math.sqrt(8), rel=0.1)


def test_batches_and_resuming():
    made, read = body("untied"), tokens()
    states, batch = made.record(read), batch_of(made, read)
    logits = made.unembedding.logits(states[:, -1:].flatten(2, 3))[:, 0].view(2, 3, 11, 30)
    torch.testing.assert_close(batch.final, logits[:, :, :-1].flatten(1, 2).softmax(-1))
    for layer in range(4):
        torch.testing.assert_close(made.resume(read, layer, states[:, layer]), states[:, -1])


@pytest.mark.parametrize("kind", BODIES)
def test_training_lowers_the_loss_and_seeds_do_not_meet(kind, letters):
    from dataclasses import replace

    shape = replace(SHAPE, steps=25, clip_norm=0.5, learning_rate=0.05 if kind == "random_body" else 0.01)
    seen = []
    both = bodies.train(kind, shape, letters, 0, 2, 5, lambda step, losses: seen.append(losses))
    assert len(seen) == 5
    for seed in range(2):
        assert seen[-1][f"training_loss/seed_{seed}"] < 0.95 * seen[0][f"training_loss/seed_{seed}"]
    alone = bodies.train(kind, shape, letters, 0, 1, 5)
    for name, weight in alone.weights.items():
        torch.testing.assert_close(both.weights[name][:1], weight, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(both.weights["head"][0], both.weights["head"][1], atol=0.05)


def test_a_frozen_body_stays_and_starts_are_shared(letters):
    first = Body.initial(
        "random_body", SHAPE, len(letters.alphabet), [bodies.generator(0, "lens", "bodies", "all", "initialise", 0)]
    )
    trained = bodies.train("random_body", SHAPE, letters, 0, 1, 6)
    for name in ("embedding", "attention", "output", "up", "down"):
        assert torch.equal(first.weights[name], trained.weights[name])
    assert not torch.equal(first.weights["head"], trained.weights["head"])


def test_a_body_is_stored_and_read(letters, tmp_path):
    made = bodies.train("tied", SHAPE, letters, 0, 2, 6)
    bodies.save(made, tmp_path / "model.safetensors")
    again = bodies.load(tmp_path / "model.safetensors")
    assert (again.kind, again.shape) == ("tied", SHAPE)
    assert all(torch.equal(again.weights[name], weight) for name, weight in made.weights.items())
    bodies.save(made, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read .*; delete it to train again"):
        bodies.load(tmp_path / "model.safetensors")


def test_divergence_is_said_in_one_sentence(letters):
    from dataclasses import replace

    with pytest.raises(DivergedError, match="training of the lens study's untied models diverged before step 3"):
        bodies.train("untied", replace(SHAPE, learning_rate=math.inf), letters, 0, 1, 3)
