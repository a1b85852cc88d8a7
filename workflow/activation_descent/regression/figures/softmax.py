"""Softmax attention against one gradient step: figures 11 and 12 of von Oswald et al. (2022)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import panels
from activation_descent.regression.figures.curves import (
    FOOTER,
    alignment_curves,
    kept_line,
    length_line,
    loss_curves,
    settings_line,
)
from activation_descent.regression.figures.matrices import image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from activation_descent.regression.training import Trained


AGREEMENT = 1.1  # times the loss of the best start: above the scatter of a training loss, below the plateaus


def draw(
    tables: Mapping[str, pd.DataFrame],
    training: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    snapshots: Mapping[str, "Trained"],
) -> "Figure":
    """A row for each network: loss, alignment, and eta_h W_KQ^h of its heads summed, beside that of the first head."""
    from activation_descent.regression.training import Training
    from activation_descent.regression.transformer import products, unpack

    first = next(iter(training.values()))
    figure, axes = panels(
        f"One softmax self-attention layer against one step of gradient descent ({settings_line(first)}; {length_line(first)})",
        len(training),
        4,
        (14.5, 0.7 + 3.4 * len(training)),
        FOOTER.format(seeds=first["seeds"]) + kept_line(first) + " Matrices: first seed, input entries.",
    )
    for row, (variant, settings) in zip(axes, training.items(), strict=True):
        heads = "1 head" if settings["heads"] == 1 else f"{settings['heads']} heads"
        alignment = tables["alignment"]
        alignment = alignment[alignment["variant"] == variant]
        starts = snapshots[variant].start_losses
        agreeing = (starts <= AGREEMENT * starts.min()).sum().item()
        loss_curves(row[0], alignment, f"{heads}: loss on held-out tasks\n({agreeing} of {len(starts)} starts end near this)")
        alignment_curves(row[1], alignment, "gradient_descent", f"{heads}: layer against gradient step")
        attention = unpack(snapshots[variant].snapshots[0, -1].double(), Training(**settings).architecture)["attention"][0]
        a, b = products(attention)
        terms = (b[:, -1, -1, None, None] * a)[:, :-1, :-1].numpy()
        image(row[2], terms[0], f"{heads}: $η_1 W_{{KQ}}^1$ of the first head")
        image(row[3], terms.sum(0), f"{heads}: $\\sum_h η_h W_{{KQ}}^h$")
        for panel in row[2:]:
            ends = [0, terms.shape[1] - 1]
            labels = ["$x_1$", f"$x_{{{terms.shape[1]}}}$"]
            panel.set(xticks=ends, yticks=ends, xticklabels=labels, yticklabels=labels)
    return figure
