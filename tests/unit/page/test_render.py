import pandas as pd
import pytest

from activation_descent import claims, records
from activation_descent.page import costs, figures, render

ROW = dict.fromkeys(claims.COLUMNS, "") | {
    "id": "c",
    "study": "regression",
    "statement": "it holds <always>",
    "statistic": "loss_ratio (one_layer)",
    "value": 1.00234567,
    "ci_low": float("nan"),
    "ci_high": float("inf"),
    "n": 3,
    "verdict": "refuted",
    "gate": "construction_loss_ratio >= 1: 1 passed; untrained_loss_ratio >= 1.5: 1.2 FAILED",
    "figure": "regression/figures/a.svg",
}
RULE = {
    "id": "c",
    "study": "regression",
    "statistic": {"variant": "one_layer", "metric": "loss_ratio"},
    "supported": "<= 1",
    "refuted": "> 1",
    "threshold": "a table",
    "gate": [
        {"variant": "one_layer", "metric": "construction_loss_ratio", "must_be": ">= 1"},
        {"variant": "by_hand", "metric": "untrained_loss_ratio", "must_be": ">= 1.5"},
    ],
}
DOCUMENT = {
    "studies": {"regression": "Regression: what networks do", "language": "Language: nobody asked"},
    "answer": [{"thesis": "it holds", "evidence": [{"claim": "c", "speaks": "for", "finding": "it is {value:.1f}"}]}],
    "claims": [RULE],
}
FOUND = {
    ("regression", "one_layer", "loss_ratio"): "regression/one_layer/statistics.csv",
    ("regression", "one_layer", "construction_loss_ratio"): "regression/one_layer/statistics.csv",
    ("regression", "by_hand", "untrained_loss_ratio"): "regression/by_hand.csv",
}
COMMAND = render.Command("results/mine", "--cores all --configfile mine.yaml")


@pytest.fixture
def html(tmp_path):
    figure = tmp_path / "regression/figures/a.svg"
    figure.parent.mkdir(parents=True)
    figure.write_text("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 30 20'><title>One &amp; all</title></svg>")
    jobs = {"train_regression.tsv": "90.0\t200.0\t60.0", "judge_claims.tsv": "1.0\t100.0\t0.5"}
    for name, row in jobs.items():
        (tmp_path / name).write_text(f"s\tmax_rss\tcpu_time\n{row}\n")
    table = pd.DataFrame([ROW])
    return render.render(
        "mine",
        table,
        DOCUMENT,
        FOUND,
        COMMAND,
        figures.read_figures([str(figure)], tmp_path / "index.html", table, {"regression/figures/a.svg": ["regression/a.csv"]}),
        ["regression/a.csv", "regression/deep/b.csv"],
        "run: mine",
        {"python": "3"},
        costs.read_costs([str(tmp_path / name) for name in jobs], ["regression"]),
    )


def test_a_claim_opens_to_its_rule_controls_figure_records_and_commands(html):
    assert "it holds &lt;always&gt;" in html
    assert "loss ratio 1.0023" in html
    assert "[–, inf]" in html
    assert "a table" in html
    assert "<li>untrained_loss_ratio &gt;= 1.5: 1.2 FAILED</li>" in html
    assert 'href="#regression/figures/a.svg"' in html
    assert '<a href="regression/by_hand.csv">regression/by_hand.csv</a>, <a href="regression/one_layer/statistics.csv">' in html
    table = "results/mine/regression/one_layer/statistics.csv"
    assert f"<code>snakemake results/mine/claims.csv --forcerun {table} --cores all --configfile mine.yaml</code>" in html
    assert f"<code>snakemake {table} --forceall --cores all --configfile mine.yaml</code>" in html


def test_what_a_run_left_out_is_said_and_not_linked():
    claim = render.explain(ROW | {"gate": ""}, RULE, {}, COMMAND)
    assert claim["records"] == []
    assert claim["measure"] is claim["train"] is None
    assert claim["controls"] == []
    assert claim["picture"] is None
    assert claim["meaning"] == records.METRICS["loss_ratio"].meaning


def test_figures_are_files_beside_the_page(html):
    assert html.count('<img loading="lazy" src="regression/figures/a.svg" alt="One &amp; all" width="30" height="20">') == 2
    assert 'href="regression/a.csv"' in html
    assert "data:image" not in html


def test_the_answer_and_the_counts_come_from_the_verdicts(html):
    assert "<strong>What does not hold:</strong> that it holds. " in html
    assert '<a href="#c">it is 1.0</a>' in html
    assert "<strong>1</strong> refuted" in html
    assert "<strong>0</strong> supported" in html
    assert "nobody asked" not in html


def test_costs_are_shown_by_study_and_by_rule(html):
    assert "2 jobs took 60 s of CPU time, 91 s of" in html
    assert "<strong>What to cut first:</strong>\n<code>train_regression</code>" in html
    assert html.count('<td class="figure">99 %</td>') == 2
    assert "regression.published.seeds" in html


def test_tables_are_found_by_what_they_hold(tmp_path):
    head = "study,experiment,variant,seed,step,metric,value\n"
    (tmp_path / "a").mkdir()
    (tmp_path / "a/s.csv").write_text(head + "s,e,v,0,0,loss,1\ns,e,v,1,0,loss,2\ns,e,w,0,0,loss,1\n")
    (tmp_path / "t.csv").write_text(head + "s,e,v,0,0,accuracy,1\n")
    found = render.find_records([str(tmp_path / "a/s.csv"), str(tmp_path / "t.csv")], tmp_path / "index.html")
    assert found == {("s", "v", "loss"): "a/s.csv", ("s", "w", "loss"): "a/s.csv", ("s", "v", "accuracy"): "t.csv"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (12.3, "12 s"), (119.0, "119 s"), (120.0, "2.0 min"), (7199.0, "120.0 min"), (9e3, "2.5 h")],
)
def test_durations_are_in_the_unit_that_a_reader_thinks_in(seconds, words):
    assert render.duration(seconds) == words


def test_records_are_listed_by_folder():
    assert render.by_folder(["b/x.csv", "a.csv", "b/a.csv"]) == {".": ["a.csv"], "b": ["b/a.csv", "b/x.csv"]}
