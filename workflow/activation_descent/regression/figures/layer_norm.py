"""Layer normalisation: figure 14 of von Oswald et al. (2022)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import panels
from activation_descent.regression.figures.curves import FOOTER, length_line, level_curves, loss_curves, settings_line
from activation_descent.regression.figures.depth import network_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any) -> "Figure":
    """A row for each network: loss over training, and on inputs of other sizes."""
    first = next(iter(training.values()))
    figure, axes = panels(
        f"Linear self-attention with layer normalisation against gradient descent\n({settings_line(first)})",
        len(training),
        2,
        (8.4, 0.8 + 3.3 * len(training)),
        FOOTER.format(seeds=first["seeds"]),
    )
    for row, (variant, settings) in zip(axes, training.items(), strict=True):
        chosen = {name: table[table["variant"] == variant] for name, table in tables.items()}
        best = f"; best {settings['seeds']} of {settings['best_of']} starts" if settings["best_of"] else ""
        loss_curves(
            row[0], chosen["alignment"], f"{network_name(settings)}: loss on held-out tasks\n({length_line(settings)}{best})"
        )
        level_curves(
            row[1], chosen["generalisation"], "input_scale", "Inputs scaled by α (trained at 1)", "α, factor on the input range"
        )
    return figure
