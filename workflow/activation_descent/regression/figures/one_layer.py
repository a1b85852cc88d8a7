"""Figure 2 of von Oswald et al. (2022) with every seed and a confidence band, and the roll-out of figure 1."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import COLOURS, DASHES, LABELS, panels
from activation_descent.records import tail
from activation_descent.regression.closed_forms import expected_loss, optimal_rate
from activation_descent.regression.figures.curves import (
    FOOTER,
    LOSS,
    alignment_curves,
    learner_curves,
    level_curves,
    loss_curves,
    settings_line,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any) -> "Figure":
    """Six panels of the first variant; the others are layers of other sizes for panel (c)."""
    variant, settings = next(iter(training.items()))
    courses = tables["alignment"]
    alignment = courses[courses["variant"] == variant]
    figure, axes = panels(
        f"One trained linear self-attention layer against one step of gradient descent ({settings_line(settings)})",
        2,
        3,
        (11, 6.8),
        FOOTER.format(seeds=settings["seeds"]),
    )
    loss_curves(axes[0, 0], alignment, "(a) Loss on held-out tasks")
    alignment_curves(axes[0, 1], alignment, "gradient_descent", "(b) Layer against gradient step")
    sizes = {name: (each["input_dim"], courses[courses["variant"] == name]) for name, each in training.items()}
    _size_panel(axes[0, 2], sizes, {**settings, **evaluation})
    probes = tables["generalisation"]
    level_curves(axes[1, 0], probes, "input_scale", "(d) Inputs scaled by α (trained at 1)", "α, factor on the input range")
    axes[1, 0].axvline(1.0, color="0.4", linewidth=0.8, linestyle=":")
    length = settings["context_length"]
    title = f"(e) Other contexts, fixed step (trained at {length})"
    level_curves(axes[1, 1], probes, "context_length", title, "N, examples in the context")
    axes[1, 1].axvline(length, color="0.4", linewidth=0.8, linestyle=":")
    _rollout_panel(axes[1, 2], tables["rollout"], evaluation)
    return figure


def _size_panel(axes: "Axes", sizes: Mapping[str, tuple[int, pd.DataFrame]], settings: Mapping[str, Any]) -> None:
    axes.set(title="(c) Layers trained at each size", xlabel="N = d, examples = inputs", ylabel=LOSS)
    if len(sizes) < 2:
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
    learner_curves(axes, ends, "size", ["transformer", "gradient_descent", "interpolated"], marker="o")
    axes.set(xlabel="N = d, examples = inputs", ylabel=LOSS)
    axes.legend(title=None)


def _rollout_panel(axes: "Axes", rollout: pd.DataFrame, evaluation: Mapping[str, Any]) -> None:
    """The judged damping as mean and band; of the others every seed up to the iteration at which it leaves the panel."""
    start = rollout.loc[rollout["iteration"] == 0, "value"].mean()
    top, end = 2.0 * start, rollout["iteration"].max()
    judged = evaluation["judged_damping"]
    for damping, table in rollout.groupby("damping"):
        if damping == judged:
            learner_curves(axes, table, "iteration", ["transformer", "gradient_descent"])
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
