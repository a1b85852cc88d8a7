"""One look for every figure: colours that survive grey print, axes with names and units, the same bytes for the same data."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, ordered so that neighbours differ in lightness too; every series has its own dash as well.
COLOURS = {
    "transformer": "#0072B2",
    "gradient_descent": "#E69F00",
    "interpolated": "#009E73",
    "optimum": "#000000",
    "untrained": "#CC79A7",
}
LABELS = {
    "transformer": "trained layer",
    "gradient_descent": "gradient descent",
    "interpolated": "halfway between",
    "optimum": "closed form",
    "untrained": "untrained layer",
}
DASHES = {
    "transformer": "",
    "gradient_descent": (4, 1.5),
    "interpolated": (1, 1),
    "optimum": (6, 2, 1, 2),
    "untrained": (2, 2),
}


@contextmanager
def style() -> Iterator[None]:
    """Figure settings for the body of a `with`."""
    import matplotlib

    matplotlib.use("svg")
    import seaborn as sns

    settings = {
        "axes.titlesize": "medium",
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "grid.linewidth": 0.5,
    }
    with sns.axes_style("whitegrid"), sns.plotting_context("paper"), matplotlib.rc_context(settings):
        yield


def save(figure: "Figure", path: str | Path) -> None:
    """Lay a figure out and write it as SVG, whole or not at all, without the date; then close it."""
    import matplotlib
    import matplotlib.pyplot as plt

    figure.tight_layout()
    partial = Path(path).with_name(Path(path).name + ".partial")
    with matplotlib.rc_context({"svg.hashsalt": "activation-descent"}):  # else identifiers in the file are drawn at random
        figure.savefig(partial, format="svg", metadata={"Date": None})
    os.replace(partial, path)
    plt.close(figure)
