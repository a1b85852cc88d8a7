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
    "gd_plus_plus": "#D55E00",
    "interpolated": "#009E73",
    "optimum": "#000000",
    "untrained": "#CC79A7",
}
LABELS = {
    "transformer": "trained network",
    "gradient_descent": "gradient descent",
    "gd_plus_plus": "GD++",
    "interpolated": "halfway between",
    "optimum": "closed form",
    "untrained": "untrained network",
}
DASHES = {
    "transformer": "",
    "gradient_descent": (4, 1.5),
    "gd_plus_plus": (5, 1, 1, 1),
    "interpolated": (1, 1),
    "optimum": (6, 2, 1, 2),
    "untrained": (2, 2),
}
# For series that are told apart by their labels alone, as the variants of one figure
SERIES = (
    ("#000000", ()),
    ("#0072B2", (4, 1.5)),
    ("#D55E00", (1, 1)),
    ("#009E73", (6, 2, 1, 2)),
    ("#CC79A7", (2, 2)),
    ("#E69F00", (5, 1, 1, 1)),
)


@contextmanager
def style() -> Iterator[None]:
    """Figure settings for the body of a `with`."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    settings = {
        "axes.titlesize": "medium",
        "axes.titlelocation": "left",
        "font.size": 9.0,
        "legend.fontsize": "small",
        "legend.frameon": False,
        "grid.linewidth": 0.5,
    }
    with plt.style.context(["seaborn-v0_8-whitegrid", settings]):
        yield


def save(figure: "Figure", path: str | Path) -> None:
    """Lay a figure out and write it as SVG, whole or not at all, with its title as metadata and without the date; then close it."""
    import matplotlib
    import matplotlib.pyplot as plt

    figure.tight_layout()
    partial = Path(path).with_name(Path(path).name + ".partial")
    with matplotlib.rc_context({"svg.hashsalt": "activation-descent"}):  # else identifiers in the file are drawn at random
        figure.savefig(partial, format="svg", metadata={"Date": None, "Title": " ".join(figure.get_suptitle().split())})
    os.replace(partial, path)
    plt.close(figure)
