import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from activation_descent.errors import TrackingError
from activation_descent.tracking import Progress, track

OFFLINE = {"mode": "offline", "project": "activation-descent"}


def runs(folder):
    return sorted(path.name for path in (folder / "wandb").glob("offline-run-*"))


def inspect(run):
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(run)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_a_run_is_readable_and_a_rerun_replaces_it(tmp_path):
    for last in (0.5, 0.25):
        with track(OFFLINE, tmp_path, "regression", "train_regression", "v", {"steps": 2}) as log:
            log(1, {"loss": 1.0})
            log(2, {"loss": last})
        time.sleep(1.1)  # wandb names folders by the second
    assert len(runs(tmp_path)) == 1
    assert runs(tmp_path)[0].endswith("train_regression-v")
    text = json.dumps(inspect(tmp_path / "wandb" / runs(tmp_path)[0]))
    assert "activation-descent" in text
    assert "0.25" in text
    assert '"loss"' in text


def test_other_runs_are_left_alone(tmp_path):
    for variant in ("a", "a_b"):
        with track(OFFLINE, tmp_path, "s", "train_regression", variant, {}) as log:
            log(1, {"loss": 1.0})
    assert len(runs(tmp_path)) == 2


def test_disabled_writes_nothing(tmp_path):
    with track(OFFLINE | {"mode": "disabled"}, tmp_path, "s", "r", "v", {}) as log:
        log(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_an_error():
    folder = Path("/proc/self")
    with (
        pytest.raises(TrackingError, match="runs cannot be recorded in /proc/self/wandb"),
        track(OFFLINE, folder, "s", "r", "v", {}),
    ):
        pass


@pytest.fixture(params=["refused", "silent"])
def dead_server(request):
    """An address at which nobody listens, or at which somebody listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if request.param == "silent":
            yield address
    if request.param == "refused":
        yield address


def test_online_without_a_network_warns_once_and_goes_on(tmp_path, dead_server):
    script = """
from pathlib import Path
from activation_descent import tracking
from activation_descent.tracking import track
tracking.ONLINE_TIMEOUT = 5
with track({"mode": "online", "project": "p"}, Path("."), "s", "r", "v", {}) as log:
    log(1, {"loss": 1.0})
    print("science done")
"""
    environment = os.environ | {"WANDB_BASE_URL": dead_server, "WANDB_API_KEY": "0" * 40}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    assert "science done" in done.stdout
    assert done.stdout.count("wandb is out of reach") == 1
    assert time.monotonic() - start < 60
    assert len(runs(tmp_path)) == 1


def test_progress_says_step_loss_and_time_left(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 20.0, 22.0, 60.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = Progress("train v", 500, every=10.0)
    for step in (100, 200, 210, 500):
        progress(step, {"a": 1.0, "b": 2.0})
    # From step 100 at 10 s to step 200 at 20 s: 300 steps take 30 s more
    assert capsys.readouterr().out.splitlines() == [
        "train v: step 100 of 500, loss 1.50000",
        "train v: step 200 of 500, loss 1.50000, 30 s left",
        "train v: step 500 of 500, loss 1.50000",
    ]
