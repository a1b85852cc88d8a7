"""The figure of the inside of in-context learning."""

from typing import TYPE_CHECKING

import pandas as pd

from activation_descent.finetuning.figures import FOOTER, bar
from activation_descent.plotting import SERIES, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMS = {
    "exact": "exact",
    "affine_map": "affine map of q",
    "linear_map": "linear map of q",
    "constant": "constant",
    "first_order": "softmax, first order",
    "linear_attention": "linear attention",
    "permuted_keys": "the same, keys permuted",
}
INSIDE: list[tuple[str, str, dict[tuple[str, str], str]]] = [
    (
        "Which part of the in-context change\nresembles fine-tuning",
        "cosine with fine-tuning's change",
        {
            ("direct", "part_similarity"): "demonstrations' values",
            ("direct", "part_null"): "the same, another query",
            ("dilution", "part_similarity"): "attention taken away",
            ("dilution", "part_null"): "the same, another query",
            ("inputs", "part_similarity"): "changed inputs",
            ("inputs", "part_null"): "the same, another query",
        },
    ),
    (
        "Are values error signals?\nTheir cosine above that of permuted tokens",
        "cosine above permuted",
        {
            ("all", "error_excess"): "loss of all tokens",
            ("label", "error_excess"): "loss of labels",
            ("all_contrast", "error_excess"): "what wrong labels change",
            ("label_contrast", "error_excess"): "the same, loss of labels",
        },
    ),
    (
        "Demonstrations shown 1, 2 and 4 times",
        "slope; share of variance",
        {
            ("dose", "dose_slope"): "growth of the heads' update\n(1: a sum, 0: a mean)",
            ("dose", "dose_kernel_slope"): "growth that softmax predicts",
            ("dose", "dose_mass_r_squared"): "R² of softmax's prediction",
            ("dose_of_one", "dose_slope"): "growth, one demonstration",
            ("dose", "dose_direction"): "cosine of update, 4 times and once",
        },
    ),
    (
        "Examples, orders and words:\nin context against fine-tuned",
        "correlation; share of ten words",
        {
            ("influence", "influence_correlation"): "influence of each demonstration",
            ("influence", "influence_reliability"): "in context, with another filler",
            ("orders", "order_correlation"): "margins over orders",
            ("fine_tuned", "token_overlap"): "ten likeliest words in common",
            ("reordered_in_context", "token_overlap"): "in context, with another order",
        },
    ),
    (
        "How much of the in-context change\na change of keys and values reaches",
        "share; cosine",
        {
            ("oracle", "oracle_share"): "best keys and values",
            ("demonstrations", "line_share"): "along the gradient",
            ("wrong_labels", "line_share"): "along that of wrong labels",
            ("another_task", "line_share"): "along that of another task",
            ("gaussian", "line_share"): "along a random direction",
            ("demonstrations", "oracle_alignment"): "cosine of gradient and best",
            ("ceiling", "oracle_alignment"): "cosine where the gradient was best",
        },
    ),
]


def draw_inside(name: str, inside: pd.DataFrame) -> "Figure":
    """The patching ladder, what carries the similarity, error signals, doses, orders and influences, and the oracle."""
    figure, axes = panels(
        f"Inside the in-context learning of {name}: what is left when it is replaced, and what it resembles",
        2,
        3,
        (15.5, 8.0),
        FOOTER.format(scope="At the predicting token. Heads count by how much they look at the demonstrations."),
    )
    ladder = axes[0][0]
    for row, form in enumerate(reversed(FORMS)):
        for offset, metric, (colour, _) in ((0.15, "patched_gain", SERIES[1]), (-0.15, "patched_r_squared", SERIES[2])):
            bar(ladder, inside[(inside["control"] == form) & (inside["metric"] == metric)], row + offset, colour)
    ladder.set_yticks(range(len(FORMS)), [*reversed(FORMS.values())])
    ladder.set(title="Attention to the demonstrations replaced by", xlabel="share kept", xlim=(-0.6, 1.25))
    ladder.axvline(0, color="black", linewidth=0.8)
    ladder.plot([], [], color=SERIES[1][0], label="gain in margin")
    ladder.plot([], [], color=SERIES[2][0], label="R² of the heads' updates")
    ladder.legend(loc="lower right", fontsize="x-small")
    for panel, (title, xlabel, rows) in zip(axes.flat[1:], INSIDE, strict=True):
        for place, (control, metric) in enumerate(reversed(rows)):
            bar(panel, inside[(inside["control"] == control) & (inside["metric"] == metric)], place, SERIES[0][0])
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_yticks(range(len(rows)), [*reversed(rows.values())])
        panel.set(title=title, xlabel=xlabel)
        panel.locator_params(axis="x", nbins=6)
    return figure
