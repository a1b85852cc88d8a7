import re
from pathlib import Path

import pytest
import yaml

from activation_descent.page import costs

ROOT = Path(__file__).parents[3]
HEAD = "s\th:m:s\tmax_rss\tcpu_time\n"
JOBS = {
    "train_regression/a.tsv": "2.5\t0:00:02\t100.5\t2.0\n",
    "train_regression/b.tsv": "7.5\t0:00:07\t300.0\t6.0\n",
    "compare_finetuning/models/x.tsv": "3.0\t0:00:03\t50.0\t1.5\n",
    "judge_claims.tsv": "9.0\t0:00:09\t-\t-\n",
}


@pytest.fixture
def table(tmp_path):
    for name, row in JOBS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(HEAD + row)
    return costs.read_costs([str(tmp_path / name) for name in JOBS], ["regression", "finetuning"])


def test_costs_are_read_dearest_first(table):
    assert table["cpu"].tolist() == [6.0, 2.0, 1.5, 0.0]  # a job that Snakemake never looked at costs none
    assert table["study"].tolist() == ["regression", "regression", "finetuning", costs.JUDGING]
    assert table["variant"].tolist() == ["b", "a", "models · x", ""]
    assert table["memory"].tolist() == [300.0, 100.5, 50.0, 0.0]


def test_costs_add_up_by_rule_and_by_study(table):
    rules = costs.summarise(table, "rule").set_index("name")
    assert rules.index.tolist() == ["train_regression", "compare_finetuning", "judge_claims"]
    trained = rules.loc["train_regression"]
    assert (trained["jobs"], trained["cpu_sum"], trained["cpu_max"]) == (2, 8.0, 6.0)
    assert (trained["seconds_sum"], trained["seconds_max"], trained["memory_max"]) == (10.0, 7.5, 300.0)
    assert trained["share"] == pytest.approx(8 / 9.5)
    studies = costs.summarise(table, "study")
    assert studies["name"].tolist() == ["regression", "finetuning", costs.JUDGING]
    assert studies["share"].sum() == pytest.approx(1)


def test_what_to_cut_first_is_what_takes_half_of_the_time(table):
    rules = costs.summarise(table, "rule")
    assert costs.cut_first(rules) == ["train_regression"]
    assert costs.cut_first(rules.assign(share=[0.4, 0.35, 0.25])) == ["train_regression", "compare_finetuning"]


def test_a_run_without_times_has_no_shares(table):
    assert costs.summarise(table.assign(cpu=0.0), "rule")["share"].sum() == 0


def test_what_makes_a_rule_cheaper_is_a_key_of_the_configuration_and_a_rule_of_the_workflow():
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    rules = {
        rule for path in (ROOT / "workflow/rules").glob("*.smk") for rule in re.findall(r"^rule (\w+):", path.read_text(), re.M)
    }
    assert set(costs.KNOBS) <= rules
    for keys in costs.KNOBS.values():
        for key in keys:
            place = config
            for step in key.split("."):
                place = place[step]
