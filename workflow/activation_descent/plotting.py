"""One look for every figure: colours that survive grey print, axes with names and units, the same bytes for the same data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from activation_descent.files import whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
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
BOOTSTRAP = 300  # of at most a few thousand distinct resamples: five seeds have 126


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


def panels(title: str, rows: int, columns: int, size: tuple[float, float], footer: str | None = None) -> tuple["Figure", Any]:
    """An empty figure with a title and a line on how to read it; axes as an array of rows and columns."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    figure.suptitle(title, x=0.01, y=1 - 0.1 / size[1], ha="left", va="top", fontsize="large")
    if footer:
        figure.supxlabel(footer, fontsize="small", x=0.01, ha="left")
    return figure, axes


def curve(
    axes: "Axes",
    rows: "pd.DataFrame",
    x: str,
    label: str,
    colour: str,
    dashes: Any = (),
    marker: str | None = None,
    each_seed: bool = True,
) -> None:
    """One series: mean over seeds, 95 % bootstrap band, seeds as thin lines."""
    import numpy as np

    wide = rows.pivot_table(index=x, columns="seed", values="value")
    if each_seed:
        for seed in wide:
            axes.plot(wide.index, wide[seed], color=colour, linewidth=0.4, alpha=0.6)
    resampled = np.random.default_rng(0).integers(wide.shape[1], size=(BOOTSTRAP, wide.shape[1]))
    low, high = np.percentile(wide.to_numpy()[:, resampled].mean(2), [2.5, 97.5], axis=1)
    axes.fill_between(wide.index, low, high, color=colour, alpha=0.2, linewidth=0)
    (line,) = axes.plot(wide.index, wide.mean(axis=1), color=colour, label=label, linewidth=1.5, marker=marker)
    if dashes:
        line.set_dashes(dashes)


def save(figure: "Figure", path: str | Path) -> None:
    """Lay a figure out and write it as SVG, whole or not at all, with its title as metadata and without the date; then close it."""
    import matplotlib
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.set_layout_engine(None)  # it leaves a place for another layout, for which a figure would be drawn twice
    # Without a salt identifiers in the file are drawn at random
    with matplotlib.rc_context({"svg.hashsalt": "activation-descent"}), whole(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None, "Title": " ".join(figure.get_suptitle().split())})
    plt.close(figure)
