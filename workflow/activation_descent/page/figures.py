"""Figures as the page shows them: files beside it, each with a text for those who do not see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

SVG = "{http://www.w3.org/2000/svg}"
MOST_PANELS = 16  # that are worth naming one by one


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        path: relative to the page, as are `records`.
        title: of the figure; `text` adds what its panels show.
        size: width and height, points.
        claims: ids of the claims that it shows.
        records: what it was drawn from.
    """

    path: str
    study: str
    title: str
    text: str
    size: tuple[float, float]
    claims: tuple[str, ...]
    records: tuple[str, ...]


def read_figures(paths: Sequence[str], page: Path, claims: pd.DataFrame, drawn_from: Mapping[str, Sequence[str]]) -> list[Figure]:
    """Figures as data for the page.

    Args:
        paths: SVG files below the page's folder, `<study>/figures/<name>.svg`.
        drawn_from: for each figure the files that it was drawn from; both relative to the page.
    """
    figures = []
    for path in map(Path, paths):
        relative = path.relative_to(page.parent).as_posix()
        drawing = _parse(path)
        title = next((e.text for e in drawing.iter(f"{SVG}title") if e.text), None) or path.stem.replace("_", " ")
        _, _, width, height = (float(edge) for edge in drawing.get("viewBox", "0 0 640 400").split())
        figures.append(
            Figure(
                path=relative,
                study=Path(relative).parts[0],
                title=title,
                text=". ".join([title, *describe(drawing)]).replace("?. ", "? "),
                size=(width, height),
                claims=tuple(claims.loc[claims["figure"] == relative, "id"]),
                records=tuple(drawn_from.get(relative, ())),
            )
        )
    return figures


def describe(drawing: ElementTree.Element) -> list[str]:
    """One phrase for each panel of a figure by matplotlib: its title, and what is drawn against what.

    Matplotlib draws letters as shapes and leaves the words in comments.
    """
    panels = []
    for axes in _groups(drawing, "axes_"):
        x, y = (*map(_words, _groups(axes, "matplotlib.axis_", deep=False)), "", "")[:2]
        title = _words(axes)
        against = f"{y} against {x}" if x and y else y or x
        if title or against:
            panels.append("; ".join(part for part in (title, against) if part))
    if len(panels) > MOST_PANELS:
        return [f"{len(panels)} small panels"]
    return [f"Panel {number}: {panel}" for number, panel in enumerate(panels, 1)] if len(panels) > 1 else panels


def _parse(path: Path) -> ElementTree.Element:
    return ElementTree.parse(path, ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))).getroot()


def _groups(parent: ElementTree.Element, prefix: str, deep: bool = True) -> list[ElementTree.Element]:
    found = parent.iter(f"{SVG}g") if deep else parent.findall(f"{SVG}g")
    return [group for group in found if group.get("id", "").startswith(prefix)]


def _words(group: ElementTree.Element) -> str:
    """The last text that stands in a group itself: an axis's name, a panel's title."""
    texts = []
    for text in _groups(group, "text_", deep=False):
        comments = [child.text or "" for child in text if child.tag is ElementTree.Comment]
        texts.append(" ".join(" ".join(comments).replace("$", "").split()))
    return texts[-1] if texts else ""
