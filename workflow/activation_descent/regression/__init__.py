"""In-context linear regression: trained linear self-attention against gradient descent (von Oswald et al. 2022)."""

STUDY = "regression"
