import importlib.util
import shutil

import pytest

from activation_descent import provenance


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package to edit, and a script that uses `learners` and through it `tasks`."""
    copy = tmp_path / provenance.PACKAGE
    shutil.copytree(provenance.package_root(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    script = tmp_path / "script.py"
    script.write_text("from activation_descent.regression.learners import predict\n")
    monkeypatch.setattr(provenance, "package_root", lambda: copy)

    def digest():
        for cached in (provenance.source_digest, provenance._tree, provenance._imports):
            cached.cache_clear()
        return provenance.source_digest(str(script))

    yield copy, digest
    digest()
    for cached in (provenance.source_digest, provenance._tree, provenance._imports):
        cached.cache_clear()


def append(path, text):
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("module", ["regression/learners.py", "regression/tasks.py", "regression/__init__.py", "__init__.py"])
def test_an_edit_to_what_is_used_changes_the_digest(package, module):
    copy, digest = package
    before = digest()
    append(copy / module, "\nEDITED = 1\n")
    assert digest() != before


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("regression/tasks.py", "\n# a comment\n\n"),
        ("regression/figures/one_layer.py", "\nEDITED = 1\n"),  # a room that the script does not use
        ("claims.py", "\nEDITED = 1\n"),
        ("regression/learners.py", ""),  # a touch
    ],
)
def test_comments_touches_and_other_rooms_do_not(package, module, text):
    copy, digest = package
    before = digest()
    append(copy / module, text)
    assert digest() == before


def test_a_template_counts(tmp_path, package):
    copy, digest = package
    script = tmp_path / "script.py"
    script.write_text("from activation_descent.page import render\n")
    before = digest()
    append(copy / "page/page.html.j2", "\n")
    assert digest() != before


def test_the_package_is_found_without_being_imported():
    assert provenance.package_root().name == provenance.PACKAGE
    assert importlib.util.find_spec(provenance.PACKAGE) is not None


def test_what_ran_names_versions_and_machine(tmp_path):
    ran = provenance.what_ran(tmp_path)
    assert ran["torch"].startswith("2.13.0")
    assert ran["commit"] == "unknown (not a git checkout)"
    assert "cores" in ran["processor"]
    assert ran["memory"].endswith("GiB")
