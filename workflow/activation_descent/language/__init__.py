"""A language model that learns in context, trained here, and any other by name."""

STUDY = "language"
