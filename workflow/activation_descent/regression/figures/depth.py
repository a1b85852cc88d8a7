"""Several layers against as many steps: figures 3, 7 and 8 of von Oswald et al. (2022)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import panels
from activation_descent.regression.closed_forms import PAIRS_UP_TO
from activation_descent.regression.figures.curves import (
    FOOTER,
    alignment_curves,
    length_line,
    level_curves,
    loss_curves,
    settings_line,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def network_name(settings: Mapping[str, Any]) -> str:
    """A network in words, to begin a title."""
    layers = "one layer" if settings["tied"] or settings["layers"] == 1 else f"{settings['layers']} layers"
    times = f" applied {settings['layers']} times" if settings["tied"] and settings["layers"] > 1 else ""
    parts = [f"{settings['heads']} heads" if settings["heads"] > 1 else "", "MLPs" if settings["mlp"] else ""]
    extras = ", ".join(part for part in parts if part)
    name = layers + times + (f" with {extras}" if extras else "")
    return name[0].upper() + name[1:]


def draw(tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any) -> "Figure":
    """Loss, alignment with gradient descent and with GD++, and inputs of other sizes."""
    settings = next(iter(training.values()))
    steps = settings["layers"]
    figure, axes = panels(
        f"{network_name(settings)} against {steps} steps of gradient descent and of GD++ ({settings_line(settings)}; "
        f"trained for {length_line(settings)})",
        1,
        4,
        (14.5, 3.9),
        FOOTER.format(seeds=settings["seeds"])
        + f" GD++: {'one rate and one γ' if settings['tied'] or steps > PAIRS_UP_TO else 'a rate and a γ for each step'}.",
    )
    alignment = tables["alignment"]
    loss_curves(axes[0, 0], alignment, "(a) Loss on held-out tasks")
    alignment_curves(axes[0, 1], alignment, "gradient_descent", "(b) Network against gradient descent")
    alignment_curves(axes[0, 2], alignment, "gd_plus_plus", "(c) Network against GD++")
    for panel in axes[0, 1:3]:
        panel.set_ylim(0, 2.4)
    level_curves(
        axes[0, 3],
        tables["generalisation"],
        "input_scale",
        "(d) Inputs scaled by α (trained at 1)",
        "α, factor on the input range",
    )
    axes[0, 3].axvline(1.0, color="0.4", linewidth=0.8, linestyle=":")
    return figure
