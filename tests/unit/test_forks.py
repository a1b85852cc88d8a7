import json
import subprocess
import sys

SCRIPTS = {
    "loaded": "import sys, os, json; print(json.dumps(['colorsys' in sys.modules, __name__, os.environ['OMP_NUM_THREADS']]))",
    "fine": "import time; time.sleep(0.02)",
    "exit": "raise SystemExit(3)",
    "error": "import sys; sys.excepthook = lambda *error: print('said:', error[1]); raise ValueError('no')",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}
# Eight threads at once, as Snakemake's jobs; the guard, because a fork imports the program that asks for it
PROGRAM = """
import json
from concurrent.futures import ThreadPoolExecutor
from activation_descent import forks

if __name__ == "__main__":
    forks.load(["colorsys", "a_module_that_there_is_not"])
    with ThreadPoolExecutor(8) as threads:
        print(json.dumps(list(threads.map(forks.run, {scripts}))), flush=True)
"""
WATCHING = """
import os, time
from contextlib import contextmanager
from activation_descent import forks

@contextmanager
def watch(process):
    time.sleep(0.5)
    os.kill(process, 0)
    assert not os.path.exists({folder} + "/written")
    yield

if __name__ == "__main__":
    assert forks.run({folder} + "/script.py", watch) == 0
"""


def codes(folder, names):
    """The exit codes of scripts, and what they printed."""
    for name, text in SCRIPTS.items():
        (folder / f"{name}.py").write_text(text)
    program = folder / "program.py"
    program.write_text(PROGRAM.replace("{scripts}", json.dumps([str(folder / f"{name}.py") for name in names])))
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True, timeout=300)
    *printed, last = done.stdout.splitlines()
    return json.loads(last), printed


def test_a_script_is_a_main_program_that_finds_its_libraries_loaded(tmp_path):
    assert codes(tmp_path, ["loaded"]) == ([0], [json.dumps([True, "__main__", "1"])])


def test_each_end_has_its_exit_code_and_an_error_goes_to_the_scripts_hook(tmp_path):
    assert codes(tmp_path, ["fine", "exit", "error", "killed"]) == ([0, 3, 1, -9], ["said: no"])


def test_a_script_waits_until_it_is_watched(tmp_path):
    """However soon it ends: the watcher finds its process alive, and what the script writes not yet written."""
    (tmp_path / "script.py").write_text(f"open({str(tmp_path / 'written')!r}, 'w').close()")
    (tmp_path / "program.py").write_text(WATCHING.replace("{folder}", repr(str(tmp_path))))
    subprocess.run([sys.executable, str(tmp_path / "program.py")], check=True, timeout=300)
    assert (tmp_path / "written").exists()


def test_many_at_once_are_told_apart(tmp_path):
    names = ["exit", "fine", "killed", "fine", "fine"] * 20
    assert codes(tmp_path, names)[0] == [3, 0, -9, 0, 0] * 20
