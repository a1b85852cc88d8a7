"""The heads of language models: their weights under `heads`, and what they add to the stream on real prompts under `readings`.

Updates are read in the residual stream, `u = sum_i a_i v_i W_O`. The energy's gradient is taken at the normalised state that the head's
queries are made of, rotation included; the loss is the model's own, of every next token of the prompt, and its gradient that by what the
attention adds. A token that can see nothing but itself does not count.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from activation_descent.attention import STUDY, heads
from activation_descent.attention.circuits import Circuits, circuits_of_model
from activation_descent.attention.readings import Head, Moments, add, steps
from activation_descent.finetuning.attention import attention_calls
from activation_descent.finetuning.controls import untrained
from activation_descent.language.models import LanguageModel, keep_input, keep_output
from activation_descent.language.prompts import Speaker
from activation_descent.records import Row
from activation_descent.seeding import generator

SCAN, READINGS, CONTROLS = "heads", "readings", "controls"
PRESCALED = ("opt",)  # families whose queries are divided by sqrt(d) before the call


@dataclass(frozen=True)
class Scan:
    """What heads are tried with.

    Attributes:
        bases: draws of every null.
        level: of significance, at which a head counts as above the null.
        untrained: networks that have learned nothing, of the same shape.
        draws: of prompts for each task; as many again to fit rates on.
        prompts: of a draw, each with its own demonstrations.
        demonstrations: in a prompt, at most.
    """

    bases: int
    level: float
    untrained: int
    draws: int
    prompts: int
    demonstrations: int


@dataclass(frozen=True)
class Prompts:
    """Prompts of one task, padded at their end, where causal attention makes padding harmless; the query's label is the last token."""

    tokens: Int[Tensor, "prompt token"]
    lengths: Int[Tensor, " prompt"]

    @property
    def asked(self) -> Bool[Tensor, "prompt asked"]:
        """Tokens that have a next one."""
        return torch.arange(self.tokens.shape[1] - 1) < self.lengths[:, None] - 1


def draw_prompts(speaker: Speaker, scan: Scan, rng: np.random.Generator, purpose: str) -> Prompts:
    """
    Args:
        purpose: "tune" or "evaluate", the pool of the queries.
    """
    task, rows = speaker.task, []
    pool = task.tuning if purpose == "tune" else task.evaluation
    queries = [pool[i] for i in rng.permutation(len(pool))[: scan.prompts]]
    for query in queries:
        shown = [task.demonstrations[i] for i in rng.permutation(len(task.demonstrations))[: scan.demonstrations]]
        (asked,), _ = speaker.queries([query])
        prompt = speaker.prompt(shown, [speaker.labels[example.label] for example in shown], len(asked) + 1)
        rows.append([*prompt.tokens, *asked, speaker.labels[query.label]])
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    return Prompts(torch.tensor([row + [0] * (longest - len(row)) for row in rows]), lengths)


def heads_on(model: LanguageModel, prompts: Prompts) -> Iterator[tuple[int, int, Head]]:
    """Layer, head (from 1) and what the head did on the prompts."""
    seen: dict[tuple[str, int], Tensor] = {}
    for parameter in model.network.parameters():  # once would do; a model may come frozen
        parameter.requires_grad_(True)
    with ExitStack() as hooks:

        def watch(module: nn.Module, hook: Callable) -> None:
            hooks.callback(module.register_forward_hook(hook, with_kwargs=True).remove)

        for layer in range(model.layers):
            attention = model._attention(layer)
            watch(model.blocks[layer], keep_input(seen, ("state", layer)))
            watch(attention.get_submodule(model.layout.projections[0]), keep_input(seen, ("input", layer)))
            watch(attention.get_submodule(model.layout.output), keep_output(seen, ("added", layer)))
        with attention_calls(model) as calls:
            logits = model.logits(prompts.tokens)
    asked = prompts.asked
    loss = F.cross_entropy(logits[:, :-1][asked], prompts.tokens[:, 1:][asked], reduction="sum")
    added = [seen["added", layer] for layer in range(model.layers)]
    slopes = torch.autograd.grad(loss, added, retain_graph=True)
    shape = (*prompts.tokens.shape, -1)  # OPT projects flattened tokens in some versions of transformers
    for layer in range(model.layers):
        call = calls[layer]
        scale = model.width_of_head**-0.5 if model.family in PRESCALED else call.scale
        output = model.output_weight(layer).detach().unflatten(0, (model.heads, -1))
        visible = (call.mask > -1)[:, 0]
        pulled = call.scale * call.weights.detach() @ call.key.detach()  # the gradient of log sum exp by the query
        for head in range(model.heads):
            cotangent = torch.zeros_like(pulled)
            cotangent[:, head] = pulled[:, head]
            (energy,) = torch.autograd.grad(call.query, seen["input", layer], cotangent, retain_graph=True)
            yield (
                layer + 1,
                head + 1,
                Head(
                    call.logits[:, head].detach(),
                    visible,
                    scale * call.key[:, head].detach().square().sum(-1) / 2,
                    call.value[:, head].detach() @ output[head],
                    seen["state", layer].detach().reshape(shape),
                    energy.reshape(shape),
                    -slopes[layer].reshape(shape),
                ),
            )


def moments_on(model: LanguageModel, prompts: Prompts) -> dict[tuple[int, int], Moments]:
    """What rate and R^2 of each head follow from."""
    kept = F.pad(prompts.asked, (0, 1))
    kept[:, 0] = False
    found = {}
    for layer, head, did in heads_on(model, prompts):
        elsewhere = did.update.roll((1, did.update.shape[1] // 2), dims=(0, 1))
        found[layer, head] = Moments.of(did.update, steps(did, elsewhere), kept)
    return found


def reading_records(speakers: Sequence[Speaker], scan: Scan, root: int, variant: str) -> Iterator[Row]:
    """For each task, draw, head and reading: R^2 at the rate that fits the head's tuning prompts of all tasks, and the cosine of the update
    with what is predicted, whatever the rate."""
    model = speakers[0].model

    def prompts(speaker: Speaker, purpose: str, draw: int) -> Prompts:
        rng = generator(root, STUDY, READINGS, speaker.task.name, purpose, draw)
        return draw_prompts(speaker, scan, rng, purpose)

    tuned: dict[tuple[int, int], Moments] = {}
    for speaker in speakers:
        for draw in range(scan.draws):
            for place, own in moments_on(model, prompts(speaker, "tune", draw)).items():
                tuned[place] = add(tuned[place], own) if place in tuned else own
    for speaker in speakers:
        for draw in range(scan.draws):
            base = {"study": STUDY, "experiment": READINGS, "variant": variant, "seed": draw, "task": speaker.task.name}
            for (layer, head), own in moments_on(model, prompts(speaker, "evaluate", draw)).items():
                for reading in own.product:
                    row = base | {"layer": layer, "head": head, "reading": reading}
                    rate = tuned[layer, head].rate(reading)
                    yield row | {"metric": "reading_r_squared", "value": own.r_squared(reading, rate)}
                    yield row | {"metric": "reading_cosine", "value": own.cosine(reading)}


# Weights


def scan_records(
    circuits: Circuits, bases: int, rng: np.random.Generator, variant: str, control: str, seed: int = 0
) -> Iterator[Row]:
    """The score of every head with its parts, the Hopfield tie, and both held against their nulls.

    Args:
        bases: draws of every null.
        control: whose heads: "trained", "untrained", "by_hand".
    """
    base = {"study": STUDY, "experiment": SCAN, "variant": variant, "seed": seed, "control": control}
    m, b = heads.sides(circuits)
    score, tie = heads.score(m, b), heads.hopfield_tie(circuits)
    null, tie_null = heads.null_maxima(circuits, bases, rng)
    numbers = {
        **{name: value.numpy() for name, value in heads.parts_of(m, b).items()},
        "head_score": score.numpy(),
        "head_p": heads.adjusted_p(score, null),
        "hopfield_tie": tie.numpy(),
        "hopfield_tie_p": heads.adjusted_p(tie.abs(), tie_null),
    }
    for metric, values in numbers.items():
        for layer, head, value in zip(circuits.layer, circuits.head, values.tolist(), strict=True):
            yield base | {"layer": layer, "head": head, "metric": metric, "value": value}
    whole = {"null_score": float(np.quantile(null, 0.95)), "null_tie": float(np.quantile(tie_null, 0.95))}
    if len(circuits) > 1:
        crossed = heads.crossed_maxima(circuits, bases, rng)
        whole["crossed_score"] = float(np.quantile(crossed, 0.95))
        whole["crossed_p"] = (1 + (crossed >= score.max().item()).sum()) / (1 + len(crossed))
    for metric, value in whole.items():
        yield base | {"layer": 0, "head": 0, "metric": metric, "value": float(value)}


def model_records(model: LanguageModel, scan: Scan, root: int, variant: str) -> Iterator[Row]:
    """The scan of a language model and of untrained networks of its shape."""

    def stream(purpose: str, seed: int = 0) -> np.random.Generator:
        return generator(root, STUDY, SCAN, variant, purpose, seed)

    yield from scan_records(circuits_of_model(model), scan.bases, stream("null"), variant, "trained")
    for seed in range(scan.untrained):
        circuits = circuits_of_model(untrained(model, stream("initialise", seed)))
        yield from scan_records(circuits, scan.bases, stream("untrained_null", seed), variant, "untrained", seed)


def checkpoint_records(circuits: Circuits, scan: Scan, root: int, variant: str) -> Iterator[Row]:
    """The scan of weights alone."""
    return scan_records(circuits, scan.bases, generator(root, STUDY, SCAN, variant, "null"), variant, "trained")


def control_records(one_layer: Float[Tensor, "seed matrix width width"], root: int, shape: tuple[int, int, int]) -> Iterator[Row]:
    """Heads that must score high: by hand under random rotations, linear layers that were trained on regression, and tied values.

    Args:
        one_layer: the regression study's W_Q, W_K, W_V, W_P of each seed. Linear attention does not tell (M, B) from (-M, -B), so that the
            sign is that of the construction's units, in which M is positive on average (von Oswald et al. 2022, A.3).
        shape: heads, width and rank of those by hand.
    """
    made = heads.hand_made(generator(root, STUDY, SCAN, CONTROLS, "initialise"), *shape)
    normal = torch.from_numpy(generator(root, STUDY, SCAN, CONTROLS, "tied").standard_normal(made.query.shape))
    tied = replace(made, query=normal, value=1.7 * made.key, output=normal.mT)
    found = {
        "by_hand_score": heads.score(*heads.sides(made)),
        "one_layer_score": heads.score(*heads.sides(linear_circuits(one_layer))),
        "tied_tie": heads.hopfield_tie(tied),
    }
    for metric, values in found.items():
        for seed, value in enumerate(values.tolist()):
            yield {"study": STUDY, "experiment": SCAN, "variant": CONTROLS, "seed": seed, "metric": metric, "value": value}


def linear_circuits(layers: Float[Tensor, "seed matrix width width"]) -> Circuits:
    """One-head linear layers as heads, each with the sign of the construction's units."""
    query, key, value, output = layers.double().unbind(1)
    sign = (query * key).sum((1, 2)).sign()[:, None, None]
    return Circuits(sign * query, key, sign * value, output, [1] * len(layers), [*range(1, len(layers) + 1)], "linear")
