"""Inputs and labels as tokens of their own: figure 5 of von Oswald et al. (2022)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import COLOURS, SERIES, curve, panels
from activation_descent.regression.figures.curves import FOOTER, LOSS, learner_curves, length_line, settings_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SENSITIVITIES = {
    "own_token_sensitivity": "the token itself",
    "next_token_sensitivity": "the next token",
    "other_token_sensitivity": "any other token",
}


def draw(tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any) -> "Figure":
    """A row for each network: loss with its plateau, and on what the first layer's output at a token depends."""
    first = next(iter(training.values()))
    figure, axes = panels(
        f"A softmax and a linear layer on separate tokens x₁, y₁, x₂, .. against one step of gradient descent\n"
        f"({settings_line(first)}; {length_line(first)})",
        len(training),
        2,
        (10.5, 0.8 + 3.6 * len(training)),
        FOOTER.format(seeds=first["seeds"]),
    )
    for row, (variant, settings) in zip(axes, training.items(), strict=True):
        table = tables["alignment"][tables["alignment"]["variant"] == variant]
        learner_curves(row[0], table[table["metric"] == "loss"], "step", ["transformer", "gradient_descent"])
        zero = settings["input_dim"] * settings["half_range"] ** 2 / 3 / 2  # 0.5 d Var(x)
        row[0].axhline(zero, color=COLOURS["optimum"], linewidth=0.8, linestyle=":", label="a prediction of zero")
        row[0].set(title="(a) Loss on held-out tasks", xlabel="training step", ylabel=LOSS, ylim=(0, 1.3 * zero))
        for (metric, label), (colour, dashes) in zip(SENSITIVITIES.items(), SERIES, strict=False):
            curve(row[1], table[table["metric"] == metric], "step", label, colour, dashes)
        row[1].set(
            title="(b) First layer: sensitivity of a token's output to",
            xlabel="training step",
            ylabel="norm of the mean derivative",
        )
        for panel in row:
            panel.legend(title=None)
    return figure
