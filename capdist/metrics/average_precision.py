"""Average precision: how well scores rank the positives above the negatives.

    AP = Σ_n (R_n - R_{n-1}) P_n

over the distinct scores from the highest to the lowest, with the precision P_n and the recall R_n
of all entries that score at least as much. Ties are one step of the sum, so their order in the
array does not matter; this is the definition of scikit-learn's ``average_precision_score``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def average_precision(scores: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """The average precision (N,) of each row's ranking; NaN for a row without positives.

    Args:
        scores: (N, M), higher is likelier.
        truth: (N, M), 0 or 1.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    hits = np.take_along_axis(truth, order, axis=1).astype(np.float64)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    # Tied scores all have the precision after the last of them.
    last = np.full(ranked.shape, hits.shape[1] - 1)
    last[:, :-1][ranked[:, :-1] != ranked[:, 1:]] = np.nonzero(ranked[:, :-1] != ranked[:, 1:])[1]
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    summed = (hits * np.take_along_axis(precision, last, axis=1)).sum(axis=1)
    total = hits.sum(axis=1)
    return np.divide(summed, total, out=np.full(len(hits), np.nan), where=total > 0)


def mean_average_precision(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """The mean over the rows with positives; 0 if there is none.

    With one row per word, it measures how well each word retrieves its images; with one row per
    image, how well each image's words are ranked.
    """
    each = average_precision(scores, truth)
    defined = each[~np.isnan(each)]
    return float(defined.mean()) if len(defined) else 0.0
