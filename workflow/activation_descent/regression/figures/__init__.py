"""The figures of the study by kind. Each is drawn by one function of tables of records, settings of variants, evaluation, snapshots."""

from activation_descent.regression.figures import (
    classic_tokens,
    courses,
    depth,
    generalisation,
    ladder,
    layer_norm,
    matrices,
    one_layer,
    sine,
    softmax,
    updates,
)

DRAW = {
    "one_layer": one_layer.draw,
    "depth": depth.draw,
    "generalisation": generalisation.draw,
    "matrices": matrices.draw,
    "softmax": softmax.draw,
    "layer_norm": layer_norm.draw,
    "ladder": ladder.draw,
    "spectra": ladder.draw_spectra,
    "classic_tokens": classic_tokens.draw,
    "fixed_data": courses.draw_fixed_data,
    "seed_spread": courses.draw_seed_spread,
    "linear_maps": courses.draw_linear_maps,
    "sine": sine.draw,
    "updates": updates.draw,
}
