"""Milliseconds per step of fitting tuned lenses, beside the authors' library where it is installed (`pip install -e '.[oracle]'`).

Both fit lenses of every layer of one GPT-2 with random weights by the published optimiser, on the same recorded states, turn by turn in
one process, so that whatever else the machine does slows both. The library's loop is the one of its training script.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from activation_descent.lens import STUDY
from activation_descent.lens.readout import Batch
from activation_descent.lens.states import Network, batch_of
from activation_descent.lens.translators import Fit, Name, Reader, Translators, fit
from activation_descent.records import Row

SHAPES = {"small": (64, 6, 434, 512), "wide": (256, 4, 4000, 512)}  # width, layers, words, tokens
WIDTH_OF_HEAD = 32
LENGTH = 64  # predictions of a row


def measure(repeats: int) -> Iterator[Row]:
    """Records of each shape: the time of a step, the fastest of `repeats` counts, and how far losses differ."""
    for variant, (width, layers, words, tokens) in SHAPES.items():
        base = {"study": STUDY, "experiment": "benchmark", "variant": variant}
        network = _network(width, layers, words)
        own, library = race(network, tokens, repeats)
        yield base | {"learner": "own", "metric": "lens_step_time", "value": 1e3 * min(seconds for seconds, _ in own[1:])}
        if library:
            fastest = 1e3 * min(seconds for seconds, _ in library[1:])
            yield base | {"learner": "tuned_lens", "metric": "lens_step_time", "value": fastest}
            apart = max(abs(loss - other) for (_, loss), (_, other) in zip(own, library, strict=True))
            yield base | {"learner": "tuned_lens", "metric": "lens_loss_difference", "value": apart}


def race(network: torch.nn.Module, tokens: int, steps: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Seconds and loss of each step, ours and the library's, one after the other; of the library none where it is not installed."""
    subject = Network(network, "benchmark")
    words, width = subject.unembedding.weight.shape[1:]
    rows = torch.randint(words, (1, tokens // LENGTH, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    batch = batch_of(subject, rows)
    theirs = library_steps(network, batch, steps)
    own: list[tuple[float, float]] = []
    library: list[tuple[float, float]] = []
    started = [0.0]

    def stream(step: int) -> Iterator[Batch]:
        if theirs is not None:
            library.append(next(theirs))
        started[0] = time.perf_counter()
        yield batch

    def report(step: int, losses: Mapping[Name, float]) -> None:
        own.append((time.perf_counter() - started[0], losses["tuned"]))

    reader = Reader(Translators.initial("tuned", 1, subject.layers, width, np.random.default_rng(0)))
    fit({"tuned": reader}, subject.unembedding, stream, Fit("sgd", 1.0, steps), report)
    return own, library


def _network(width: int, layers: int, words: int) -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    heads = width // WIDTH_OF_HEAD
    config = GPT2Config(
        vocab_size=words, n_positions=LENGTH + 1, n_embd=width, n_layer=layers, n_head=heads, bos_token_id=0, eos_token_id=0
    )
    network = GPT2LMHeadModel(config).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
        parameter.requires_grad_(False)
    return network


def library_steps(network: torch.nn.Module, batch: Batch, steps: int) -> Iterator[tuple[float, float]] | None:
    """Steps of the authors' library: seconds and loss of each; nothing where it is not installed."""
    try:
        from tuned_lens.nn.lenses import TunedLens
    except ImportError:
        return None
    return _library_steps(TunedLens.from_model(network), batch, steps)


def _library_steps(lens: Any, batch: Batch, steps: int) -> Iterator[tuple[float, float]]:
    parameters = [parameter for parameter in lens.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    final = batch.final[0].log()
    for _ in range(steps):
        start, total = time.perf_counter(), 0.0
        optimiser.zero_grad()
        for layer, states in enumerate(batch.states[0]):
            predicted = lens(states, layer).log_softmax(-1)
            loss = torch.sum(final.exp() * (final - predicted), dim=-1).mean()
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        yield time.perf_counter() - start, total / len(batch.states[0])
