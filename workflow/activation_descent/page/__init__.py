"""The page: the answer, every claim, the figures, and what a run cost."""
