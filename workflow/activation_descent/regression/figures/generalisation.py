"""Networks and learners away from the training distribution: figure 6 of von Oswald et al. (2022), and noisy labels."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import panels
from activation_descent.regression.figures.curves import FOOTER, level_curves
from activation_descent.regression.figures.depth import network_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONDITIONS = {
    "input_scale": "α, factor on the input range",
    "weight_scale": "factor on the tasks' weights",
    "distribution_scale": "Frobenius norm of exponential,\nnormal or Laplace inputs",
    "noisy_labels": "labels replaced by N(0, 1), of the context's",
}


def draw(tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any) -> "Figure":
    """A row for each network, a column for each way in which its tasks differ from training."""
    figure, axes = panels(
        "Trained networks and the learners that they are held against, on tasks that they were not trained for "
        "(step sizes stay those of training)",
        len(training),
        len(CONDITIONS),
        (14, 0.6 + 3.1 * len(training)),
        FOOTER.format(seeds=" or ".join(map(str, sorted({each["seeds"] for each in training.values()})))),
    )
    for row, (variant, settings) in zip(axes, training.items(), strict=True):
        table = tables["generalisation"]
        table = table[table["variant"] == variant]
        for axis, (condition, label) in zip(row, CONDITIONS.items(), strict=True):
            level_curves(axis, table, condition, network_name(settings), label)
            if axis is not row[0]:
                axis.get_legend().remove()
    return figure
