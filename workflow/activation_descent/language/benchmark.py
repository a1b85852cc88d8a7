"""Tokens per second of a training step, and what reusing the demonstrations' keys and values saves."""

import multiprocessing
import resource
import time
from collections.abc import Callable

from activation_descent.language import STUDY
from activation_descent.language.corpus import Mixture
from activation_descent.language.models import LanguageModel
from activation_descent.language.pretraining import Job, Pretraining, as_library_model
from activation_descent.language.prompts import Speaker, next_logits
from activation_descent.language.tasks import own_tasks
from activation_descent.language.world import make_tokenizer, make_world
from activation_descent.records import Row

QUERIES = 64
BLOCK = 4  # steps between two looks at the clock


def measure(
    settings: Pretraining, mixture: Mixture, held_out_share: float, size: str, demonstrations: int, repeats: int
) -> list[Row]:
    """Records of one size, measured in a process of its own, whose peak memory is then the size's alone.

    Of each time the fastest of `repeats` repeats counts, which other work on the machine disturbed least (as `timeit` advises).
    """
    with multiprocessing.get_context("fork").Pool(1) as process:
        return process.apply(_measure, (settings, mixture, held_out_share, size, demonstrations, repeats))


def _measure(
    settings: Pretraining, mixture: Mixture, held_out_share: float, size: str, demonstrations: int, repeats: int
) -> list[Row]:
    world = make_world(0, held_out_share)
    job = Job(settings, world, mixture, 0, size)
    speed = training_speed(job, repeats)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model = LanguageModel(
        f"embedded:{size}", as_library_model(job.network, settings), make_tokenizer(world, settings.context_length)
    )
    saving = prefix_times(Speaker.of(model, own_tasks(world, mixture.noise, 0, QUERIES)[0]), demonstrations, repeats)
    base = {"study": STUDY, "experiment": "benchmark", "variant": size}
    return [base | {"metric": metric, "value": value} for metric, value in (speed | {"peak_memory": memory} | saving).items()]


def training_speed(job: Job, repeats: int) -> dict[str, float]:
    """Thousands of tokens per second and core: of whole training steps, and of drawing their documents alone."""
    tokens = BLOCK * job.settings.rows * job.settings.context_length / 1e3
    whole, drawn = [], []
    for repeat in range(repeats + 1):
        steps = range(repeat * BLOCK, (repeat + 1) * BLOCK)
        whole.append(_seconds(lambda steps=steps: job.advance(steps, -1, job.settings.steps)))
        drawn.append(_seconds(lambda steps=steps: [job.rows(step, -1) for step in steps]))
    return {"training_speed": tokens / min(whole[1:]), "corpus_speed": tokens / min(drawn[1:])}


def prefix_times(speaker: Speaker, demonstrations: int, repeats: int) -> dict[str, float]:
    """Milliseconds to score the queries behind one prompt, with its keys and values reused and without; and how far logits differ."""
    model, task = speaker.model, speaker.task
    shown = task.demonstrations[:demonstrations]
    asked, _ = speaker.queries(task.evaluation[:QUERIES])
    labels = [speaker.labels[example.label] for example in shown]
    prompt = speaker.prompt(shown, labels, max(map(len, asked))).tokens
    reused, repeated = [], []
    for _ in range(repeats + 1):
        reused.append(_seconds(lambda: next_logits(model, model.encode_prefix(prompt), asked)))
        repeated.append(_seconds(lambda: next_logits(model, prompt, asked)))
    difference = next_logits(model, model.encode_prefix(prompt), asked) - next_logits(model, prompt, asked)
    return {
        "prefix_reused_time": min(reused[1:]) * 1e3,
        "prefix_repeated_time": min(repeated[1:]) * 1e3,
        "prefix_logit_difference": difference.abs().max().item(),
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
