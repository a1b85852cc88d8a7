"""Training of small language models that differ in their seed alone, side by side: one product serves them all.

Each reads its own documents and is, but for rounding, what `pretraining.Job.advance` would make of it alone. Gradients of normalisation and
of the loss are written out, and the probabilities of all words are not kept from the forward to the backward pass.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_descent import checkpointing
from activation_descent.adam import Adam
from activation_descent.errors import DivergedError
from activation_descent.finetuning.momentum import make_job
from activation_descent.language.corpus import Mixture
from activation_descent.language.network import Attend, Tables, rotate, softmax_attention, turning
from activation_descent.language.pretraining import Job, Pretraining
from activation_descent.language.world import World

POSITIONS_AT_ONCE = 256  # whose probabilities of all words stay in the processor's cache

Stream = Float[Tensor, "network token feature"]
Report = Callable[[int, Mapping[str, float]], None]


def train(
    variant: str,
    settings: Pretraining,
    world: World,
    mixture: Mixture,
    root: int,
    seeds: int,
    checkpoint: Path | None = None,
    code: str = "",
    report: Report = lambda step, values: None,
) -> list[Job]:
    """Train one variant from several seeds, each for `settings.steps` steps, whatever it learns by then.

    Stages last `stage_steps` steps, the last one to the end; the learning rate falls to zero over the last `decay_steps`.

    Args:
        checkpoint, code, report: as in `pretraining.train`; the report's value is the mean loss over seeds and a block of steps.

    Raises:
        DivergedError: if a loss is no longer finite.
        CheckpointError: if the checkpoint is damaged.
    """
    with checkpointing.alone(checkpoint):
        jobs = [make_job(variant, settings, world, mixture, root, seed) for seed in range(seeds)]
        networks = join(jobs)
        blocks = math.ceil(settings.steps / settings.block)
        losses = torch.full((blocks,), torch.nan, dtype=torch.float64)
        described = {"root": root, "variant": variant, "seeds": seeds, "code": code, "world": asdict(world)}
        identity = json.dumps(described | {"settings": [*map(asdict, (settings, mixture))]}, sort_keys=True)
        state = {"losses": losses} | networks.adam.state()
        done = checkpointing.restore(checkpoint, identity, state)
        for block in range(blocks):
            steps = range(block * settings.block, min((block + 1) * settings.block, settings.steps))
            if block >= done:
                losses[block] = sum(_advance(networks, step).mean().item() for step in steps) / len(steps)
                if not losses[block].isfinite():
                    raise DivergedError(f"training of the embedded model {variant} diverged before step {steps.stop}")
                checkpointing.save(checkpoint, identity, state, block + 1)
            report(steps.stop, {"training_loss": float(losses[block])})
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    return jobs


@dataclass(frozen=True)
class Networks:
    """
    Attributes:
        weights: by their name in one network, with a first axis for the network; the jobs' own are views of them.
        attends: of each layer, for the heads of all networks.
    """

    jobs: Sequence[Job]
    weights: Mapping[str, Tensor]
    attends: Sequence[Attend]
    adam: Adam

    @property
    def parameters(self) -> list[Tensor]:
        """In all of them the networks, or their heads, are the first axis."""
        return self.adam.parameters


def join(jobs: Sequence[Job]) -> Networks:
    """Put jobs of the same settings side by side. Afterwards they are trained together, and no longer by their own `advance`."""
    settings = jobs[0].settings
    weights = {}
    for name in dict(jobs[0].network.named_parameters()):
        parts = [job.network.get_parameter(name) for job in jobs]
        weights[name] = _shared(torch.stack([part.data for part in parts]), parts)
    attends: list[Any] = [softmax_attention] * settings.layers
    own: list[Tensor] = []
    if jobs[0].attends is not None:
        attends = [_of_all_heads(layer, settings) for layer in zip(*(job.attends for job in jobs), strict=True)]
        own = [parameter for attend in attends for parameter in attend.parameters()]
    parameters = [*weights.values(), *own]
    betas = (settings.beta1, settings.beta2)
    return Networks(jobs, weights, attends, Adam(parameters, betas, settings.weight_decay))


def _shared(whole: Tensor, parts: Sequence[nn.Parameter]) -> Tensor:
    """A leaf of which the parts are views from now on."""
    for part, view in zip(parts, whole, strict=True):
        part.data = view
    return whole.requires_grad_()


def _of_all_heads(modules: Sequence[nn.Module], settings: Pretraining) -> nn.Module:
    """One module for the heads of all networks, of which the parameters of the networks' own are views from now on."""
    whole = type(modules[0])(len(modules) * settings.heads, settings.hidden_size // settings.heads)
    tensors = whole.state_dict()  # the module's own memory
    for name, tensor in tensors.items():
        tensor.copy_(torch.cat([module.state_dict()[name] for module in modules]))
    for name, _ in whole.named_parameters():
        for module, view in zip(modules, tensors[name].chunk(len(modules)), strict=True):
            module.get_parameter(name).data = view
    return whole


def _advance(networks: Networks, step: int) -> Float[Tensor, " network"]:
    """One step of every network; returns the losses before it."""
    jobs, settings = networks.jobs, networks.jobs[0].settings
    stage = min(step // settings.stage_steps, len(settings.stages) - 1)
    losses = next_token_losses(networks, torch.stack([job.rows(step, stage) for job in jobs]))
    losses.sum().backward()  # networks share no weight
    _clip(networks.parameters, len(jobs), settings.clip_norm)
    networks.adam.step(jobs[0].rate(step, settings.steps - settings.decay_steps))
    return losses.detach()


def _clip(parameters: Sequence[Tensor], networks: int, largest: float) -> None:
    """`torch.nn.utils.clip_grad_norm_` for each network."""
    gradients = [parameter.grad.view(networks, -1) for parameter in parameters]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g, dim=1) for g in gradients]), dim=0)
    scale = (largest / (norm + 1e-6)).clamp(max=1)[:, None]
    for gradient in gradients:
        gradient.mul_(scale)


# The forward pass of `language.network`, for several networks


def next_token_losses(networks: Networks, tokens: Int[Tensor, "network row token"]) -> Float[Tensor, " network"]:
    """Mean cross-entropy of every token after the first, in nats: `network.next_token_loss` of each network on its own rows."""
    settings, weights = networks.jobs[0].settings, networks.weights
    number, rows, length = tokens.shape
    epsilon = networks.jobs[0].network.config.rms_norm_eps
    words = weights["model.embed_tokens.weight"]  # network word feature
    every = tokens + words.shape[1] * torch.arange(number)[:, None, None]
    x = F.embedding(every.flatten(1), words.flatten(0, 1))
    for layer, attend in enumerate(networks.attends):
        own = {name.split(".", 3)[3]: w for name, w in weights.items() if name.startswith(f"model.layers.{layer}.")}
        q, k, v, o = (own[f"self_attn.{name}_proj.weight"] for name in "qkvo")
        projection = torch.cat([turning(torch.cat([q, k], 1), 2 * settings.heads), v], 1)
        projected = _read(x, projection, own["input_layernorm.weight"], epsilon)
        x = torch.baddbmm(x, _attended(projected, attend, rows, settings.heads, networks.jobs[0].tables), o.mT)
        gate_up = torch.cat([own["mlp.gate_proj.weight"], own["mlp.up_proj.weight"]], 1)
        gate, up = _read(x, gate_up, own["post_attention_layernorm.weight"], epsilon).chunk(2, dim=-1)
        x = torch.baddbmm(x, F.silu(gate) * up, own["mlp.down_proj.weight"].mT)
    last = _Normalised.apply(x, epsilon).unflatten(1, (rows, length))[:, :, :-1].flatten(1, 2)
    return _Surprise.apply(last, words * weights["model.norm.weight"][:, None], tokens[:, :, 1:].flatten(1))


def _read(
    x: Stream, weight: Float[Tensor, "network out feature"], gain: Float[Tensor, "network feature"], epsilon: float
) -> Float[Tensor, "network token out"]:
    """A product with what a normalisation gives; its gain is part of the weight."""
    return torch.bmm(_Normalised.apply(x, epsilon), (weight * gain[:, None]).mT)


def _attended(projected: Float[Tensor, "network token parts"], attend: Attend, rows: int, heads: int, tables: Tables) -> Stream:
    """What all heads say. Attention sees the heads of all networks beside one another, behind an axis for the row."""
    number, tokens, width = projected.shape[0], projected.shape[1], projected.shape[2] // 5
    plain, turned, value = projected.view(number * rows, tokens // rows, -1).split([2 * width, 2 * width, width], dim=-1)
    rotated = rotate(plain, turned, tables).view(number, rows, tokens // rows, 2, heads, -1)
    q, k = rotated.permute(3, 1, 0, 4, 2, 5).flatten(2, 3)  # row head token feature
    v = value.reshape(number, rows, tokens // rows, heads, -1).permute(1, 0, 3, 2, 4).flatten(1, 2)
    said = attend(q, k, v).unflatten(1, (number, heads))
    return said.permute(1, 0, 3, 2, 4).reshape(number, tokens, width)


class _Normalised(torch.autograd.Function):
    """Root-mean-square normalisation without a gain, `y = s x` with `s = (mean x^2 + epsilon)^(-1/2)`."""

    @staticmethod
    def forward(ctx: Any, x: Stream, epsilon: float) -> Stream:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1]
        scale = mean_square.add_(epsilon).rsqrt_()
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Stream) -> tuple[Stream, None]:
        y, scale = ctx.saved_tensors  # dy/dx = s (1 - y y^T / features)
        along = (gradient * y).mean(-1, keepdim=True)
        return torch.addcmul(gradient, y, along, value=-1).mul_(scale), None


class _Surprise(torch.autograd.Function):
    """Mean cross-entropy of each network over positions, from what the unembedding reads and from the unembedding."""

    @staticmethod
    def forward(
        ctx: Any, states: Stream, words: Float[Tensor, "network word feature"], targets: Int[Tensor, "network token"]
    ) -> Float[Tensor, " network"]:
        by_states, by_words, total = torch.empty_like(states), torch.zeros_like(words), torch.zeros(len(states))
        for network, unembedding in enumerate(words):
            pieces = (tensor[network].split(POSITIONS_AT_ONCE) for tensor in (states, by_states, targets))
            for state, by_state, target in zip(*pieces, strict=True):
                error = torch.mm(state, unembedding.T).softmax(1)  # probabilities; minus what came, the gradient by the logits
                came = target[:, None]
                total[network] -= error.gather(1, came).log_().sum()
                error.scatter_add_(1, came, torch.full_like(came, -1, dtype=error.dtype))
                torch.mm(error, unembedding, out=by_state)
                by_words[network].addmm_(error.T, state)
        number = targets.shape[1]
        ctx.save_for_backward(by_states.div_(number), by_words.div_(number))
        return total / number

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, " network"]) -> tuple[Tensor, Tensor, None]:
        by_states, by_words = ctx.saved_tensors
        return by_states * gradient[:, None, None], by_words * gradient[:, None, None], None
