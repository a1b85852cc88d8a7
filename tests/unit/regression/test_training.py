import fcntl
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from activation_descent.errors import CheckpointError, DivergedError
from activation_descent.regression import learners, training, transformer
from activation_descent.regression.gradients import losses_and_gradients
from activation_descent.regression.learners import expected_loss, optimal_rate
from activation_descent.regression.tasks import linear_tasks
from activation_descent.seeding import generator

SETTINGS = training.Training(
    experiment="test",
    seeds=2,
    best_of=None,
    tasks="linear",
    input_dim=3,
    context_length=4,
    half_range=0.5,
    weight_scale=1.0,
    amplitude=(0.1, 5.0),
    shared_draw=False,
    dataset_size=None,
    target="label",
    ridge_penalty=0.1,
    layers=1,
    heads=1,
    tied=True,
    attention="linear",
    layer_norm=False,
    mlp=False,
    activation_clip=None,
    tokens="constructed",
    position_size=0,
    embedding_size=0,
    frozen_rate=None,
    steps=30,
    batch_size=64,
    learning_rate=0.001,
    decay_share=0.0,
    beta1=0.9,
    beta2=0.98,
    epsilon=1e-8,
    clip_norm=0.001,
    init_scale=0.002,
    snapshot_every=8,
)


class InterruptedRunError(Exception):
    pass


def kill_after(steps):
    def report(step, losses):
        if step >= steps:
            raise InterruptedRunError

    return report


def test_clipping_by_hand():
    long, short = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    assert torch.allclose(training.clip_by_global_norm(long, 1.0), torch.tensor([0.6, 0.8]))
    assert torch.allclose(training.clip_by_global_norm(short, 1.0), torch.tensor([0.3, 0.4]))


def test_first_adam_step_moves_each_weight_by_the_learning_rate_against_its_gradient():
    """Adam's first step is -lr * g / (|g| + eps) whatever the clip, so the clipped training step has a closed form."""
    settings = replace(SETTINGS, steps=1, snapshot_every=1)
    job = training.Job(settings, 0, "v")
    before = job.weights.clone()
    job.advance(range(1))
    for seed in range(settings.seeds):
        tasks = training.training_tasks(settings, 0, "v", seed, 0)
        _, (gradient,) = losses_and_gradients(before[seed, None], settings.architecture, [tasks])
        clipped = gradient * min(1.0, settings.clip_norm / gradient.norm().item())
        expected = before[seed] - settings.learning_rate * clipped / (clipped.abs() + settings.epsilon)
        assert torch.allclose(job.weights[seed], expected, atol=1e-7)


def test_snapshots_and_losses_stand_at_the_right_steps():
    trained = training.train(SETTINGS, 0, "v")
    assert trained.steps == [0, 8, 16, 24, 30]
    assert trained.snapshots.shape == (2, 5, 4 * 4 * 4)
    assert trained.losses[:, 0].isnan().all()
    assert trained.losses[:, 1:].isfinite().all()
    assert not torch.equal(trained.snapshots[0], trained.snapshots[1])


def test_training_is_the_same_each_time():
    first, second = training.train(SETTINGS, 0, "v"), training.train(SETTINGS, 0, "v")
    assert torch.equal(first.snapshots, second.snapshots)
    assert not torch.equal(first.snapshots, training.train(SETTINGS, 1, "v").snapshots)


def test_seeds_do_not_depend_on_how_many_there_are():
    one = training.train(replace(SETTINGS, seeds=1), 0, "v")
    assert torch.equal(one.snapshots[0], training.train(SETTINGS, 0, "v").snapshots[0])


@pytest.mark.parametrize("steps", [8, 24])
def test_a_killed_run_resumes_and_ends_with_the_same_weights(tmp_path, steps):
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InterruptedRunError):
        training.train(SETTINGS, 0, "v", checkpoint, report=kill_after(steps))
    assert checkpoint.exists()
    seen = []
    resumed = training.train(SETTINGS, 0, "v", checkpoint, report=lambda step, losses: seen.append(step))
    whole = training.train(SETTINGS, 0, "v")
    assert torch.equal(resumed.snapshots, whole.snapshots)
    assert torch.equal(resumed.losses.nan_to_num(), whole.losses.nan_to_num())
    assert seen == [8, 16, 24, 30]
    assert not checkpoint.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"settings": replace(SETTINGS, learning_rate=0.01)}, {"code": "other"}, {"root": 1}])
def test_a_checkpoint_of_another_run_is_not_used(tmp_path, change, capsys):
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InterruptedRunError):
        training.train(SETTINGS, 0, "v", checkpoint, report=kill_after(8))
    arguments = {"settings": SETTINGS, "root": 0, "variant": "v", "code": ""} | change
    fresh = training.train(**(arguments | {"checkpoint": None}))
    assert torch.equal(training.train(**arguments, checkpoint=checkpoint).snapshots, fresh.snapshots)
    assert "other settings or other code" in capsys.readouterr().out


def test_a_job_waits_while_another_trains_from_the_same_checkpoint(tmp_path, capsys):
    order = []
    with (tmp_path / "checkpoint.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a job does whose workflow was killed
        second = threading.Thread(
            target=lambda: (training.train(SETTINGS, 0, "v", tmp_path / "checkpoint.safetensors"), order.append("second"))
        )
        second.start()
        time.sleep(0.5)
        order.append("first")
    second.join(30)
    assert order == ["first", "second"]
    assert "waiting for it to end" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_named(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors cannot be read"):
        training.train(SETTINGS, 0, "v", checkpoint)


def test_a_diverging_run_stops_with_its_name_and_step(tmp_path):
    with pytest.raises(DivergedError, match=r"variant wild diverged: the loss of seed 0 is (nan|inf) between steps"):
        training.train(replace(SETTINGS, learning_rate=1e12), 0, "wild", tmp_path / "checkpoint.safetensors")
    assert not list(tmp_path.glob("*.lock"))


def test_what_is_saved_is_what_is_loaded(tmp_path):
    trained = training.train(SETTINGS, 0, "v")
    weights, config = tmp_path / "snapshots.safetensors", tmp_path / "config.json"
    training.save_trained(trained, SETTINGS, weights, config)
    loaded = training.load_trained(SETTINGS, weights)
    assert loaded.steps == trained.steps
    assert torch.equal(loaded.snapshots, trained.snapshots)
    with pytest.raises(CheckpointError, match="shape"):
        training.load_trained(replace(SETTINGS, seeds=3), weights)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        training.load_trained(SETTINGS, weights)


def test_training_reaches_the_closed_form_optimum_without_a_compiler(tmp_path, monkeypatch):
    """A small problem to its end, eager mode only: with no program on the PATH nothing can be compiled."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    settings = replace(SETTINGS, seeds=1, steps=1500, batch_size=512, snapshot_every=500)
    trained = training.train(settings, 0, "v")
    tasks = linear_tasks(generator(0, "test", "training", "v", "evaluate"), 20000, 3, 4, 0.5, dtype=float)
    prediction = transformer.predict(trained.snapshots[0, -1].double(), tasks.tokens, settings.architecture)
    loss = 0.5 * (prediction - tasks.target).square().mean().item()
    optimum = expected_loss(optimal_rate(3, 4, 0.5), 3, 4, 0.5)
    assert loss == pytest.approx(optimum, rel=0.06)  # a task's loss has 1.6 times its mean as deviation: 5 SE


VARIANTS = {
    "two heads, untied": {"layers": 2, "heads": 2, "tied": False},
    "softmax": {"attention": "softmax"},
    "norm and perceptron": {"layers": 2, "layer_norm": True, "mlp": True},
    "classic tokens": {"tokens": "classic", "position_size": 4, "layers": 2, "tied": False, "attention": "softmax_first"},
    "sine": {"tasks": "sine", "input_dim": 1, "half_range": 5.0, "embedding_size": 8},
    "fixed data": {"dataset_size": 128},
    "ridge targets": {"target": "ridge"},
    "as many weights as fill no vector": {"input_dim": 10, "context_length": 10},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_network_resumes_with_the_same_bytes(tmp_path, name):
    settings = replace(SETTINGS, steps=6, snapshot_every=3, **VARIANTS[name])
    with pytest.raises(InterruptedRunError):
        training.train(settings, 0, "v", tmp_path / "checkpoint.safetensors", report=kill_after(3))
    resumed = training.train(settings, 0, "v", tmp_path / "checkpoint.safetensors")
    whole = training.train(settings, 0, "v")
    assert torch.equal(resumed.snapshots, whole.snapshots)
    assert not torch.equal(whole.snapshots[:, 0], whole.snapshots[:, -1])


def test_the_best_starts_are_kept_in_their_order():
    losses = torch.tensor([[9.0, 0.3], [9.0, 0.5], [9.0, 0.1], [9.0, 0.4]], dtype=torch.float64)
    snapshots = torch.arange(4.0)[:, None, None].expand(4, 2, 5)
    kept = training.best(training.Trained([0, 10], snapshots, losses, losses[:, -1]), 2)
    assert kept.snapshots[:, 0, 0].tolist() == [0, 2]
    assert kept.losses[:, -1].tolist() == [0.3, 0.1]
    assert kept.start_losses.tolist() == [0.3, 0.5, 0.1, 0.4]


def test_best_of_trains_more_starts_than_it_keeps(tmp_path):
    settings = replace(SETTINGS, best_of=4, steps=16)
    few, all_four = training.train(settings, 0, "v"), training.train(replace(settings, best_of=None, seeds=4), 0, "v")
    order = all_four.losses[:, -1].argsort()[:2].sort().values
    assert torch.equal(few.snapshots, all_four.snapshots[order])
    assert torch.equal(few.start_losses, all_four.losses[:, -1])
    weights = tmp_path / "snapshots.safetensors"
    training.save_trained(few, settings, weights, tmp_path / "config.json")
    read = training.load_trained(settings, weights)
    assert read.steps == few.steps
    assert torch.equal(read.start_losses, few.start_losses)
    assert torch.equal(read.snapshots, few.snapshots)


def test_a_fixed_set_comes_round_again_and_fresh_tasks_do_not():
    fixed, fresh = training.Job(replace(SETTINGS, dataset_size=128), 0, "v"), training.Job(SETTINGS, 0, "v")
    first, second = fixed.tasks(0, 0), fixed.tasks(0, 1)  # two batches of 64
    assert not torch.equal(first.tokens, second.tokens)
    assert torch.equal(fixed.tasks(0, 2).tokens, first.tokens)
    assert not torch.equal(fixed.tasks(1, 0).tokens, first.tokens)
    kept = fresh.tasks(0, 0).tokens.clone()
    assert not torch.equal(fresh.tasks(0, 2).tokens, kept)


def test_frozen_attention_is_a_gradient_step_and_stays_one():
    settings = replace(SETTINGS, frozen_rate=0.01, steps=3, snapshot_every=3, **VARIANTS["sine"])
    trained = training.train(settings, 0, "v")
    for vector in trained.snapshots[:, -1]:
        parameters = transformer.unpack(vector, settings.architecture)
        a, b = transformer.products(parameters["attention"][0, 0])
        assert torch.equal(a, torch.diag(torch.tensor([1.0] * 7 + [0.0])))
        assert b.abs().sum().item() == pytest.approx(0.01)
        assert b[-1, -1].item() == pytest.approx(-0.01)
    assert not torch.equal(trained.snapshots[:, 0], trained.snapshots[:, 1])  # the embedding learns


def test_targets_are_the_answers_of_their_models():
    tasks = training.training_tasks(SETTINGS, 0, "v", 0, 0)
    rate = optimal_rate(3, 4, 0.5)
    for target, model in (
        ("descent", learners.gradient_descent_model(tasks, [rate])),
        ("ridge", learners.ridge_model(tasks, 0.1)),
    ):
        other = training.training_tasks(replace(SETTINGS, target=target), 0, "v", 0, 0)
        assert torch.equal(other.tokens, tasks.tokens)
        assert torch.allclose(other.target, learners.predict(model, tasks), atol=1e-6)
    matrix = replace(SETTINGS, target="matrix")
    one, two = training.training_tasks(matrix, 0, "v", 0, 0), training.training_tasks(matrix, 0, "v", 1, 3)
    maps = []
    for batch in (one, two):  # the same matrix for every batch: recover it from the answers
        sums = learners.gradient_descent_model(batch, [1.0])
        features = torch.einsum("at,bt->tab", batch.query, sums).flatten(1).double()
        maps.append(torch.linalg.lstsq(features, batch.target.double()[:, None]).solution)
    assert torch.allclose(maps[0], maps[1], atol=1e-3)
    assert maps[0].abs().max() > 0.1


def test_learning_rate_by_hand():
    decaying = replace(SETTINGS, steps=10, decay_share=0.4, learning_rate=1.0)
    rates = [training.rate_at(decaying, step) for step in range(10)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert {training.rate_at(SETTINGS, step) for step in range(30)} == {0.001}


@pytest.mark.parametrize("cuts", [(0, 2, 5), (0, 1, 4, 5)], ids=str)
@pytest.mark.parametrize("name", ["one linear layer", *VARIANTS])
def test_shards_of_the_starts_put_together_are_the_bytes_of_one_job(name, cuts, tmp_path):
    settings = replace(SETTINGS, steps=6, snapshot_every=3, best_of=5, **VARIANTS.get(name, {}))
    whole = training.train(settings, 0, "v")
    shards = [training.train(settings, 0, "v", starts=range(*pair)) for pair in pairwise(cuts)]
    for shard, trained in enumerate(shards):
        training.save_trained(trained, settings, tmp_path / f"{shard}", tmp_path / "shard.json")
    read = [training.load_trained(settings, tmp_path / f"{i}", end - start) for i, (start, end) in enumerate(pairwise(cuts))]
    files = {"whole": whole, "merged": training.merge(read, settings.seeds)}
    for file, trained in files.items():
        training.save_trained(trained, settings, tmp_path / file, tmp_path / f"{file}.json")
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_checkpoint_of_other_starts_is_not_used(tmp_path, capsys):
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InterruptedRunError):
        training.train(SETTINGS, 0, "v", checkpoint, report=kill_after(8), starts=range(1))
    training.train(SETTINGS, 0, "v", checkpoint, starts=range(2))
    assert "training from the start" in capsys.readouterr().out
