"""What a metric is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric's unit and meaning; `finite` is False where divergence is a possible outcome."""

    unit: str
    meaning: str
    finite: bool = True
