"""Concepts: the words that a picture calls for, predicted from its region features.

A plain stand-in for the concept detectors of the papers: ridge regression, one output for each
word, from an image's mean-pooled and max-pooled regions. A training image's concepts come from a
model that was fitted, its penalty λ chosen included, without that image's captions; otherwise a
captioning model would be trained on concepts better than it will ever get. Only the word list
itself is drawn from all training captions.

Legend: N images, P pooled width (twice the feature width), W words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shards.schema import Array, ShardError

Concepts = tuple[tuple[str, float], ...]

FOLDS = 5
PENALTIES = (1e1, 1e2, 1e3, 3e3, 1e4, 3e4, 1e5)

_STOP_TEXT = """
a an the this that these those some any each every all both another other others one
i me my you your he him his she her hers it its we us our they them their who whom whose
which what himself herself itself themselves something someone there here
am is are was were be been being has have had having do does did doing can could will would
shall should may might must
about above across after against along among around as at away back before behind below
beneath beside between beyond by down during for from in inside into near next of off on onto
out outside over past through to together toward towards under underneath up upon while with
within without
and but or nor so yet if then than because when where how not no
very just too also only more most s t
"""
_STOP_WORDS = frozenset(_STOP_TEXT.split())


def commonest_words(images: Iterable[Sequence[Sequence[str]]], count: int) -> tuple[str, ...]:
    """The content words in most captions, commonest first, ties in alphabetical order.

    Args:
        images: the tokenised captions of each training image.
        count: how many words; fewer if the captions have fewer.
    """
    captions = Counter(
        word
        for captions in images
        for tokens in captions
        for word in set(tokens)
        if word.isalpha() and word not in _STOP_WORDS
    )
    ranked = sorted(captions, key=lambda word: (-captions[word], word))
    return tuple(ranked[:count])


def pool(regions: Array) -> Array:
    """Pooled features (P,) float64 of regions (R, F): their mean, then their maximum."""
    wide = regions.astype(np.float64)
    return np.concatenate([wide.mean(axis=0), wide.max(axis=0)])


def targets(images: Iterable[Collection[str]], words: Sequence[str]) -> Array:
    """Which words (N, W) occur in each image's captions, 0 or 1."""
    return np.array([[word in said for word in words] for said in images], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted model: scores = standardised X · ``weights`` + ``bias``; X is (N, P)."""

    penalty: float
    mean: Array
    deviation: Array
    weights: Array
    bias: Array

    def __call__(self, X: Array) -> Array:
        """Scores (N, W) in 0..1, rounded: the last bits depend on the machine's BLAS."""
        scores = (X - self.mean) / self.deviation @ self.weights + self.bias
        return np.asarray(scores.clip(0, 1).round(4))


def fit_path(X: Array, Y: Array, penalties: Sequence[float]) -> list[Ridge]:
    """Ridge models of X (N, P) and Y (N, W), one for each penalty λ, the bias unpenalised.

    weights = (XᵀX + λI)⁻¹ Xᵀ(Y − ȳ) with X standardised.
    """
    mean, deviation = X.mean(axis=0), X.std(axis=0)
    deviation[deviation == 0] = 1
    Z, bias = (X - mean) / deviation, Y.mean(axis=0)
    # One decomposition XᵀX = QΛQᵀ serves every λ.
    eigenvalues, Q = np.linalg.eigh(Z.T @ Z)
    rotated = Q.T @ (Z.T @ (Y - bias))
    return [
        Ridge(penalty, mean, deviation, Q @ (rotated / (eigenvalues + penalty)[:, None]), bias)
        for penalty in penalties
    ]


def fit(X: Array, Y: Array) -> Ridge:
    """The ridge model of X and Y whose λ ranks the words of a held-out fifth best."""
    held = _folds(len(X)) == 0
    precisions = [
        mean_average_precision(model(X[held]), Y[held])
        for model in fit_path(X[~held], Y[~held], PENALTIES)
    ]
    return fit_path(X, Y, [PENALTIES[int(np.argmax(precisions))]])[0]


def cross_fit(X: Array, Y: Array) -> Array:
    """Scores (N, W) of images, each by a model fitted on the other folds.

    Raises:
        ShardError: if there are too few images for folds within folds.
    """
    if len(X) < 2 * FOLDS:
        raise ShardError(
            f"{len(X)} training images are too few to learn concepts from, expected {2 * FOLDS} "
            "or more; build with --concepts 0"
        )
    scores = np.empty_like(Y)
    folds = _folds(len(X))
    for fold in range(FOLDS):
        held = folds == fold
        scores[held] = fit(X[~held], Y[~held])(X[held])
    return scores


def _folds(count: int) -> Array:
    """A fold (N,) for each image: dealt at random, for neighbours in a file are often alike."""
    return np.random.default_rng(count).permutation(count) % FOLDS


def mean_average_precision(scores: Array, truth: Array) -> float:
    """Mean of the average precision of ranking each row's columns; rows without a hit are left out.

    Rows as images say how well each image's words are ranked, which is how concepts are used; rows
    as words (both transposed) say how well each word finds its images.
    """
    hitting = truth.any(axis=1)
    if not hitting.any():
        return 0.0
    order = np.argsort(-scores[hitting], axis=1, kind="stable")
    hits = np.take_along_axis(truth[hitting], order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return float(np.mean((precision * hits).sum(axis=1) / hits.sum(axis=1)))


def best(scores: Array, words: Sequence[str], count: int) -> list[Concepts]:
    """The ``count`` highest of scores (N, W) for each image, ties in the words' order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return [
        tuple((words[w], float(row[w])) for w in ranked)
        for row, ranked in zip(scores, order.tolist(), strict=True)
    ]
