"""Randomness as a pure function."""

import numpy as np

from spira.domain.draws import draw_seed, draws


def test_the_same_name_draws_the_same_numbers() -> None:
    """A draw can be repeated in another process, in any order."""
    first = draws(7, "noise", 3, "r-1").random(5)
    draws(7, "noise", 4, "r-1").random(100)

    assert np.array_equal(first, draws(7, "noise", 3, "r-1").random(5))


def test_every_part_of_the_name_matters() -> None:
    """Seed, purpose, epoch and recording each make another draw."""
    seeds = {
        draw_seed(7, "noise", 3, "r-1"),
        draw_seed(8, "noise", 3, "r-1"),
        draw_seed(7, "order", 3, "r-1"),
        draw_seed(7, "noise", 4, "r-1"),
        draw_seed(7, "noise", 3, "r-2"),
        draw_seed(7, "noise", 31, "r"),
    }

    assert len(seeds) == 6


def test_draws_do_not_change_between_releases() -> None:
    """The number is written down: changing it would change every published result."""
    assert draw_seed(42, "order", 0) == 6779314443711320597
