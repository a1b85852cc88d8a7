"""Weight matrices as images: figures 9 and 11 of von Oswald et al. (2022)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from activation_descent.plotting import panels
from activation_descent.regression.figures.curves import length_line
from activation_descent.regression.figures.depth import network_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from activation_descent.regression.training import Trained


def image(axes: "Axes", matrix: np.ndarray, title: str) -> None:
    """A matrix, its colours symmetric about zero, its largest entry in the scale."""
    largest = np.abs(matrix).max()
    shown = axes.imshow(matrix, cmap="PuOr", vmin=-largest, vmax=largest)
    axes.figure.colorbar(shown, ax=axes, shrink=0.8)
    axes.grid(False)
    ends = [0, len(matrix) - 2, len(matrix) - 1]
    labels = ["$x_1$", f"$x_{{{len(matrix) - 1}}}$", "y"]
    axes.set(title=title, xticks=ends, yticks=ends, xticklabels=labels, yticklabels=labels, xlabel="to", ylabel="from")


def draw(
    tables: Mapping[str, pd.DataFrame],
    training: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    snapshots: Mapping[str, "Trained"],
) -> "Figure":
    """W_Q W_K^T and W_V W_P of the first seed of each network, after division of the first and multiplication of the second by beta."""
    from activation_descent.regression.training import Training
    from activation_descent.regression.transformer import products, unpack

    figure, axes = panels(
        "Weights of trained networks (first seed) in the construction's units", len(training), 2, (8.6, 0.6 + 4.0 * len(training))
    )
    for row, (variant, settings) in zip(axes, training.items(), strict=True):
        attention = unpack(snapshots[variant].snapshots[0, -1].double(), Training(**settings).architecture)["attention"][0, 0]
        a, b = products(attention)
        beta = a.diagonal()[:-1].mean()
        name = f"{network_name(settings)}, {length_line(settings)}"
        construction = "diag(0, −η/N)" if settings["layers"] == 1 else "diag(−γ I, −η/N)"
        image(row[0], (a / beta).numpy(), f"{name}\n$W_Q W_K^T / β$, by construction diag(I, 0)")
        image(row[1], (b * beta).numpy(), f"{name}\n$β W_V W_P$, by construction {construction}")
    return figure
