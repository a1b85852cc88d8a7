"""Whatever stands in a configuration, in a claims file or in a table: it is run, or it is one sentence."""

import copy
import os
from functools import lru_cache
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snakemake.exceptions import WorkflowError

from activation_descent import records
from activation_descent.errors import RecordsError
from tests.conftest import ROOT

RULES = ROOT / "workflow/rules"
STUDIES = ("regression", "language", "finetuning", "attention", "attention_efficient", "reasoning", "lens")
PATIENT = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
NAMES = st.sampled_from(
    ["one_layer", "softmax_1", "default", "own", "linear", "regression", "", "no such thing", "-", "*", "1e-3"]
)
# Without numbers below 1e-308, which a process that has trained no longer knows
LEAVES = st.none() | st.booleans() | st.integers(-3, 1000) | st.floats(allow_subnormal=False) | NAMES | st.text(max_size=5)
JUNK = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=5)


@lru_cache
def shipped(name):
    return yaml.load((ROOT / name).read_text(), yaml.CSafeLoader)


@lru_cache
def common():
    """The code of the rules that is no rule."""
    files = [RULES / "common.smk", *(RULES / f"lists/{study}.smk" for study in STUDIES)]
    return compile("\n".join(file.read_text() for file in files), "common.smk", "exec")


def collect(pattern, **wildcards):
    """Snakemake's, for the names alone."""
    from snakemake.io import expand

    return expand(pattern, **wildcards)


def parsed(config, claims=None):
    """What the workflow makes of a configuration, by the code of its rules: all that comes before the first rule."""
    workflow = SimpleNamespace(source_path=lambda path: str((RULES / path).resolve()), configfiles=[], overwrite_configfiles=[])
    documents = {"config/claims.yaml": claims} if claims is not None else {}

    def read_yaml(path):
        name = os.path.relpath(path, ROOT)
        return copy.deepcopy(documents[name] if name in documents else shipped(name))

    names = {"config": config, "workflow": workflow, "WorkflowError": WorkflowError, "os": os, "collect": collect}
    names["read_yaml"] = read_yaml
    exec(common(), names)
    for study in ("toy_problem" if study == "attention_efficient" else study for study in STUDIES):
        names[f"{study}_records"](), names[f"{study}_costs"]()
    for figure in names["FIGURES"]:
        names["shown_in_figure"](SimpleNamespace(figure=figure))


def changed(data, document):
    """A document with one entry replaced, left out or added, anywhere in it."""
    document = copy.deepcopy(document)
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 5)) == 0:
            break
        place = place[key]
    match data.draw(st.sampled_from(["replace", "leave out", "add"])):
        case "replace":
            place[key] = data.draw(JUNK)
        case "leave out":
            del place[key]
        case "add" if isinstance(place, dict):
            place[data.draw(NAMES)] = data.draw(JUNK)
        case "add":
            place.append(data.draw(JUNK))
    return document


def one_sentence(run):
    """Run it, or see one sentence of what is wrong."""
    sentence = "fine"
    try:
        run()
    except WorkflowError as error:
        sentence = str(error)
    assert len(sentence.splitlines()) == 1


def test_the_shipped_files_are_fine():
    parsed(copy.deepcopy(shipped("config/config.yaml")))
    with pytest.raises(WorkflowError):
        parsed(copy.deepcopy(shipped("config/config.yaml")) | {"seed": "none"})
    with pytest.raises(WorkflowError):
        parsed(copy.deepcopy(shipped("config/config.yaml")), {"claims": "none"})


@PATIENT
@given(st.data())
def test_any_change_of_the_configuration_runs_or_is_one_sentence(data):
    few = {"claims": shipped("config/claims.yaml")["claims"][:3]}
    one_sentence(lambda: parsed(changed(data, shipped("config/config.yaml")), few))


@PATIENT
@given(st.data())
def test_any_change_of_a_claim_runs_or_is_one_sentence(data):
    document = shipped("config/claims.yaml")
    few = data.draw(st.integers(0, len(document["claims"]) - 3))
    document = {**document, "claims": document["claims"][few : few + 3]}
    one_sentence(lambda: parsed(copy.deepcopy(shipped("config/config.yaml")), changed(data, document)))


TABLE = (
    b"study,experiment,variant,seed,step,metric,value\n"
    b"regression,one_layer,one_layer,0,0,loss_ratio,1.0\n"
    b"regression,one_layer,one_layer,1,0,loss_ratio,0.5\n"
)


@PATIENT
@given(start=st.integers(0, len(TABLE)), length=st.integers(0, 60), junk=st.binary(max_size=20))
def test_a_table_with_any_damage_is_read_or_is_one_sentence(tmp_path_factory, start, length, junk):
    path = tmp_path_factory.mktemp("table") / "table.csv"
    path.write_bytes(TABLE[:start] + junk + TABLE[start + length :])
    sentence = str(path)
    try:
        records.read(path)
    except RecordsError as error:
        sentence = str(error)
    assert str(path) in sentence
