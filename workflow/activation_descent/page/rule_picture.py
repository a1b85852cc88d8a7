"""A claim's rule as a picture: the sets in which it is supported or refuted, and the interval of its statistic."""

import math

from activation_descent.claims import Condition

WIDTH, HEIGHT, MARGIN = 180, 16, 0.12  # pixels; share of the range that is left free at each end


def draw_rule(supported: str, refuted: str, value: float, low: float, high: float) -> str | None:
    """An SVG for the page, without words: the text beside it says the same.

    Args:
        supported, refuted: conditions as in `config/claims.yaml`.
        low, high: ends of the interval, in the unit of the bounds.

    Returns:
        None where the statistic or an end of its interval is not finite.
    """
    if not all(map(math.isfinite, (value, low, high))):
        return None
    conditions = {"supported": Condition.parse(supported), "refuted": Condition.parse(refuted)}
    marks = [low, value, high, *(bound for condition in conditions.values() for bound in condition.bounds)]
    free = MARGIN * (max(marks) - min(marks)) or abs(value) or 1.0
    left, right = min(marks) - free, max(marks) + free

    def x(number: float) -> float:
        return WIDTH * (number - left) / (right - left)

    zones = [
        f'<rect class="{name}" x="{x(a):.1f}" y="1" width="{x(b) - x(a):.1f}" height="{HEIGHT - 2}"/>'
        for name, condition in conditions.items()
        for a, b in intervals(condition, left, right)
    ]
    middle, wide = HEIGHT / 2, max(x(high) - x(low), 1.5)
    return (
        f'<svg class="rule" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{"".join(zones)}'
        f'<rect class="interval" x="{x(low):.1f}" y="{middle - 1.5}" width="{wide:.1f}" height="3"/>'
        f'<circle class="interval" cx="{x(value):.1f}" cy="{middle}" r="3.5"/></svg>'
    )


def intervals(condition: Condition, left: float, right: float) -> list[tuple[float, float]]:
    """The parts of [left, right] that meet a condition. All its bounds lie within."""
    first, last = condition.bounds[0], condition.bounds[-1]
    match condition.relation:
        case "<=" | "<":
            return [(left, first)]
        case ">=" | ">":
            return [(first, right)]
        case "in":
            return [(first, last)]
        case _:  # outside
            return [(left, first), (last, right)]
