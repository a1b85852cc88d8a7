"""How a prediction changes from layer to layer, and whether a lens sees what the model makes of a change.

Predictions are compared in Aitchison's geometry of probabilities, weighted by w (Belrose et al. 2023, section 4; their code):

    clr_w(x) = x - sum_v w_v x_v,      <x, y>_w = sum_v w_v clr_w(x)_v clr_w(y)_v

**Progress**: cos_w(c_{l+1} - c_l, c_L - c_l) of the centred log-probabilities c through one shared lens, w = p_L; 1 if each layer moves
straight to the end. Beside it the same with another token's move. Descriptive: frozen random layers make progress of .4 to .65, too.

**Stimulus and response**: one token's update by block l is replaced by another document's. The stimulus is how the lens at layer l + 1
changes, the response how the model's own prediction changes; their cosine, w the mean of both predictions, says whether the lens
reads what the model reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from activation_descent.lens.readout import Batch, Unembedding, log_probabilities
from activation_descent.lens.states import Recorded, Subject, Tokens
from activation_descent.lens.translators import Translators

LogProbabilities = Float[Tensor, "*batch word"]


def aitchison(x: LogProbabilities, y: LogProbabilities, w: Float[Tensor, "*batch word"]) -> Float[Tensor, "*batch"]:
    """<x, y>_w, the weighted inner product of two changes of log-probabilities; any constant added to one drops out."""
    return (w * x * y).sum(-1) - (w * x).sum(-1) * (w * y).sum(-1)


def aitchison_cosine(x: LogProbabilities, y: LogProbabilities, w: Float[Tensor, "*batch word"]) -> Float[Tensor, "*batch"]:
    """Their cosine, in [-1, 1]; zero where one of them is constant."""
    length = (aitchison(x, x, w).clamp(min=0) * aitchison(y, y, w).clamp(min=0)).sqrt()
    return torch.where(length > 0, aitchison(x, y, w) / length.clamp(min=torch.finfo(x.dtype).tiny), 0)


@torch.no_grad()
def progress(
    shared: Translators, unembedding: Unembedding, batch: Batch, final: Float[Tensor, "seed token feature"]
) -> dict[str, Float[Tensor, "seed step"]]:
    """Means over tokens for each step from h_l to h_{l+1}, all but the last, which ends where it must.

    Args:
        final: h_L.

    Returns:
        progress; progress_null, with the move of a token half the batch away.
    """
    layers, tokens = batch.states.shape[1:3]
    found = {name: batch.states.new_empty(batch.states.shape[0], layers - 1) for name in ("progress", "progress_null")}
    ends = unembedding.logits(final[:, None])[:, 0].log_softmax(-1)
    through = shared(batch.states)
    for step in range(layers - 1):
        before, after = unembedding.logits(through[:, step : step + 2]).log_softmax(-1).unbind(1)
        move, way = after - before, ends - before
        found["progress"][:, step] = aitchison_cosine(move, way, batch.final).mean(1)
        found["progress_null"][:, step] = aitchison_cosine(move.roll(tokens // 2, 1), way, batch.final).mean(1)
    return found


@torch.no_grad()
def steps_between(translators: Translators, unembedding: Unembedding, batch: Batch) -> dict[str, Float[Tensor, "seed step"]]:
    """How predictions through translators of each layer differ from layer to layer; the last step ends at the model's own.

    Returns:
        step_kl: E KL(prediction after || before), in bits; step_improved: share of tokens that come nearer to p_L by KL.
    """
    seeds, layers, tokens, _ = batch.states.shape
    through, target = translators(batch.states), batch.final
    found = {name: torch.empty(seeds, layers) for name in ("step_kl", "step_improved")}
    logs = torch.empty(seeds, 2, tokens, target.shape[-1])  # before and after a step
    logs[:, 1] = target.clamp(min=1e-30).log()
    for step in reversed(range(layers)):
        for seed, _, log_q in log_probabilities(through[:, step : step + 1], unembedding):
            logs[seed, 0] = log_q[0]
        before, after = logs.unbind(1)
        found["step_kl"][:, step] = (after.exp() * (after - before)).sum(-1).mean(1) / np.log(2)
        found["step_improved"][:, step] = ((target * (after - before)).sum(-1) > 0).float().mean(1)
        logs[:, 1] = before.clone()
    return found


# Interventions


@torch.no_grad()
def stimulus_response(
    subject: Subject,
    translators: dict[str, Translators],
    tokens: Tokens,
    recorded: Recorded,
    position: Int[Tensor, "seed row"],
) -> dict[str, Float[Tensor, "seed block"]]:
    """Aitchison cosine of stimulus and response, mean over rows, for each block but the last, whose stimulus is its response.

    Args:
        translators: by name; each is read at the layer after the block.
        recorded: h_0 to h_L of the tokens.
        position: the token of each row whose update is replaced by that of the row before it.
    """
    seeds, _, rows, _, _ = recorded.shape
    unembedding = subject.unembedding
    place = (torch.arange(seeds)[:, None], torch.arange(rows)[None], position)
    found = {name: torch.empty(seeds, subject.layers - 1) for name in translators}
    control = unembedding.logits(recorded[:, -1][place][:, None])[:, 0].log_softmax(-1)
    updates = recorded.diff(dim=1).roll(1, 2)
    for block in range(subject.layers - 1):
        states = recorded[:, block + 1].clone()
        states[place] = recorded[:, block][place] + updates[:, block][place]
        final = subject.resume(tokens, block + 1, states)
        treated = unembedding.logits(final[place][:, None])[:, 0].log_softmax(-1)
        weight = (control.exp() + treated.exp()) / 2
        at = slice(block + 1, block + 2)
        for name, own in translators.items():
            pair = [own(x[place][:, None], at) for x in (recorded[:, block + 1], states)]
            before, after = (unembedding.logits(x)[:, 0].log_softmax(-1) for x in pair)
            found[name][:, block] = aitchison_cosine(after - before, treated - control, weight).mean(1)
    return found


# One document to look at


@dataclass(frozen=True)
class Trajectory:
    """Predictions for one document through translators of each layer, the model's own last.

    Attributes:
        read: the document's words up to each position.
        following: the word that came next.
        top: the most probable word of each layer at each position.
        divergence: KL(p_L || prediction) in bits, 0 for the model's own.
    """

    read: list[str]
    following: list[str]
    top: list[list[str]]
    divergence: list[list[float]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self)


@torch.no_grad()
def trajectory(
    translators: Translators,
    unembedding: Unembedding,
    batch: Batch,
    tokens: Int[Tensor, " token"],
    words: Sequence[str],
    length: int,
) -> Trajectory:
    """The first `length` predictions of the first document of the first seed.

    Args:
        tokens: the document.
        words: what each token is called.
    """
    through = translators(batch.states)[:1, :, :length]
    log_q = unembedding.of(0).logits(through)[0].log_softmax(-1)
    final = batch.final[0, :length]
    apart = torch.special.xlogy(final, final).sum(-1) - (final * log_q).sum(-1)
    top = [*log_q.argmax(-1).tolist(), final.argmax(-1).tolist()]
    named = [[words[word] for word in row] for row in top]
    bits = [*(apart / np.log(2)).clamp(min=0).tolist(), [0.0] * length]
    return Trajectory(
        [words[token] for token in tokens[:length].tolist()],
        [words[token] for token in tokens[1 : length + 1].tolist()],
        named,
        [[round(value, 4) for value in row] for row in bits],
    )
