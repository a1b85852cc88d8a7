"""The committed outcome of a default run: whole, of these claims, and what a fresh run finds."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from activation_descent import claims
from tests.conftest import ROOT

REFERENCE = ROOT / "results/reference"
FIGURES = [str(path.relative_to(REFERENCE)) for path in sorted(REFERENCE.rglob("*.svg"))]
FRESH = ROOT / "results/default/claims.csv"
PROCESSOR = "GenuineIntel AVX512"  # on which the reference was made
NO_FRESH = pytest.mark.skipif(
    not FRESH.exists(), reason="there is no default run in results/default (snakemake --cores all makes one)"
)


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
    assert FIGURES
    assert sorted(re.findall(r"\(results/reference/(\S+\.svg)\)", text)) == FIGURES


def test_the_readme_counts_the_verdicts_of_the_reference():
    text = (ROOT / "README.md").read_text()
    n = pd.read_csv(REFERENCE / "claims.csv")["verdict"].value_counts()
    assert f"Of {n.sum()} claims the default run supports {n['supported']}" in text
    assert f"refutes {n['refuted']}, and leaves {n['inconclusive']} open" in text
    assert f"{n['supported']} supported, {n['refuted']} refuted, {n['inconclusive']} inconclusive" in text


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_of_the_reference_is_the_one_that_a_run_draws_at_its_place(smoke, figure):
    assert _title(REFERENCE / figure) == _title(smoke.folder / "results/smoke" / figure)


@NO_FRESH
def test_a_fresh_default_run_has_the_same_verdicts():
    """Where sums are rounded otherwise, trained models are others: claims may go between open and decided there, but none turns round."""
    fresh, reference = (pd.read_csv(path).set_index("id")["verdict"] for path in (FRESH, REFERENCE / "claims.csv"))
    assert fresh.index.equals(reference.index), "results/default was judged by other claims"
    differ = fresh.compare(reference, result_names=("fresh", "reference"))
    if _processor() != PROCESSOR:
        differ = differ[(differ != "inconclusive").all(axis=1)]
    assert differ.empty, differ.to_string()


@NO_FRESH
@pytest.mark.parametrize("figure", FIGURES)
def test_figures_and_claims_of_the_reference_are_of_one_run(figure):
    if FRESH.read_bytes() != (REFERENCE / "claims.csv").read_bytes():
        pytest.skip("results/default was made on another kind of machine, where last digits differ")
    assert (FRESH.parent / figure).read_bytes() == (REFERENCE / figure).read_bytes()


def _title(figure: Path) -> str:
    return re.search("<title>(.+)</title>", figure.read_text()).group(1)


def _processor() -> str:
    """Its maker and its widest vectors, by which the libraries choose how they sum."""
    maker = re.search(r"^vendor_id\s*: (\w+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{maker.group(1) if maker else 'unknown'} {torch.backends.cpu.get_cpu_capability()}"
