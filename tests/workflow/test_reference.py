"""The committed outcome of a default run: whole, of these claims, and what a fresh run finds."""

import pandas as pd
import pytest
import yaml

from activation_descent import claims
from tests.conftest import ROOT

REFERENCE = ROOT / "results/reference"
FRESH = ROOT / "results/default/claims.csv"


def test_the_reference_judges_every_claim_by_its_present_rule():
    table = pd.read_csv(REFERENCE / "claims.csv", keep_default_na=False)
    assert tuple(table) == claims.COLUMNS
    written = yaml.safe_load((ROOT / "config/claims.yaml").read_text())["claims"]
    assert table["id"].tolist() == [claim["id"] for claim in written]
    for row, claim in zip(table.itertuples(), written, strict=True):
        supported, refuted = (claims.Condition.parse(claim[key]) for key in ("supported", "refuted"))
        assert row.criterion == f"supported if {supported}; refuted if {refuted}", row.id
        assert (row.statement, row.source, row.figure) == (claim["statement"], claim["source"], claim["figure"]), row.id


def test_the_readme_shows_figures_of_the_reference():
    text = (ROOT / "README.md").read_text()
    for figure in REFERENCE.glob("*.svg"):
        assert f"results/reference/{figure.name}" in text


@pytest.mark.skipif(not FRESH.exists(), reason="there is no default run in results/default (snakemake --cores all makes one)")
def test_a_fresh_default_run_has_the_same_verdicts():
    fresh, reference = (pd.read_csv(path).set_index("id")["verdict"] for path in (FRESH, REFERENCE / "claims.csv"))
    differ = fresh.compare(reference, result_names=("fresh", "reference")) if fresh.index.equals(reference.index) else None
    assert differ is not None, "results/default was judged by other claims"
    assert differ.empty, differ
