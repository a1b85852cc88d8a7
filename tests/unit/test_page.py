import pandas as pd

from activation_descent import claims, page

CLAIM = dict.fromkeys(claims.COLUMNS, "") | {
    "id": "c",
    "statement": "it holds <always>",
    "statistic": "loss_ratio (one_layer)",
    "value": 1.00234567,
    "ci_low": float("nan"),
    "ci_high": float("inf"),
    "n": 3,
    "verdict": "refuted",
    "figure": "study/figures/a.svg",
}


def render(tmp_path):
    figure = tmp_path / "study/figures/a.svg"
    figure.parent.mkdir(parents=True)
    figure.write_text("<svg xmlns='http://www.w3.org/2000/svg'><metadata><title>One &amp; all</title></metadata></svg>")
    table = pd.DataFrame([CLAIM])
    figures = page.read_figures([str(figure)], tmp_path / "index.html", table)
    costs = [{"job": "train · a", "seconds": 1.0, "cpu": float("nan"), "memory": 2.0}]
    return page.render("mine", table, {"c": "a table"}, figures, ["study/a.csv"], "run: mine", {"python": "3"}, costs)


def test_claims_figures_and_costs_are_shown_and_text_is_escaped(tmp_path):
    html = render(tmp_path)
    assert "it holds &lt;always&gt;" in html
    assert "loss ratio 1.0023" in html
    assert "[–, inf]" in html
    assert "<strong>1</strong> refuted" in html
    assert "<strong>0</strong> supported" in html
    assert 'href="study/figures/a.svg"' in html
    assert "a table" in html
    assert 'alt="One &amp; all"' in html
    assert 'href="#study/figures/a.svg"' in html


def test_costs_are_read_dearest_first(tmp_path):
    head = "s\th:m:s\tmax_rss\tcpu_time\n"
    (tmp_path / "train_regression").mkdir()
    (tmp_path / "train_regression/a.tsv").write_text(head + "2.5\t0:00:02\t100.5\t2.0\n")
    (tmp_path / "judge_claims.tsv").write_text(head + "9.0\t0:00:09\t-\t-\n")
    costs = page.read_costs([str(tmp_path / "train_regression/a.tsv"), str(tmp_path / "judge_claims.tsv")])
    assert [cost["seconds"] for cost in costs] == [9.0, 2.5]
    assert costs[1] == {"job": "train_regression · a", "seconds": 2.5, "cpu": 2.0, "memory": 100.5}
    assert page.number(costs[0]["memory"]) == "–"
