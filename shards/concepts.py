"""Concepts: words that describe an image, predicted from its region features.

A simple substitute for the concept detectors of the papers: ridge regression, one output per word,
on an image's mean-pooled and max-pooled regions. The concepts of a training image come from a model
that was fitted, and whose penalty λ was chosen, without that image's captions. Otherwise a
captioning model would be trained on better concepts than it gets at test time. Only the word list
itself comes from all training captions.

Legend: N images, P pooled width (twice the feature width), W words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shards.progress import tracked
from shards.schema import Array, ShardError
from shards.tokenisers import is_word

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
#: Words that name no concept.
STOP_WORDS = frozenset(_STOP_TEXT.split())


def captions_with_words(images: Iterable[Sequence[Sequence[str]]]) -> Counter[str]:
    """How many captions have each word; ``images`` are the tokenised captions of each."""
    return Counter(word for captions in images for tokens in captions for word in set(tokens))


def commonest_words(captions: Mapping[str, int], count: int) -> tuple[str, ...]:
    """The content words that most captions have, most frequent first, ties in alphabetical order.

    Args:
        captions: how many training captions have each word.
        count: number of words; the result is shorter if the captions have fewer.

    Raises:
        ShardError: if they have none.
    """
    content = [word for word in captions if is_word(word) and word not in STOP_WORDS]
    if not content:
        raise ShardError(
            "the training captions have no content word to learn as a concept; check their tokens, "
            "or do without concepts"
        )
    ranked = sorted(content, key=lambda word: (-captions[word], word))
    return tuple(ranked[:count])


def pool_regions(regions: Array) -> Array:
    """Pooled features (P,) float64 of regions (R, F): their mean, then their maximum."""
    regions = regions.astype(np.float64)
    return np.concatenate([regions.mean(axis=0), regions.max(axis=0)])


def word_targets(images: Iterable[Collection[str]], words: Sequence[str]) -> Array:
    """Targets (N, W): 1.0 if a word occurs in an image's captions.

    Args:
        images: all caption words of each image.
        words: the word list.
    """
    return np.array([[word in caption_words for word in words] for caption_words in images], float)


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted model: scores = standardised X · ``weights`` + ``bias``; X is (N, P)."""

    penalty: float
    mean: Array
    deviation: Array
    weights: Array
    bias: Array

    def __call__(self, X: Array) -> Array:
        """Scores (N, W) in [0, 1], rounded because the last bits depend on the machine's BLAS."""
        scores = (X - self.mean) / self.deviation @ self.weights + self.bias
        return np.asarray(scores.clip(0, 1).round(4))


def fit_ridge_path(X: Array, Y: Array, penalties: Sequence[float]) -> list[Ridge]:
    """Ridge models of X (N, P) and Y (N, W), one for each penalty λ; the bias has no penalty.

    weights = (XᵀX + λI)⁻¹ Xᵀ(Y − ȳ), with X standardised.
    """
    mean, deviation = X.mean(axis=0), X.std(axis=0)
    deviation[deviation == 0] = 1
    Z, bias = (X - mean) / deviation, Y.mean(axis=0)
    targets = Y - bias
    # One decomposition is enough for all λ: XᵀX = QΛQᵀ, or XXᵀ = QΛQᵀ where X has fewer rows than
    # columns, since (XᵀX + λI)⁻¹ Xᵀ = Xᵀ (XXᵀ + λI)⁻¹.
    if len(Z) < Z.shape[1]:
        eigenvalues, Q = np.linalg.eigh(Z @ Z.T)
        left, rotated = Z.T @ Q, Q.T @ targets
    else:
        eigenvalues, Q = np.linalg.eigh(Z.T @ Z)
        left, rotated = Q, Q.T @ (Z.T @ targets)
    return [
        Ridge(penalty, mean, deviation, left @ (rotated / (eigenvalues + penalty)[:, None]), bias)
        for penalty in penalties
    ]


def fit(X: Array, Y: Array) -> Ridge:
    """The ridge model of X (N, P) and Y (N, W).

    Its λ has the highest mean average precision on a held-out fifth of the images.
    """
    held_out = _folds(len(X)) == 0
    precisions = [
        mean_average_precision(model(X[held_out]), Y[held_out])
        for model in fit_ridge_path(X[~held_out], Y[~held_out], PENALTIES)
    ]
    return fit_ridge_path(X, Y, [PENALTIES[int(np.argmax(precisions))]])[0]


def check_enough(images: int) -> None:
    """Refuse too few training images to choose λ within a fold.

    Raises:
        ShardError: with their number.
    """
    if images < 2 * FOLDS:
        raise ShardError(
            f"{images} training images are too few to learn concepts from, expected at least "
            f"{2 * FOLDS}; apply the predictor of a run or other shards with --concepts-from DIR, "
            "or build without concepts: --concepts 0"
        )


def cross_fit(X: Array, Y: Array) -> Array:
    """Out-of-fold scores (N, W): each image's from a model that was fitted on the other folds.

    Raises:
        ShardError: if there are too few images to choose λ within a fold.
    """
    check_enough(len(X))
    scores = np.empty_like(Y)
    folds = _folds(len(X))
    for fold in tracked(range(FOLDS), FOLDS, title="learning concepts", unit="fold"):
        held_out = folds == fold
        scores[held_out] = fit(X[~held_out], Y[~held_out])(X[held_out])
    return scores


def _folds(count: int) -> Array:
    """The fold (N,) of each image: random, because neighbours in a file are often similar."""
    return np.random.default_rng(count).permutation(count) % FOLDS


def mean_average_precision(scores: Array, truth: Array) -> float:
    """Mean average precision of ranking each row's columns by score; 0 if nothing is true.

        AP = Σ_k P(k) · true(k) / Σ_k true(k),   P(k) the precision of the k highest scores

    With images as rows it measures how well each image's words are ranked; with words as rows, how
    well each word retrieves its images. Rows in which nothing is true are left out.

    Equal scores rank in the order of the columns, as in `top_concepts`: so this measures the
    ranking that models are given. (scikit-learn treats equal scores as one step instead, which
    differs only in ties.)

    Args:
        scores: (N, M), higher is likelier.
        truth: (N, M), 0 or 1.
    """
    has_true = truth.any(axis=1)
    if not has_true.any():
        return 0.0
    order = np.argsort(-scores[has_true], axis=1, kind="stable")
    hits = np.take_along_axis(truth[has_true], order, axis=1).astype(np.float64)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return float(np.mean((precision * hits).sum(axis=1) / hits.sum(axis=1)))


def top_concepts(scores: Array, words: Sequence[str], count: int) -> list[Concepts]:
    """Each image's ``count`` words of highest score, from scores (N, W); ties in word order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return [
        tuple((words[w], float(row[w])) for w in ranked)
        for row, ranked in zip(scores, order.tolist(), strict=True)
    ]
