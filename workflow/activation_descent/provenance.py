"""Where results come from: a digest of the code that made them, and the machine and versions that ran it."""

import ast
import hashlib
import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "activation_descent"
ALIAS = r"alias\(name='([\w.]+)'"  # in a syntax tree
REPORTED_PACKAGES = ("snakemake", "torch", "numpy", "numba", "scipy", "pandas", "matplotlib", "wandb")


def package_root() -> Path:
    """The folder that holds the package, found without importing it."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed; run pip install -e . in the project's folder")
    return Path(spec.origin).parent


@cache
def source_digest(script: str) -> str:
    """A digest of a script's library code: every module of the package that it imports, directly or through others.

    Snakemake watches a rule's script but not what the script imports; with this digest among a rule's params an edit to a library
    function reruns the rules that use it. What counts is the syntax tree: a touch, a comment or a reformatting changes nothing.

    Args:
        script: path of the rule's script, whose own text Snakemake watches.
    """
    base, found = package_root().parent, dict[str, str]()
    waiting = sorted(_imports(Path(script)))
    while waiting:
        module = waiting.pop()
        path = None if module in found else _path(module, base)
        if path is None:
            continue
        found[module] = hashlib.sha256(_tree(path).encode()).hexdigest()
        waiting += sorted(_imports(path))
    return hashlib.sha256("\n".join(f"{name} {found[name]}" for name in sorted(found)).encode()).hexdigest()[:16]


@cache
def _tree(path: Path) -> str:
    """What counts of a file, as text."""
    text = path.read_text(encoding="utf-8")
    return ast.dump(ast.parse(text)) if path.suffix == ".py" else text


@cache
def _imports(path: Path) -> frozenset[str]:
    """Names inside the package that a file may import; files beside it that it reads by name (templates) count as imports."""
    if path.suffix != ".py":
        return frozenset()
    # From the text of the tree: walking 120 trees takes longer than all the rest of a start of Snakemake
    names: set[str] = set()
    for listed in re.findall(r"Import\(names=\[(.*?)\]\)", tree := _tree(path)):
        names |= {*re.findall(ALIAS, listed)}
    for module, listed in re.findall(r"ImportFrom\(module='([\w.]+)', names=\[(.*?)\], level=", tree):
        names |= {module, *(f"{module}.{name}" for name in re.findall(ALIAS, listed))}
    names |= {f"{PACKAGE}/{template}" for template in re.findall(r"Constant\(value='([^']*\.j2)'", tree)}
    ours = {name for name in names if name.split(".")[0].split("/")[0] == PACKAGE}
    packages = {".".join(name.split(".")[:depth]) for name in ours for depth in range(1, name.count(".") + 1)}
    return frozenset(ours | packages)


@cache
def _path(module: str, base: Path) -> Path | None:
    if "/" in module:
        return base / module if (base / module).is_file() else None
    path = base.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def what_ran(folder: Path) -> dict[str, str]:
    """Commit, versions and machine of this run, for the page.

    Args:
        folder: a folder inside the project's repository.
    """
    return {
        "commit": _commit(folder),
        "python": platform.python_version(),
        **{package: _version(package) for package in REPORTED_PACKAGES},
        "system": f"{platform.system()} {platform.release()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit(folder: Path) -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with uncommitted changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
