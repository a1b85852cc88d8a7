import math
import re

import pytest

from activation_descent.claims import Condition
from activation_descent.page.rule_picture import WIDTH, draw_rule, intervals


def zones(picture, name):
    """Left and right edges of the zones of one kind."""
    found = re.findall(rf'class="{name}" x="([-\d.]+)" y="[\d.]+" width="([-\d.]+)"', picture)
    return [(float(x), float(x) + float(width)) for x, width in found]


def test_zones_and_interval_stand_where_the_numbers_are():
    # from -0.12 to 1.12: 180 pixels are 1.24
    picture = draw_rule(">= 0.5", "<= 0", 0.75, 0.5, 1.0)
    assert zones(picture, "supported") == [(pytest.approx(0.62 / 1.24 * WIDTH, abs=0.1), pytest.approx(WIDTH, abs=0.1))]
    assert zones(picture, "refuted") == [(0, pytest.approx(0.12 / 1.24 * WIDTH, abs=0.1))]
    assert zones(picture, "interval") == [
        (pytest.approx(0.62 / 1.24 * WIDTH, abs=0.1), pytest.approx(1.12 / 1.24 * WIDTH, abs=0.1))
    ]
    assert float(re.search(r'cx="([\d.]+)"', picture)[1]) == pytest.approx(0.87 / 1.24 * WIDTH, abs=0.1)


@pytest.mark.parametrize(
    ("condition", "parts"),
    [
        ("<= 1", [(0, 1)]),
        ("< 1", [(0, 1)]),
        (">= 1", [(1, 5)]),
        ("> 1", [(1, 5)]),
        ("in [1, 2]", [(1, 2)]),
        ("outside [1, 2]", [(0, 1), (2, 5)]),
    ],
)
def test_the_parts_of_a_range_that_meet_a_condition(condition, parts):
    assert intervals(Condition.parse(condition), 0.0, 5.0) == parts


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_no_picture(bad):
    assert draw_rule(">= 1", "< 1", bad, 0.0, 1.0) is None
    assert draw_rule(">= 1", "< 1", 1.0, bad, 1.0) is None


def test_a_range_of_one_number_can_be_drawn():
    assert "nan" not in draw_rule(">= 0", "< 0", 0.0, 0.0, 0.0)
    assert "nan" not in draw_rule(">= 2", "< 2", 2.0, 2.0, 2.0)
