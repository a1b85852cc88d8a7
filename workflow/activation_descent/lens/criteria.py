"""When a probe of predictive coding says yes: the numbers that `lens.predictive_coding` judges by and figures draw."""

ALL = -1  # in the place of a layer: all of them

# The rule. Specificity, ratio, gain and copying as written down with the probes; the two others follow from what the probes ask
SPECIFIC = 0.03  # D2: share of the variance of -log p_s(x_{s+1})
ERROR_RATIO = (0.5, 1.5)  # D3: lambda
GAIN = 0.01  # D3: share of the updates' variance; a smaller drive is negligible
COPYING = 0.3  # D3: lambda below which what followed is passed on and what was predicted is not
# D4: "survives the control" without directions of token identity. If less than half is left, most of the slope was that the state looked
# like another token
SURVIVING = 0.5
# D4: "consistent with D3". b^- may be off by half, as in `ERROR_RATIO`; softmax and later loops bend responses to either side alike
AGREEMENT = (0.5, 2.0)
