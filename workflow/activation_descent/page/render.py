"""The page as HTML, with all that a reader asks of a claim: readable offline, without JavaScript, beside its figures and records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
import pandas as pd

from activation_descent.page import costs as cost_tables
from activation_descent.page.answer import OUTCOMES, conclude
from activation_descent.page.figures import Figure
from activation_descent.page.rule_picture import draw_rule
from activation_descent.records import METRICS

VERDICTS = ("supported", "refuted", "inconclusive")
Found = Mapping[tuple[str, str, str], str]


@dataclass(frozen=True)
class Command:
    """How Snakemake was called: `results` is the run's folder as it sees it, `options` what every call of this run needs."""

    results: str
    options: str

    def measure(self, records: str) -> str:
        """Measure again, on what was trained, and judge."""
        return f"snakemake {self.results}/claims.csv --forcerun {self.results}/{records} {self.options}"

    def train(self, records: str) -> str:
        """Train again from nothing and measure."""
        return f"snakemake {self.results}/{records} --forceall {self.options}"


def number(value: float) -> str:
    """Five significant digits; a dash for not a number."""
    return "–" if pd.isna(value) else f"{value:.5g}"


def duration(seconds: float) -> str:
    """In the unit that a reader thinks in: 0.4 s, 12 s, 7.5 min, 3.1 h."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def find_records(paths: Sequence[str], page: Path) -> dict[tuple[str, str, str], str]:
    """Which table holds a metric of a variant, by study, variant and metric; tables relative to the page.

    Args:
        paths: the tables that claims are judged on.
    """
    found = {}
    for path in map(Path, paths):
        rows = pd.read_csv(path, usecols=["study", "variant", "metric"]).drop_duplicates()
        relative = path.relative_to(page.parent).as_posix()
        found.update({(row.study, row.variant, row.metric): relative for row in rows.itertuples()})
    return found


def explain(row: Mapping[str, Any], rule: Mapping[str, Any], found: Found, command: Command) -> dict[str, Any]:
    """What the page says of one claim.

    Args:
        row: of claims.csv.
        rule: the claim's entry in `config/claims.yaml`.
        found: see `find_records`.
    """
    statistic = rule["statistic"]
    metric = METRICS[statistic["metric"]]
    read = [found.get((rule["study"], reference["variant"], reference["metric"])) for reference in (statistic, *rule["gate"])]
    return dict(row) | {
        "metric": statistic["metric"].replace("_", " "),
        "variant": statistic["variant"],
        "meaning": metric.meaning,
        "unit": metric.unit,
        "threshold": rule["threshold"],
        "controls": [gate for gate in row["gate"].split("; ") if gate],
        "picture": draw_rule(rule["supported"], rule["refuted"], row["value"], row["ci_low"], row["ci_high"]),
        "records": sorted({path for path in read if path}),
        "measure": command.measure(read[0]) if read[0] else None,
        "train": command.train(read[0]) if read[0] else None,
    }


def render(
    run: str,
    claims: pd.DataFrame,
    document: Mapping[str, Any],
    found: Found,
    command: Command,
    figures: Sequence[Figure],
    records: Sequence[str],
    config: str,
    ran: Mapping[str, str],
    costs: pd.DataFrame,
) -> str:
    """The page as HTML.

    Args:
        claims: the rows of claims.csv.
        document: `config/claims.yaml`, checked.
        found: see `find_records`.
        records: paths of the records, relative to the page's folder.
        config: the configuration as YAML.
        ran: see `provenance.what_ran`.
        costs: see `costs.read_costs`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("activation_descent", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "duration": duration}
    rules = {rule["id"]: rule for rule in document["claims"]}
    explained = [explain(row, rules[row["id"]], found, command) for row in claims.to_dict("records")]
    studies = [
        {
            "name": name,
            "title": title,
            "claims": (own := [claim for claim in explained if claim["study"] == name]),
            "counts": count(own),
        }
        for name, title in document["studies"].items()
    ]
    theses = conclude(document["answer"], claims)
    by_rule = cost_tables.summarise(costs, "rule")
    return environment.get_template("page/page.html.j2").render(
        run=run,
        verdicts=VERDICTS,
        total=len(claims),
        counts=count(explained),
        answer={words: [t for t in theses if t.outcome == outcome] for outcome, words in OUTCOMES.items()},
        studies=[study for study in studies if study["claims"]],
        figures={name: [figure for figure in figures if figure.study == name] for name in document["studies"]},
        drawn={figure.path: figure for figure in figures},
        records=by_folder(records),
        config=config,
        ran=ran,
        costs=costs.to_dict("records"),
        by_rule=by_rule.to_dict("records"),
        by_study=cost_tables.summarise(costs, "study").to_dict("records"),
        first=cost_tables.cut_first(by_rule),
        knobs=cost_tables.KNOBS,
    )


def count(claims: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims have each verdict."""
    return {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in VERDICTS}


def by_folder(paths: Sequence[str]) -> dict[str, list[str]]:
    """Paths by the folder in which they are."""
    folders: dict[str, list[str]] = {}
    for path in sorted(paths):
        folders.setdefault(PurePosixPath(path).parent.as_posix(), []).append(path)
    return folders
