"""The page: claims with their verdicts, the figures, and what ran. One file, readable offline, without JavaScript."""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

VERDICTS = ("supported", "refuted", "inconclusive")


@dataclass(frozen=True)
class Figure:
    """A figure of the page: its path relative to the page, its picture, the title in it and the claims that it shows."""

    path: str
    image: str
    title: str
    claims: tuple[str, ...]


def number(value: float) -> str:
    """Five significant digits; a dash for not a number."""
    return "–" if pd.isna(value) else f"{value:.5g}"


def read_costs(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Time and memory of each job from Snakemake's benchmark files, `<rule>/<variant>.tsv` or `<rule>.tsv` in one folder; dearest first."""
    folder, rows = os.path.commonpath(paths), []
    for path in map(Path, paths):
        table = pd.read_csv(path, sep="\t").apply(pd.to_numeric, errors="coerce")
        name = " · ".join(path.relative_to(folder).with_suffix("").parts)
        row = table.iloc[0]
        rows.append({"job": name, "seconds": row["s"], "cpu": row.get("cpu_time"), "memory": row["max_rss"]})
    return sorted(rows, key=lambda row: -row["seconds"])


def read_figures(paths: Sequence[str], page: Path, claims: pd.DataFrame) -> list[Figure]:
    """Figures as data for the page, each with the claims that name it."""
    figures = []
    for path in map(Path, paths):
        relative = path.relative_to(page.parent).as_posix()
        shown = tuple(claims.loc[claims["figure"] == relative, "id"])
        drawing = path.read_bytes()
        title = re.search(rb"<title>(.*?)</title>", drawing, re.DOTALL)
        image = "data:image/svg+xml;base64," + base64.b64encode(drawing).decode()
        figures.append(Figure(relative, image, unescape(title[1].decode()) if title else path.stem.replace("_", " "), shown))
    return figures


def render(
    run: str,
    claims: pd.DataFrame,
    thresholds: Mapping[str, str],
    figures: Sequence[Figure],
    records: Sequence[str],
    config: str,
    ran: Mapping[str, str],
    costs: Sequence[Mapping[str, Any]],
) -> str:
    """The page as HTML.

    Args:
        claims: the rows of claims.csv.
        thresholds: for each claim where its thresholds come from.
        records: paths of the records, relative to the page's folder.
        config: the configuration as YAML.
        ran: see `provenance.what_ran`.
        costs: see `read_costs`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("activation_descent", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    counts = {verdict: int((claims["verdict"] == verdict).sum()) for verdict in VERDICTS}
    return environment.get_template("page.html.j2").render(
        run=run,
        claims=claims.to_dict("records"),
        thresholds=thresholds,
        counts=counts,
        figures=figures,
        drawn={figure.path for figure in figures},
        records=records,
        config=config,
        ran=ran,
        costs=costs,
    )
