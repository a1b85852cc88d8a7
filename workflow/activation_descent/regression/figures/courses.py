"""Courses of training side by side: fixed data sets (figure 16), seeds and grokking (figure 15) of von Oswald et al. (2022)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import COLOURS, DASHES, panels
from activation_descent.regression.figures.curves import FOOTER, LOSS, length_line, settings_line, variant_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_fixed_data(
    tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any
) -> "Figure":
    """Layers that were trained on the same tasks at every step: held-out loss and alignment with the gradient step."""
    first = next(iter(training.values()))
    figure, axes = panels(
        f"One linear layer trained on a fixed set of B tasks against one step of gradient descent ({settings_line(first)}; "
        f"{first['steps']:,} steps)",
        1,
        3,
        (12.5, 4),
        FOOTER.format(seeds=first["seeds"]),
    )
    labels = {variant: f"B = {settings['dataset_size']:,}" for variant, settings in training.items()}
    for panel, metric, title, ylabel in zip(
        axes[0],
        ("loss", "model_cosine", "model_difference"),
        ("(a) Loss on held-out tasks", "(b) Model cos", "(c) Model diff"),
        (LOSS, "cosine with gradient descent's model", "L2 distance from gradient descent's model"),
        strict=True,
    ):
        variant_curves(panel, _chosen(tables["alignment"], labels, metric), "step")
        panel.set(title=title, xlabel="training step", ylabel=ylabel)
        panel.legend(title=None)
    _descent_line(axes[0, 0], tables["alignment"])
    axes[0, 0].set_yscale("log")
    return figure


def draw_seed_spread(
    tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any
) -> "Figure":
    """Every seed of each variant: when it finds the gradient step."""
    figure, axes = panels(
        f"When do seeds find the gradient step? ({settings_line(next(iter(training.values())))})",
        1,
        len(training),
        (4.4 * len(training), 3.9),
    )
    for panel, (variant, settings) in zip(axes[0], training.items(), strict=True):
        table = tables["alignment"]
        table = table[(table["variant"] == variant) & (table["metric"] == "loss")]
        for _, seed in table[table["learner"] == "transformer"].groupby("seed"):
            panel.plot(seed["step"], seed["value"], color=COLOURS["transformer"], linewidth=0.8)
        _descent_line(panel, table)
        data = "fresh tasks" if settings["dataset_size"] is None else f"{settings['dataset_size']:,} fixed tasks"
        heads = "1 head" if settings["heads"] == 1 else f"{settings['heads']} heads"
        panel.set(
            title=f"{settings['seeds']} seeds, {heads}{', MLP' if settings['mlp'] else ''}\n{data}, {length_line(settings)}",
            xlabel="training step",
            ylabel=f"held-out {LOSS}",
        )
    return figure


def draw_linear_maps(
    tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any
) -> "Figure":
    """The one-layer network trained to give the answers of three maps: its model against the map's and against the gradient step's."""
    first = next(iter(training.values()))
    figure, axes = panels(
        f"One linear layer trained to give the answers of a gradient step, of ridge regression, or of a random matrix in the\n"
        f"gradient's place ({settings_line(first)}; batches of {first['batch_size']:,} tasks)",
        1,
        2,
        (9.6, 4.1),
        FOOTER.format(seeds=first["seeds"]),
    )
    names = {
        "descent": "one gradient step",
        "ridge": f"ridge, penalty {first['ridge_penalty']:g}",
        "matrix": "random matrix × Σ y x",
    }
    labels = {variant: names[settings["target"]] for variant, settings in training.items()}
    rows = tables["alignment"].query("metric == 'model_cosine'")
    for panel, reference, title in zip(
        axes[0],
        ("target", "gradient_descent"),
        ("(a) Model cos with the map that was trained for", "(b) Model cos with one gradient step"),
        strict=True,
    ):
        against = rows[rows["reference"] == reference]
        variant_curves(panel, {label: against[against["variant"] == variant] for variant, label in labels.items()}, "step")
        panel.axhline(1.0, color="0.4", linewidth=0.6, linestyle=":")
        panel.set(title=title, xlabel="training step", ylabel="cosine (1 = same direction)")
        panel.legend(title=None)
    return figure


def _chosen(alignment: pd.DataFrame, labels: Mapping[str, str], metric: str) -> dict[str, pd.DataFrame]:
    rows = alignment[(alignment["metric"] == metric) & (alignment["learner"] == "transformer")]
    rows = rows[rows["reference"].isin(["gradient_descent", "none"])]
    return {label: rows[rows["variant"] == variant] for variant, label in labels.items()}


def _descent_line(axes: Any, alignment: pd.DataFrame) -> None:
    descent = alignment[(alignment["metric"] == "loss") & (alignment["learner"] == "gradient_descent")]["value"].mean()
    axes.axhline(descent, color=COLOURS["gradient_descent"], dashes=DASHES["gradient_descent"], label="gradient descent")
    axes.legend(title=None)
