"""Figure 2 of von Oswald et al. (2022) with every seed and a confidence band, and the roll-out of figure 1."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from activation_descent.plotting import COLOURS, DASHES, LABELS, style
from activation_descent.regression.learners import expected_loss, optimal_rate
from activation_descent.regression.statistics import tail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS = "loss (0.5 × squared error)"
BOOTSTRAP = 300  # of at most a few thousand distinct resamples: five seeds have 126


def _curves(axes: "Axes", table: pd.DataFrame, x: str, learners: list[str], marker: str | None = None) -> None:
    """Each learner's mean over seeds with a 95 % bootstrap band, and every seed as a thin line."""
    import seaborn as sns

    for learner in learners:
        rows = table[table["learner"] == learner]
        if learner == "transformer":
            for _, seed in rows.groupby("seed"):
                axes.plot(seed[x], seed["value"], color=COLOURS[learner], linewidth=0.4, alpha=0.6)
        sns.lineplot(
            rows,
            x=x,
            y="value",
            ax=axes,
            color=COLOURS[learner],
            dashes=False,
            errorbar=("ci", 95),
            n_boot=BOOTSTRAP,
            seed=0,
            marker=marker,
            label=LABELS[learner],
            linewidth=1.5,
        )
        line = axes.get_lines()[-1]
        if DASHES[learner]:
            line.set_dashes(DASHES[learner])


def one_layer_figure(
    title: str,
    alignment: pd.DataFrame,
    generalisation: pd.DataFrame,
    rollout: pd.DataFrame,
    sizes: Mapping[str, tuple[int, pd.DataFrame]],
    settings: Mapping[str, float],
) -> "Figure":
    """Six panels of one variant.

    Args:
        title: what is compared.
        alignment, generalisation, rollout: records of the variant.
        sizes: for each variant of the sweep over N = d its size and its alignment records; may be empty.
        settings: `half_range`, `weight_scale`, `context_length`, `tail_share` and `judged_damping` of the variant.
    """
    import matplotlib.pyplot as plt

    with style():
        figure, panels = plt.subplots(2, 3, figsize=(11, 6.8))
        figure.suptitle(title, x=0.01, ha="left", fontsize="large")
        _loss_panel(panels[0, 0], alignment)
        _alignment_panel(panels[0, 1], alignment)
        _size_panel(panels[0, 2], sizes, settings)
        _scale_panel(panels[1, 0], generalisation[generalisation["context_length"] == settings["context_length"]])
        _length_panel(panels[1, 1], generalisation[generalisation["input_scale"] == 1], settings)
        _rollout_panel(panels[1, 2], rollout, settings)
        seeds = alignment["seed"].nunique()
        figure.supxlabel(
            f"Thin lines: {seeds} seeds. Bands: 95 % bootstrap interval of their mean (narrower than the line where not seen). "
            "Both sides see the same tasks.",
            fontsize="small",
            x=0.01,
            ha="left",
        )
    return figure


def _loss_panel(axes: "Axes", alignment: pd.DataFrame) -> None:
    losses = alignment[alignment["metric"] == "loss"]
    _curves(axes, losses[losses["learner"] != "interpolated"], "step", ["transformer", "gradient_descent"])
    # Near initialisation the interpolation divides by almost nothing
    late = losses[(losses["learner"] == "interpolated") & (losses["step"] >= losses["step"].max() * 0.1)]
    _curves(axes, late, "step", ["interpolated"])
    axes.set(title="(a) Loss on held-out tasks", xlabel="training step", ylabel=LOSS)
    before = losses.loc[losses["step"] == 0].query("learner == 'transformer'")["value"].mean()
    axes.set_ylim(0.9 * losses.loc[losses["learner"] == "gradient_descent", "value"].min(), 1.1 * before)
    axes.legend(title=None)


def _alignment_panel(axes: "Axes", alignment: pd.DataFrame) -> None:
    import seaborn as sns

    names = {
        "model_cosine": ("Model cos (1 = same direction)", "#000000", ()),
        "model_difference": ("Model diff (L2 distance)", "#0072B2", (4, 1.5)),
        "prediction_difference": ("Preds diff (|Δ label|)", "#D55E00", (1, 1)),
    }
    for metric, (label, colour, dashes) in names.items():
        rows = alignment[alignment["metric"] == metric]
        for _, seed in rows.groupby("seed"):
            axes.plot(seed["step"], seed["value"], color=colour, linewidth=0.4, alpha=0.6)
        sns.lineplot(
            rows,
            x="step",
            y="value",
            ax=axes,
            color=colour,
            errorbar=("ci", 95),
            n_boot=BOOTSTRAP,
            seed=0,
            label=label,
            linewidth=1.5,
        )
        if dashes:
            axes.get_lines()[-1].set_dashes(dashes)
    axes.set(title="(b) Layer against gradient step", xlabel="training step", ylabel="cosine (1), or distance")
    axes.legend(title=None, loc="upper right")


def _size_panel(axes: "Axes", sizes: Mapping[str, tuple[int, pd.DataFrame]], settings: Mapping[str, float]) -> None:
    axes.set(title="(c) Layers trained at each size", xlabel="N = d, examples = inputs", ylabel=LOSS)
    if not sizes:
        axes.text(0.5, 0.5, "not swept for this variant", ha="center", va="center", transform=axes.transAxes)
        return
    ends = []
    for size, table in sizes.values():
        losses = tail(table[table["metric"] == "loss"], settings["tail_share"])
        ends.append(losses.groupby(["seed", "learner"], as_index=False)["value"].mean().assign(size=size))
    ends = pd.concat(ends)
    grid = range(int(ends["size"].min()), int(ends["size"].max()) + 1)
    half_range, weight_scale = settings["half_range"], settings["weight_scale"]
    theory = [expected_loss(optimal_rate(n, n, half_range), n, n, half_range, weight_scale) for n in grid]
    axes.plot(grid, theory, color=COLOURS["optimum"], dashes=DASHES["optimum"], linewidth=0.8, label=LABELS["optimum"])
    _curves(axes, ends, "size", ["transformer", "gradient_descent", "interpolated"], marker="o")
    axes.set(xlabel="N = d, examples = inputs", ylabel=LOSS)
    axes.legend(title=None)


def _scale_panel(axes: "Axes", table: pd.DataFrame) -> None:
    _curves(axes, table.sort_values("input_scale"), "input_scale", ["optimum", "transformer", "gradient_descent", "interpolated"])
    axes.axvline(1.0, color="0.4", linewidth=0.8, linestyle=":")
    axes.set(title="(d) Inputs scaled by α (trained at 1)", xlabel="α, factor on the input range", ylabel=LOSS)
    axes.set_yscale("log")
    axes.legend(title=None)


def _length_panel(axes: "Axes", table: pd.DataFrame, settings: Mapping[str, float]) -> None:
    table = table.sort_values("context_length")
    _curves(axes, table, "context_length", ["optimum", "transformer", "gradient_descent", "interpolated"], marker=None)
    axes.axvline(settings["context_length"], color="0.4", linewidth=0.8, linestyle=":")
    axes.set(
        title=f"(e) Other contexts, fixed step (trained at {settings['context_length']})",
        xlabel="N, examples in the context",
        ylabel=LOSS,
    )
    axes.set_yscale("log")
    axes.legend(title=None)


def _rollout_panel(axes: "Axes", rollout: pd.DataFrame, settings: Mapping[str, float]) -> None:
    """The judged damping as mean and band; of the others every seed up to the iteration at which it leaves the panel."""
    start = rollout.loc[rollout["iteration"] == 0, "value"].mean()
    top, end = 2.0 * start, rollout["iteration"].max()
    judged = settings["judged_damping"]
    for damping, table in rollout.groupby("damping"):
        if damping == judged:
            _curves(axes, table, "iteration", ["transformer", "gradient_descent"])
            last = table.loc[(table["iteration"] == end), "value"].mean()
            axes.annotate(
                f"λ = {damping:g}", (end, last), xytext=(0, 6), textcoords="offset points", ha="right", fontsize="small"
            )
            continue
        for learner, width in (("transformer", 0.6), ("gradient_descent", 1.5)):
            for _, seed in table[table["learner"] == learner].groupby("seed"):
                inside = seed[(seed["value"] < 10 * top).cummin()]
                (line,) = axes.plot(inside["iteration"], inside["value"], color=COLOURS[learner], linewidth=width)
                if DASHES[learner]:
                    line.set_dashes(DASHES[learner])
        descent = table[(table["learner"] == "gradient_descent") & (table["value"] < 0.6 * top)]
        leaves = descent.loc[descent["iteration"].idxmax()]
        axes.annotate(
            f"λ = {damping:g}",
            (leaves["iteration"], leaves["value"]),
            xytext=(6, 0),
            textcoords="offset points",
            fontsize="small",
        )
    axes.set(
        title="(f) The layer applied again and again", xlabel="iteration", ylabel=LOSS, yscale="log", ylim=(0.08 * start, top)
    )
    axes.legend(title=None, loc="lower left")
