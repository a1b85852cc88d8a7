"""SimpleLogic (Zhang et al. 2022, "On the paradox of learning to reason from data"): facts, definite rules, and what follows from them.

A predicate is proved if it is a fact or the head of a rule whose body is proved; its depth is the round of forward chaining that proves
it, 0 for a fact. Two samplers cover the same space of problems in different ways (their algorithms 1 and 2):

    rule priority    random rules and facts; the labels are what follows
    label priority   predicates in levels, labels at random; then rules and facts that agree with them

A problem is one token a predicate and one a rule, and every predicate is asked for at its own token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BODY = 3  # predicates in a rule's body, at most

Rule = tuple[list[int], int]


@dataclass(frozen=True)
class Space:
    """Which problems there are.

    Attributes:
        predicates: least and largest number in a problem.
        rules: at most so many; a problem with more is drawn again.
        random_rules: rules that a sampler draws at random, at most, for each predicate: of rule and of label priority. Published: 4 and 3.
        depth: problems with a deeper proof are drawn again. Published: 6.
    """

    predicates: Sequence[int]
    rules: int
    random_rules: Sequence[float]
    depth: int

    @property
    def most(self) -> int:
        """P, the predicates that there are names for."""
        return self.predicates[1]


@dataclass(frozen=True)
class Problems:
    """Problems of a space, filled up to the same number of rules.

    Attributes:
        body: predicates, P for an empty place.
        head: P for a rule that is not there.
        fact, asked: by predicate; asked are those that the problem has.
        depth: of the proof; -1 where there is none.
    """

    body: Int[np.ndarray, "problem rule body"]
    head: Int[np.ndarray, "problem rule"]
    fact: Bool[np.ndarray, "problem predicate"]
    asked: Bool[np.ndarray, "problem predicate"]
    depth: Int[np.ndarray, "problem predicate"]

    def __getitem__(self, which) -> "Problems":
        return Problems(*(getattr(self, name)[which] for name in ("body", "head", "fact", "asked", "depth")))

    def __len__(self) -> int:
        return len(self.head)


# Samplers: rules and facts of one problem


def rule_priority(space: Space, rng: Random, names: list[int]) -> tuple[list[Rule], list[int]]:
    """Distinct random rules with 1 to 3 predicates in the body, and random facts."""
    wanted = rng.randint(0, round(space.random_rules[0] * len(names)))
    facts = rng.sample(names, rng.randint(0, len(names)))
    rules: list[Rule] = []
    seen = set()
    while len(rules) < wanted:
        drawn = rng.sample(names, rng.randint(1, BODY) + 1)
        body, head = drawn[:-1], drawn[-1]
        if (frozenset(body), head) not in seen:
            seen.add((frozenset(body), head))
            rules.append((body, head))
    return rules, facts


def label_priority(space: Space, rng: Random, names: list[int]) -> tuple[list[Rule], list[int]]:
    """Predicates in levels with random labels (each level has both). Every predicate above the first level is the head of a rule whose body
    is of the level below and has its label. Then rules at random, save those from true to false; each that is true throughout brings
    a false one with it. Facts are the true predicates of the first level.
    """
    shuffled = rng.sample(names, len(names))
    levels = rng.randint(1, len(names) // 2)
    width, rest = divmod(len(names), levels)
    # As published: what does not divide goes to the levels above the first, one each while it lasts
    left, members = shuffled[:rest], shuffled[rest:]
    label: dict[int, bool] = {}
    rules: list[Rule] = []
    below: list[int] = []
    first: list[int] = []
    for level in range(levels):
        here = members[level * width : (level + 1) * width]
        if level and left:
            here = [*here, left.pop(0)]
        forced = [False, True] * (2 if levels == 1 else 1)
        label |= dict(zip(here, [*forced, *(rng.random() < 0.5 for _ in here[len(forced) :])], strict=True))
        for predicate in here if level else []:
            agreeing = [other for other in below if label[other] == label[predicate]]
            rules.append((rng.sample(agreeing, rng.randint(1, min(BODY, len(agreeing)))), predicate))
        first = first or here
        below = here
    nodes = [*label]
    wanted = len(rules) + rng.randint(0, round(space.random_rules[1] * len(names)))
    false = [node for node in nodes if not label[node]]
    while len(rules) < wanted:
        head = rng.choice(nodes)
        body = _body(rng, [node for node in nodes if node != head])
        true = all(label[node] for node in body)
        if true and not label[head]:
            continue
        rules.append((body, head))
        if true and len(false) > 1:
            other = rng.choice(false)
            rules.append((_body(rng, [node for node in false if node != other]), other))
    return rules, [node for node in first if label[node]]


def _body(rng: Random, candidates: list[int]) -> list[int]:
    return rng.sample(candidates, rng.randint(1, min(BODY, len(candidates))))


DRAW: dict[str, Callable[[Space, Random, list[int]], tuple[list[Rule], list[int]]]] = {
    "rule_priority": rule_priority,
    "label_priority": label_priority,
}


def draw(space: Space, sampler: str, rng: np.random.Generator, number: int) -> Problems:
    """Problems of a sampler that have no more rules and no deeper proof than the space allows."""
    python = Random(int(rng.integers(2**62)))  # draws small samples many times faster than NumPy
    body = np.full((number, space.rules, BODY), space.most)
    head = np.full((number, space.rules), space.most)
    fact, asked = np.zeros((2, number, space.most), dtype=bool)
    waiting = np.arange(number)
    while len(waiting):
        for i in waiting:
            rules = [((), 0)] * (space.rules + 1)
            while len(rules) > space.rules:
                names = python.sample(range(space.most), python.randint(*space.predicates))
                rules, facts = DRAW[sampler](space, python, names)
            body[i], head[i], fact[i], asked[i] = space.most, space.most, False, False
            for place, (needed, concluded) in enumerate(rules):
                body[i, place, : len(needed)] = needed
                head[i, place] = concluded
            fact[i, facts] = True
            asked[i, names] = True
        depth = forward_chaining(body, head, fact)
        waiting = np.flatnonzero(depth.max(1) > space.depth)
    return Problems(body, head, fact, asked, depth)


def forward_chaining(
    body: Int[np.ndarray, "problem rule body"], head: Int[np.ndarray, "problem rule"], fact: Bool[np.ndarray, "problem predicate"]
) -> Int[np.ndarray, "problem predicate"]:
    """The round in which each predicate is proved: 0 for facts, -1 for never."""
    number, most = fact.shape
    depth = np.where(fact, 0, -1)
    rows = np.arange(number)[:, None]
    for step in range(1, most + 1):
        known = np.concatenate([depth >= 0, np.ones((number, 1), bool)], 1)  # an empty place asks for nothing
        fires = known[rows[..., None], body].all(-1)
        reached = np.zeros((number, most + 1), bool)
        np.logical_or.at(reached, (np.broadcast_to(rows, head.shape), head), fires)
        new = reached[:, :most] & (depth < 0)
        if not new.any():
            break
        depth[new] = step
    return depth


def renamed(problems: Problems, rng: np.random.Generator) -> Problems:
    """The same problems with predicates renamed and rules in another order, at random: as likely under either sampler."""
    number, most = problems.fact.shape
    names = rng.permuted(np.broadcast_to(np.arange(most), (number, most)), axis=1)
    rows = np.arange(number)[:, None]
    extended = np.concatenate([names, np.full((number, 1), most)], 1)
    order = rng.permuted(np.broadcast_to(np.arange(problems.head.shape[1]), problems.head.shape), axis=1)
    body = extended[rows[..., None], problems.body][rows, order]
    head = extended[rows, problems.head][rows, order]
    back = np.argsort(names, axis=1)
    return Problems(body, head, *(getattr(problems, name)[rows, back] for name in ("fact", "asked", "depth")))


# Tokens: null, truth, one each predicate, one each rule

FIRST_PREDICATE = 2


def features(space: Space) -> int:
    """Entries of a token: three places of a body and the head with P + 1 names each, P + 1 for what is proved, unproved, null."""
    return 5 * (space.most + 1) + 2


def tokens(space: Space, problems: Problems) -> Float[Tensor, "problem token feature"]:
    """Problems for an encoder; every token has five ones.

    A body is three places, the name P for an empty one. A predicate is a rule from itself to itself, and proved at once if it is a fact;
    the token of truth proves what empty places ask for; the null token is there to be attended to when nothing else fits.
    """
    number, names = len(problems), space.most + 1
    proved, unproved, null = 4 * names, 5 * names, 5 * names + 1
    x = torch.zeros(number, FIRST_PREDICATE + space.most + space.rules, features(space))
    own = np.arange(space.most)
    body = np.full((number, x.shape[1], BODY), space.most)
    body[:, FIRST_PREDICATE : FIRST_PREDICATE + space.most, 0] = own
    body[:, FIRST_PREDICATE + space.most :] = problems.body
    for place in range(BODY):
        x.scatter_(2, torch.from_numpy(place * names + body[..., place])[..., None], 1.0)
    x[:, 0, null] = 1.0
    x[:, 0, unproved] = 1.0
    x[:, 1, 3 * names + space.most] = 1.0
    x[:, 1, proved + space.most] = 1.0
    head = np.concatenate([np.broadcast_to(own, (number, space.most)), problems.head], 1)
    x[:, FIRST_PREDICATE:].scatter_(2, torch.from_numpy(3 * names + head)[..., None], 1.0)
    predicate = slice(FIRST_PREDICATE, FIRST_PREDICATE + space.most)
    fact = torch.from_numpy(problems.fact).float()
    x[:, predicate, proved : proved + space.most] = torch.diag_embed(fact)
    x[:, predicate, unproved] = 1 - fact
    x[:, FIRST_PREDICATE + space.most :, unproved] = 1.0
    return x
