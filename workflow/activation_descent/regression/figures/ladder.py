"""Learners and networks by their free numbers, and the spectra that GD++ improves (figure 13 of von Oswald et al. 2022)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from activation_descent.plotting import SERIES, panels
from activation_descent.regression.closed_forms import PUBLISHED_GAMMAS
from activation_descent.regression.figures.curves import LOSS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "gradient_descent": "gradient descent",
    "gradient_descent_per_step": "gradient descent,\na rate a step",
    "preconditioned": "gradient descent,\na matrix a step",
    "gd_plus_plus": "GD++",
    "gd_plus_plus_per_layer": "GD++,\na pair a step",
    "newton": "iterative Newton",
    "ridge": "ridge\n(tuned penalty)",
    "least_squares": "least squares",
}


def draw(tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any) -> "Figure":
    """Loss of each learner beside that of the networks, and each network's cosine with each learner."""
    ladder = tables["ladder"]
    layers = next(iter(training.values()))["layers"]
    losses = ladder[ladder["metric"] == "loss"].groupby("learner")["value"].agg(["mean", "min", "max"])
    numbers = ladder[ladder["metric"] == "learner_free_numbers"].set_index("learner")["value"].astype(int)
    cosines = ladder[ladder["metric"] == "model_cosine"].groupby(["learner", "reference"])["value"].agg(["mean", "min", "max"])
    figure, axes = panels(
        f"Which algorithm is it? Networks of {layers} layers and learners of {layers} steps on the same held-out tasks",
        1,
        2,
        (12.5, 4.8),
        "In brackets: numbers that were fitted. Points of networks: mean over seeds, bars from the lowest seed to the highest.",
    )
    names = [name for name in NAMES if name in numbers.index]
    labels = [f"{NAMES[name]} ({numbers[name]})" for name in names]
    axes[0, 0].scatter(losses.loc[names, "mean"], range(len(names)), color="#000000", zorder=3, label="learner")
    for variant, (colour, dashes) in zip(training, SERIES[1:], strict=False):
        label = f"{variant.replace('_', ' ')} (trained)"
        axes[0, 0].axvline(losses.loc[variant, "mean"], color=colour, dashes=dashes or (None, None), label=label)
        shown = cosines.loc[variant].loc[names]
        errors = [shown["mean"] - shown["min"], shown["max"] - shown["mean"]]
        marker = "os^v"[list(training).index(variant) % 4]
        axes[0, 1].errorbar(shown["mean"], range(len(names)), xerr=errors, fmt=marker, color=colour, label=label, capsize=2)
    axes[0, 1].axvline(1.0, color="0.4", linewidth=0.6, linestyle=":")
    floor = losses.loc[losses["mean"] > 1e-6, "mean"].min()
    axes[0, 0].set(title="(a) Loss", xlabel=LOSS, xscale="log", xlim=(min(floor, 0.05) / 2, 0.5))
    axes[0, 0].text(0.01, 0.01, "exact solvers lie to the left of the panel", transform=axes[0, 0].transAxes, fontsize="small")
    axes[0, 1].set(title="(b) Model cos of network and learner", xlabel="cosine (1 = same direction)")
    for panel in axes[0]:
        panel.set(yticks=range(len(names)), yticklabels=labels)
        panel.invert_yaxis()
        panel.legend(title=None)
    axes[0, 1].set_yticklabels([])
    return figure


def draw_spectra(
    tables: Mapping[str, pd.DataFrame], training: Mapping[str, Any], evaluation: Mapping[str, Any], _: Any
) -> "Figure":
    """Condition number against gamma at each N, with the fitted and the published gamma."""
    learners = tables["learners"]
    conditions = learners[learners["metric"] == "condition_number"]
    lengths = sorted(conditions["context_length"].unique())
    figure, axes = panels(
        "One contraction of GD++, x ← (I − γ X Xᵀ) x, and the conditioning of the context (d = 10)",
        1,
        len(lengths),
        (3.4 * len(lengths), 3.6),
        "λ: smallest and largest eigenvalue of X Xᵀ over all contexts. γ is fitted to the loss, not to the condition number.",
    )
    for panel, n in zip(axes[0], lengths, strict=True):
        rows = conditions[conditions["context_length"] == n]
        at_n = learners[learners["context_length"] == n]
        panel.plot(rows["level"], rows["value"], color="#000000")
        gammas = at_n[(at_n["metric"] == "learner_gamma") & (at_n["learner"] == "gd_plus_plus") & (at_n["layers"] == 2)]
        panel.axvline(gammas["value"].mean(), color="#D55E00", label=f"fitted γ = {gammas['value'].mean():.4f}")
        if n in PUBLISHED_GAMMAS:
            panel.axvline(PUBLISHED_GAMMAS[n], color="#0072B2", dashes=(4, 1.5), label=f"published γ = {PUBLISHED_GAMMAS[n]:g}")
        ends = at_n.set_index("metric")["value"]
        span = f"λ from {ends['smallest_eigenvalue']:.2g} to {ends['largest_eigenvalue']:.3g}"
        panel.set(title=f"N = {n}, {span}", xlabel="γ", ylabel="condition number (median)", yscale="log")
        panel.legend(title=None)
    return figure
