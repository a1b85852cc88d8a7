"""Paths of predictions and responses to interventions, by hand and on models whose answer is known."""

import math

import numpy as np
import pytest
import torch

from activation_descent.lens import trajectories
from activation_descent.lens.readout import Batch, Unembedding
from activation_descent.lens.states import batch_of
from activation_descent.lens.translators import Translators

SEEDS, LAYERS, ROWS, LENGTH, WIDTH, WORDS = 2, 4, 5, 6, 7, 9


def draw(*shape, number=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number))


def identity(kind="tuned", layers=LAYERS):
    weight = torch.zeros(SEEDS, layers if kind == "tuned" else 1, WIDTH, WIDTH)
    return Translators(kind, {"weight": weight, "bias": torch.zeros(*weight.shape[:2], 1, WIDTH)}, layers)


def unembedding():
    return Unembedding(draw(SEEDS, WORDS, WIDTH, number=1), draw(SEEDS, WORDS, number=2), "none")


def clr(x, w):
    return [value - sum(a * b for a, b in zip(w, x, strict=True)) for value in x]


def test_aitchison_by_hand():
    x, y, w = draw(WORDS), draw(WORDS, number=1), draw(WORDS, number=2).softmax(0)
    cx, cy = clr(x.tolist(), w.tolist()), clr(y.tolist(), w.tolist())
    inner = sum(weight * a * b for weight, a, b in zip(w.tolist(), cx, cy, strict=True))
    assert float(trajectories.aitchison(x, y, w)) == pytest.approx(inner, abs=1e-5)
    lengths = [math.sqrt(sum(weight * a * a for weight, a in zip(w.tolist(), c, strict=True))) for c in (cx, cy)]
    assert float(trajectories.aitchison_cosine(x, y, w)) == pytest.approx(inner / math.prod(lengths), abs=1e-5)


def test_a_constant_added_to_logits_changes_nothing():
    x, y, w = draw(3, WORDS), draw(3, WORDS, number=1), draw(3, WORDS, number=2).softmax(-1)
    torch.testing.assert_close(trajectories.aitchison(x + 5, y - 2, w), trajectories.aitchison(x, y, w), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(trajectories.aitchison_cosine(3 * x, x, w), torch.ones(3))
    torch.testing.assert_close(trajectories.aitchison_cosine(x, -x, w), -torch.ones(3))
    assert (trajectories.aitchison_cosine(torch.ones(3, WORDS), x, w) == 0).all()


def path(share):
    """States that go from h_0 to h_L, a share of the way at each layer."""
    start, end = draw(SEEDS, 1, 30, WIDTH, number=3), draw(SEEDS, 1, 30, WIDTH, number=4)
    states = start + share.view(1, -1, 1, 1) * (end - start)
    final = unembedding().logits(end)[:, 0].softmax(-1)
    return Batch(states, final, torch.zeros(SEEDS, 30, dtype=torch.long)), end[:, 0]


def test_progress_of_a_straight_path_is_one():
    found = trajectories.progress(identity("shared"), unembedding(), *path(torch.tensor([0.0, 0.3, 0.5, 0.9])))
    torch.testing.assert_close(found["progress"], torch.ones(SEEDS, LAYERS - 1), atol=1e-4, rtol=0)
    assert found["progress_null"].abs().max() < 0.5
    back = trajectories.progress(identity("shared"), unembedding(), *path(torch.tensor([0.9, 0.5, 0.3, 0.0])))
    torch.testing.assert_close(back["progress"], -torch.ones(SEEDS, LAYERS - 1), atol=1e-4, rtol=0)


def test_steps_between_layers_by_hand():
    batch, _ = path(torch.tensor([0.0, 0.3, 0.5, 0.9]))
    found = trajectories.steps_between(identity(), unembedding(), batch)
    log_q = unembedding().logits(batch.states).log_softmax(-1)
    for seed in range(SEEDS):
        for step in range(LAYERS):
            before = log_q[seed, step]
            after = log_q[seed, step + 1] if step + 1 < LAYERS else batch.final[seed].log()
            kl = (after.exp() * (after - before)).sum(-1).mean() / math.log(2)
            apart = [(batch.final[seed] * (batch.final[seed].log() - log)).sum(-1) for log in (before, after)]
            assert float(found["step_kl"][seed, step]) == pytest.approx(float(kl), abs=1e-5)
            assert float(found["step_improved"][seed, step]) == pytest.approx(
                float((apart[1] < apart[0]).float().mean()), abs=1e-6
            )


class Sum:
    """A model whose block l adds a function of the token to the stream, whatever stands there."""

    def __init__(self, tokens=40, layers=LAYERS):
        self.updates, self.layers = draw(SEEDS, layers + 1, tokens, WIDTH, number=5), layers
        self.unembedding = unembedding()

    def record(self, tokens):
        added = torch.stack([self.updates[seed][:, tokens[seed]] for seed in range(SEEDS)])
        return added.cumsum(1)

    def resume(self, tokens, layer, states):
        added = torch.stack([self.updates[seed][:, tokens[seed]] for seed in range(SEEDS)])
        return states + added[:, layer + 1 :].sum(1)


def test_stimulus_and_response():
    """What a block adds stays: the response is the stimulus of the logit lens, and its opposite to a lens that turns the stream round."""
    subject = Sum()
    tokens = torch.randint(40, (SEEDS, ROWS, LENGTH), generator=torch.Generator().manual_seed(6))
    recorded = subject.record(tokens)
    position = torch.randint(LENGTH, (SEEDS, ROWS), generator=torch.Generator().manual_seed(7))
    turned = identity()
    turned.parameters["weight"] -= 2 * torch.eye(WIDTH)
    found = trajectories.stimulus_response(subject, {"logit": identity(), "turned": turned}, tokens, recorded, position)
    torch.testing.assert_close(found["logit"], torch.ones(SEEDS, LAYERS - 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(found["turned"], -torch.ones(SEEDS, LAYERS - 1), atol=1e-4, rtol=0)


def test_only_the_chosen_token_is_treated():
    """Its update is replaced by that of the row before; the model is resumed after the block with all else as it was."""
    subject = Sum()
    tokens = torch.randint(40, (SEEDS, ROWS, LENGTH), generator=torch.Generator().manual_seed(6))
    recorded, seen = subject.record(tokens), []

    def resume(tokens, layer, states):
        seen.append((layer, states.clone()))
        return Sum.resume(subject, tokens, layer, states)

    subject.resume = resume
    position = torch.tensor([[0, 1, 2, 3, 4], [5, 4, 3, 2, 1]])
    trajectories.stimulus_response(subject, {"logit": identity()}, tokens, recorded, position)
    assert [layer for layer, _ in seen] == [1, 2, 3]
    for layer, states in seen:
        for seed, row, token in np.ndindex(SEEDS, ROWS, LENGTH):
            wanted = recorded[seed, layer, row, token]
            if token == position[seed, row]:
                other = recorded[seed, layer, row - 1, token] - recorded[seed, layer - 1, row - 1, token]
                wanted = recorded[seed, layer - 1, row, token] + other
            torch.testing.assert_close(states[seed, row, token], wanted)


def test_a_trajectory_names_words():
    subject = Sum()
    tokens = torch.randint(40, (SEEDS, 1, LENGTH), generator=torch.Generator().manual_seed(8))
    batch = batch_of(subject, tokens)
    words = [f"w{place}" for place in range(40)]
    found = trajectories.trajectory(identity(), subject.unembedding, batch, tokens[0, 0], words, 4)
    assert found.read == [f"w{token}" for token in tokens[0, 0, :4].tolist()]
    assert found.following == [f"w{token}" for token in tokens[0, 0, 1:5].tolist()]
    logits = subject.unembedding.logits(batch.states)[0]
    assert found.top[:LAYERS] == [[f"w{word}" for word in row] for row in logits[:, :4].argmax(-1).tolist()]
    assert found.top[LAYERS] == [f"w{word}" for word in batch.final[0, :4].argmax(-1).tolist()]
    p, log_q = batch.final[0, 2], logits[1, 2].log_softmax(-1)
    assert found.divergence[1][2] == pytest.approx(float((p * (p.log() - log_q)).sum()) / math.log(2), abs=1e-3)
    assert found.divergence[LAYERS] == [0.0] * 4
