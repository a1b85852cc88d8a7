"""Figures of the attention study."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from activation_descent.attention import LAYER_KINDS
from activation_descent.plotting import SERIES, curve, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATEMENTS = {
    "linear_objective": "(i) linear attention:\nlinear objective",
    "first_order": "(i') softmax, first order:\ncentred least squares",
    "local_least_squares": "(ii) softmax: local\nweighted least squares",
    "hopfield": "(iii) values tied to keys:\nHopfield energy",
    "augmented_state": "(iv a) any values: an empty\nsubspace beside the query",
    "token_flow": "(iv b) not normalised:\ntokens' interaction energy",
    "implicit_update": "(iv c) context as update\nof the next weights",
}
READINGS = {
    "exact": "attention itself (control)",
    "gaussian": "(ii) kernel regression",
    "first_order": "(i') first order",
    "linear": "(i) linear attention",
    "from_state": "(ii) step from the state",
    "hopfield": "(iii) energy of the query",
    "error": "descent on the loss",
    "elsewhere": "other tokens (control)",
}
KINDS = {"dynamics": "linear dynamics", "markov": "Markov chains", "copying": "copying"}
PARTS = {
    "symmetry_qk": "M symmetric",
    "positivity_qk": "M positive",
    "flatness_qk": "M flat",
    "symmetry_ov": "B symmetric",
    "positivity_ov": "B negative",
    "flatness_ov": "B flat",
    "separation": "X, Y apart",
    "head_score": "score",
}
FLOOR = 1e-17  # where an exact zero is drawn
LOWEST = -1.0  # R^2 below this is drawn here
MARKERS = ("o", "s", "^", "D", "v", "P")


# The dual form


def draw_duality(picture: Mapping[str, np.ndarray]) -> "Figure":
    """Test digits, the training digits that their prediction looks at, and those that push it most."""
    shown, attended = picture["attended_label"].shape
    columns = 1 + 2 * attended
    figure, axes = panels(
        "What a digit classifier looks at in its dual form, initial weights + attention to all training digits",
        shown,
        columns + 2,
        (11.5, 0.84 * shown + 1.3),
        "Left: a test digit and what is predicted. Middle: the training digits with the largest attention, over the mean of all.\n"
        "Right: those that add most to the predicted class, attention times error signal (+ for it, − against it).\n"
        "Above each training digit its class, bold where it is not the predicted one.",
    )
    for row in range(shown):
        predicted = int(picture["predicted"][row])
        _digit(axes[row][0], picture["image"][row], f"{picture['label'][row]} → {predicted}")
        groups = (("attended", "attention", 2), ("pushing", "contribution", 3 + attended))
        for name, value, first in groups:
            for place in range(attended):
                label, number = int(picture[f"{name}_label"][row, place]), float(picture[value][row, place])
                text = f"{number:.1f}×" if value == "attention" else f"{number:+.1f}".replace("-", "−")
                panel = axes[row][first + place]
                _digit(panel, picture[f"{name}_image"][row, place], f"{label}: {text}", label != predicted)
        for gap in (1, 2 + attended):
            axes[row][gap].axis("off")
    return figure


def _digit(axes: "Axes", image: np.ndarray, title: str, bold: bool = False) -> None:
    axes.imshow(image, cmap="Greys", vmin=0, vmax=1)
    axes.set_title(title, fontsize="x-small", loc="center", pad=2, fontweight="bold" if bold else "normal")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


# Softmax attention as a gradient step


def draw_softmax(identities: pd.DataFrame, readings: pd.DataFrame, heads: pd.DataFrame) -> "Figure":
    """Where each statement holds and where it does not, and how much of trained heads' updates each reading gives."""
    figure, axes = panels(
        "Is softmax attention a gradient step, and of which function?",
        1,
        3,
        (15.5, 5.0),
        "(a) Dots: seeds; rounding is near 1e−16. (b, c) Each reading predicts a direction, one rate a head is fitted on other prompts; "
        "R² is 1 − |u − ηp|² / |u − mean|², below −1 drawn at −1.\nDots: (b) heads of each seed, (c) heads of the language models, mean "
        "over tasks and draws; bars: medians. In (b) the loss is the task's, and the state to step from is empty.",
    )
    _statements(axes[0, 0], identities)
    groups = {name: own for name, own in readings[readings["head"] > 0].groupby("variant")}
    _readings(axes[0, 1], groups, "(b) Softmax layers that were trained on regression", labelled=True)
    table = heads[heads["metric"] == "reading_r_squared"]
    groups = {name: own for name, own in table.groupby("variant", sort=False)}
    _readings(axes[0, 2], groups, "(c) Language models", labelled=False)
    return figure


def _statements(axes: "Axes", identities: pd.DataFrame) -> None:
    names = [*STATEMENTS][::-1]
    for metric, colour, marker, label in (
        ("identity_gap", SERIES[0][0], "o", "where it holds"),
        ("counterexample_gap", SERIES[2][0], "s", "one condition away"),
    ):
        for row, name in enumerate(names):
            values = identities[(identities["variant"] == name) & (identities["metric"] == metric)]["value"]
            axes.plot(
                values.clip(lower=FLOOR), np.full(len(values), row), linestyle="", marker=marker, markersize=4, color=colour
            )
        axes.plot([], [], linestyle="", marker=marker, color=colour, label=label)
    axes.axvspan(FLOOR, 1e-6, color="0.92", linewidth=0, zorder=0)
    axes.set_yticks(range(len(names)), [STATEMENTS[name] for name in names])
    axes.set(
        title="(a) Statements against automatic differentiation",
        xlabel="gap, |attention − step| / |attention|",
        xscale="log",
        xlim=(FLOOR, 30),
    )
    axes.legend(title=None, loc="upper center")


def _readings(axes: "Axes", groups: Mapping[str, pd.DataFrame], title: str, labelled: bool) -> None:
    names = [*READINGS][::-1]
    for place, (variant, own) in enumerate(groups.items()):
        colour, marker = SERIES[(place + 1) % len(SERIES)][0], MARKERS[place]
        offset = 0.22 * ((len(groups) - 1) / 2 - place)
        for row, reading in enumerate(names):
            rows = own[(own["reading"] == reading) & (own["metric"] == "reading_r_squared")]
            keys = ["layer", "head"] if "task" in rows and rows["task"].notna().all() else ["seed", "layer", "head"]
            values = rows.groupby(keys)["value"].mean().clip(lower=LOWEST)
            if len(values):
                axes.plot(values, np.full(len(values), row + offset), linestyle="", marker=marker, markersize=3, color=colour)
                axes.plot([values.median()], [row + offset], marker="|", markersize=11, markeredgewidth=2, color=colour)
        axes.plot([], [], linestyle="", marker=marker, color=colour, label=variant)
    axes.axvline(0, color="black", linewidth=0.8)
    for level in (0.2, 0.8):
        axes.axvline(level, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(names)), [READINGS[name] for name in names] if labelled else [])
    axes.set(title=title, xlabel="R² of the head's updates", xlim=(LOWEST - 0.08, 1.08), ylim=(-0.6, len(names) - 0.4))
    axes.legend(title=None, loc="lower right", fontsize="x-small")


# Layers on mixtures


def draw_layers(records: pd.DataFrame) -> "Figure":
    """Loss and alignment on regression prompts against the share of regression in training, and answers on growing contexts."""
    attentions = [name for name in LAYER_KINDS if records["variant"].str.startswith(f"{name}_").any()]
    figure, axes = panels(
        "Single layers on regression prompts, by the share of regression in what they were trained on",
        len(attentions),
        3,
        (14.5, 3.6 * len(attentions) + 0.9),
        "Lines: mean over seeds (thin lines) with a 95 % bootstrap band. A linear readout of the query's final state is fitted on other "
        "prompts; everything else stays as it was trained.\nRight: layers that saw no regression, on sequences of their own kind; grey: "
        "one gradient step on the same context with one rate for all lengths, dashed as its layer.",
    )
    for row, attention in zip(axes, attentions, strict=True):
        own = records[records["variant"].str.startswith(f"{attention}_")]
        _against_share(row[0], own, attention, "transfer_loss_ratio", "loss / loss of one gradient step")
        row[0].axhline(1, color="0.4", linewidth=0.8)
        _against_share(row[1], own, attention, "transfer_cosine", "cosine of the models, layer and gradient step")
        _growing(row[2], own, attention)
    axes[0][0].legend(title=None, fontsize="x-small")
    axes[0][2].legend(title=None, fontsize="x-small")
    return figure


def _against_share(axes: "Axes", records: pd.DataFrame, attention: str, metric: str, name: str) -> None:
    shares = sorted(records["share"].dropna().unique(), reverse=True)
    place = {share: number for number, share in enumerate(shares)}
    rows = records[records["metric"] == metric].assign(level=lambda table: table["share"].map(place))
    for (kind, label), (colour, dashes), marker in zip(KINDS.items(), SERIES[1:], MARKERS, strict=False):
        own = rows[(rows["variant"] == f"{attention}_{kind}") & (rows["control"] == "refitted")]
        if len(own):
            curve(axes, own, "level", f"the rest: {label}", colour, dashes, marker)
    untrained = rows[rows["control"] == "untrained"].drop_duplicates(["seed", "level"])
    curve(axes, untrained, "level", "before training", "0.4", (1, 2), None)
    axes.set_xticks(range(len(shares)), [f"{share:g}" for share in shares])
    axes.set(title=f"{attention} attention", xlabel="share of regression in training", ylabel=name)


def _growing(axes: "Axes", records: pd.DataFrame, attention: str) -> None:
    rows = records[records["metric"] == "growing_loss"]
    for (kind, label), (colour, dashes), marker in zip(KINDS.items(), SERIES[1:], MARKERS, strict=False):
        own = rows[rows["variant"] == f"{attention}_{kind}"]
        if not len(own):
            continue
        curve(axes, own[own["learner"] == "transformer"], "context_length", label, colour, dashes, marker)
        descent = own[own["learner"] == "gradient_descent"].drop_duplicates("context_length").sort_values("context_length")
        (line,) = axes.plot(descent["context_length"], descent["value"], color="0.45", linewidth=2.6, alpha=0.6, zorder=0)
        if dashes:
            line.set_dashes(dashes)
    axes.plot([], [], color="0.45", linewidth=2.6, alpha=0.6, label="one gradient step")
    axes.set(title=f"{attention} attention, own sequences", xlabel="pairs in the context", ylabel="loss of the next vector")
    axes.set_ylim(bottom=0)


# Heads


def draw_heads(heads: pd.DataFrame, controls: pd.DataFrame) -> "Figure":
    """Scores of all heads with their null, and what each score is made of."""
    scan = heads[heads["experiment"] == "heads"]
    variants = [*dict.fromkeys(scan["variant"])]
    figure, axes = panels(
        "Do heads hold the construction of a gradient step, in whatever basis?",
        1,
        2,
        (14.0, 4.9),
        "(a) Score: the least of seven numbers, each 1 for the construction; norms' scales folded in, rotary positions at distance zero. "
        "Dashes: 95 % point of the best head's score with\nthe same singular values in random bases; dotted: what counts as holding it. "
        "(b) Bars: lowest to highest over a model's heads; dots: heads. B negative is the share of B's eigenvalues below zero.",
    )
    _scores(axes[0, 0], scan, controls, variants)
    _parts(axes[0, 1], scan[(scan["control"] == "trained") & (scan["head"] > 0)], variants)
    return figure


def _scores(axes: "Axes", scan: pd.DataFrame, controls: pd.DataFrame, variants: list[str]) -> None:
    columns: list[tuple[str, pd.Series, float | None]] = []
    for metric, label in (("by_hand_score", "by hand"), ("one_layer_score", "linear layer,\ntrained on\nregression")):
        columns.append((label, controls[controls["metric"] == metric]["value"], None))
    for variant in variants:
        for control, label in (("trained", variant), ("untrained", f"{variant},\nuntrained")):
            own = scan[(scan["variant"] == variant) & (scan["control"] == control)]
            if len(own):
                null = own[own["metric"] == "null_score"]["value"].mean()
                columns.append((label, own[own["metric"] == "head_score"]["value"], null))
    for place, (label, values, null) in enumerate(columns):
        shift = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values))
        style = SERIES[3] if place < 2 else SERIES[4] if "untrained" in label else SERIES[1]
        axes.plot(place + shift, values, linestyle="", marker="s" if place < 2 else "o", markersize=4, color=style[0])
        if null is not None:
            axes.plot([place - 0.35, place + 0.35], [null, null], color="black", linewidth=1.2, linestyle="--")
    axes.axhline(0.9, color="0.4", linewidth=0.9, linestyle=":")
    axes.set_xticks(range(len(columns)), [label for label, *_ in columns], fontsize="x-small")
    axes.set(title="(a) Scores of heads", ylabel="score", ylim=(-0.02, 1.05))


def _parts(axes: "Axes", trained: pd.DataFrame, variants: list[str]) -> None:
    for place, variant in enumerate(variants):
        colour, marker = SERIES[place % len(SERIES)][0], MARKERS[place % len(MARKERS)]
        offset = 0.2 * (place - (len(variants) - 1) / 2)
        for column, metric in enumerate(PARTS):
            values = trained[(trained["variant"] == variant) & (trained["metric"] == metric)]["value"]
            where = np.full(len(values), column + offset)
            axes.plot(where[:2], [values.min(), values.max()], color=colour, linewidth=3, alpha=0.3)
            axes.plot(where, values, linestyle="", marker=marker, markersize=3, color=colour)
        axes.plot([], [], linestyle="", marker=marker, color=colour, label=variant)
    axes.axhline(0.5, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(PARTS)), [*PARTS.values()], fontsize="small")
    axes.set(title="(b) What the scores of trained heads are made of", ylabel="1 for the construction", ylim=(-0.02, 1.05))
    axes.legend(title=None, fontsize="x-small", loc="lower left")
