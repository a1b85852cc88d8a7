import fcntl
import math
import threading
import time
from dataclasses import replace

import pytest
import torch

from activation_descent.errors import CheckpointError, DivergedError
from activation_descent.regression import training
from activation_descent.regression.learners import expected_loss, optimal_rate
from activation_descent.regression.tasks import linear_tasks
from activation_descent.regression.transformer import one_layer_gradient
from activation_descent.seeding import generator

SETTINGS = training.Training(
    experiment="test",
    seeds=2,
    input_dim=3,
    context_length=4,
    half_range=0.5,
    weight_scale=1.0,
    steps=30,
    batch_size=64,
    learning_rate=0.001,
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
        _, gradient = one_layer_gradient(before[seed], training.training_tasks(settings, 0, "v", seed, 0))
        clipped = gradient * min(1.0, settings.clip_norm / gradient.norm().item())
        expected = before[seed] - settings.learning_rate * clipped / (clipped.abs() + settings.epsilon)
        assert torch.allclose(job.weights[seed], expected, atol=1e-7)


def test_snapshots_and_losses_stand_at_the_right_steps():
    trained = training.train(SETTINGS, 0, "v")
    assert trained.steps == [0, 8, 16, 24, 30]
    assert trained.snapshots.shape == (2, 5, 4, 4, 4)
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
    loss, _ = one_layer_gradient(trained.snapshots[0, -1].double(), tasks)
    optimum = expected_loss(optimal_rate(3, 4, 0.5), 3, 4, 0.5)
    assert loss.item() == pytest.approx(optimum, rel=0.06)  # a task's loss has 1.6 times its mean as deviation: 5 SE
    assert math.isfinite(loss.item())
