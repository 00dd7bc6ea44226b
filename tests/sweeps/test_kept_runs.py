"""Differences between rows of a sweep, from the CIDEr of their images."""

from __future__ import annotations

import numpy as np
import pytest

from capdist.sweeps.kept_runs import difference


def test_a_constant_difference_has_no_interval() -> None:
    a = [{1: 10.0, 2: 50.0, 3: 0.5}]
    found = difference(a, [{3: 2.5, 1: 12.0, 2: 52.0}])
    assert found == pytest.approx({"CIDEr": 2.0, "from": 2.0, "to": 2.0})


def test_the_interval_is_that_of_all_resamples_of_two_images() -> None:
    # Of two images, a quarter of the resamples has the first twice, a quarter the second twice.
    found = difference([{1: 0.0, 2: 0.0}], [{1: -1.0, 2: 3.0}])
    assert found == pytest.approx({"CIDEr": 1.0, "from": -1.0, "to": 3.0})


def test_the_spread_between_seeds_widens_the_interval() -> None:
    rng = np.random.default_rng(1)
    images = rng.normal(50, 20, 100)
    runs = [dict(enumerate(images + shift)) for shift in (-6.0, 0.0, 6.0)]
    alone = difference([runs[1]], [dict(enumerate(images + 3))])
    seeds = difference(runs, [dict(enumerate(np.array(list(r.values())) + 3)) for r in runs])
    assert alone == pytest.approx({"CIDEr": 3.0, "from": 3.0, "to": 3.0})
    assert seeds["CIDEr"] == pytest.approx(3.0)
    assert seeds["from"] is not None
    assert seeds["from"] < 0
