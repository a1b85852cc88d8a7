import numpy as np
import pytest

from activation_descent.seeding import generator

NAME = ("regression", "one_layer", "half", "train")


def draws(*name, **position):
    return generator(0, *(name or NAME), **position).random(1000)


def test_a_name_gives_the_same_numbers_again():
    assert np.array_equal(draws(seed=3, step=7), draws(seed=3, step=7))


@pytest.mark.parametrize(
    "other",
    [
        draws("regression", "one_layer", "half", "evaluate"),
        draws("regression", "one_layer", "full", "train"),
        draws("regression", "other", "half", "train"),
        draws("lens", "one_layer", "half", "train"),
        draws(seed=1),
        draws(step=1),
        generator(1, *NAME).random(1000),
    ],
)
def test_another_name_gives_independent_numbers(other):
    # |correlation| of 1,000 independent pairs exceeds .15 about twice in a million times
    assert abs(np.corrcoef(draws(), other)[0, 1]) < 0.15


def test_seed_and_step_do_not_stand_for_one_another():
    assert not np.array_equal(draws(seed=1, step=2), draws(seed=2, step=1))


@pytest.mark.parametrize("position", [{"seed": -1}, {"step": -1}])
def test_negative_positions_are_refused(position):
    with pytest.raises(ValueError, match="negative"):
        generator(0, *NAME, **position)
