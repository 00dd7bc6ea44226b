"""Average precision equals its definition, threshold by threshold, and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from capdist.metrics.average_precision import average_precision, mean_average_precision


def by_definition(scores: list[float], truth: list[float]) -> float:
    """Σ (R_n - R_{n-1}) P_n over the distinct scores, as in scikit-learn's manual."""
    positives, previous, summed = sum(truth), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [t for s, t in zip(scores, truth, strict=True) if s >= threshold]
        recall = sum(chosen) / positives
        summed += (recall - previous) * sum(chosen) / len(chosen)
        previous = recall
    return summed


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        # The example of scikit-learn's manual: 0.83.
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], (1 + 2 / 3) / 2),
        ([0.9, 0.8, 0.7], [0, 0, 1], 1 / 3),
        ([0.9, 0.8, 0.7], [1, 1, 1], 1.0),
        # Ties are one step, in any order: the precision after both is 1/2.
        ([0.5, 0.5], [1, 0], 1 / 2),
        ([0.5, 0.5], [0, 1], 1 / 2),
        # 1 of 1 at 0.9; the three at 0.5 include the other two positives: 3 of 4.
        ([0.5, 0.9, 0.5, 0.5], [1, 1, 0, 1], 1 / 3 + 2 / 3 * 3 / 4),
        # A constant score has the share of positives.
        ([0.3] * 8, [1, 0, 0, 0, 0, 0, 1, 0], 2 / 8),
        ([7.0], [1], 1.0),
    ],
)
def test_equals_hand_computed_values(
    scores: list[float], truth: list[float], expected: float
) -> None:
    assert by_definition(scores, truth) == pytest.approx(expected)
    found = average_precision(np.array([scores]), np.array([truth]))
    assert found == pytest.approx([expected])


@pytest.mark.parametrize("digits", [1, 2, 8])
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 13), (23, 31)])
def test_equals_the_definition(shape: tuple[int, int], digits: int) -> None:
    rng = np.random.default_rng(digits)
    scores = rng.random(shape).round(digits).astype(np.float32)
    truth = rng.random(shape) > 0.7
    found = average_precision(scores, truth)
    rows = zip(scores.tolist(), truth.astype(float).tolist(), strict=True)
    for value, (row, hits) in zip(found, rows, strict=True):
        if sum(hits):
            assert value == pytest.approx(by_definition(row, hits), rel=1e-12)
        else:
            assert math.isnan(value)


def test_the_mean_leaves_out_rows_without_positives() -> None:
    scores = np.array([[0.9, 0.8], [0.1, 0.2], [0.3, 0.4]])
    truth = np.array([[1, 0], [0, 0], [1, 0]])
    assert mean_average_precision(scores, truth) == pytest.approx((1 + 1 / 2) / 2)
    assert mean_average_precision(scores, np.zeros((3, 2))) == 0
    assert mean_average_precision(np.zeros((0, 2)), np.zeros((0, 2))) == 0
