"""A real checkpoint from a folder, with real data from a folder, through the rules of the language study and of the audit."""

import os
from pathlib import Path

import pandas as pd
import pytest

from activation_descent import records
from tests.conftest import ROOT, copy_project

SHARED = ROOT.parent / "shared"
MODEL = Path(os.environ.get("ACTIVATION_DESCENT_MODEL", SHARED / "weights/tinystories-instruct-3m-sodachat"))
DATA = Path(os.environ.get("ACTIVATION_DESCENT_DATA", SHARED / "data"))


@pytest.mark.skipif(not (MODEL.is_dir() and DATA.is_dir()), reason=f"there is no model in {MODEL} or no data in {DATA}")
def test_a_real_checkpoint_without_in_context_learning_fails_the_gate(tmp_path):
    project = copy_project(tmp_path)
    (project.folder / "overlay.yaml").write_text((ROOT / "tests/config/folder.yaml").read_text())
    run = project.folder / "results/folder/language"
    project.snakemake(
        "--cores",
        "2",
        "--configfile",
        "overlay.yaml",
        "--",
        "results/folder/language/figures/folder.svg",
        "results/folder/language/folder/statistics.csv",
        "results/folder/finetuning/folder/statistics.csv",
        "results/folder/finetuning/figures/folder_controls.svg",
        ACTIVATION_DESCENT_MODEL=str(MODEL),
        ACTIVATION_DESCENT_DATA=str(DATA),
    )
    gate = records.read(run / "folder/gate.csv")
    passed = gate[gate["metric"] == "gate_passed"].set_index("task")["value"]
    assert set(passed.index) == {"sst2", "sst5", "mr", "subj", "agnews", "cb", "all"}
    statistics = records.read(run / "folder/statistics.csv").groupby("metric")["value"].mean()
    assert statistics["gate_passed"] == passed["all"] == 0
    if MODEL.name == "tinystories-instruct-3m-sodachat":
        # specification: SST-2 .63 without demonstrations, .51 to .60 with four
        accuracy = pd.read_csv(run / "folder/accuracy.csv")
        sst2 = accuracy[(accuracy["task"] == "sst2") & (accuracy["labelling"] == "gold") & (accuracy["metric"] == "accuracy")]
        means = sst2.groupby("demonstrations")["value"].mean()
        assert means[0] == pytest.approx(0.63, abs=0.12)
        assert means[4] == pytest.approx(0.55, abs=0.12)
        assert not passed["sst2"]
    audited = records.read(project.folder / "results/folder/finetuning/folder/statistics.csv")
    means = audited.groupby("metric")["value"].mean()
    assert set(audited["task"].unique()) == {"sst2", "subj", "sst5", "all"}
    assert means["exact_gain"] == pytest.approx(1, abs=0.01)
    assert abs(means["gaussian_similarity"]) < 0.05
    assert means["gate_passed"] == 0
    assert (
        means["published_over_random"] > means["published_over_floor"]
    )  # random updates are below what normalisation alone gives
