"""The constant-caption baseline: one training caption for every image."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from capdist.metrics.coco import ScoreError
from shards.progress import tracked

#: Training images that the candidates are scored on.
IMAGES = 1000

_ORDERS = 4
_SIGMA = 6.0

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
NGram = tuple[str, ...]


def constant_caption(
    train: Mapping[int, Sequence[Sequence[str]]], *, candidates: int = 200, seed: int = 0
) -> list[str]:
    """The training caption with the highest mean CIDEr when given to every image.

    The mean is that of `capdist.metrics.coco.cider` over a sample of `IMAGES` training images.
    Both samples are functions of the seed; of equally good candidates the first is returned.

    Args:
        train: image id to its tokenised captions, at least one.
        candidates: number of distinct captions to compare.
        seed: draws the images and the candidates.

    Returns:
        The caption's tokens.

    Raises:
        ScoreError: if no caption has a word.
    """
    captions = sorted({tuple(caption) for refs in train.values() for caption in refs if caption})
    if not captions:
        raise ScoreError("no training caption has a word; check the captions of the train split")
    rng = random.Random(seed)
    ids = rng.sample(sorted(train), min(IMAGES, len(train)))
    chosen: list[NGram] = rng.sample(captions, min(candidates, len(captions)))
    references = _References([train[key] for key in ids])
    title = "scoring constant captions"
    candidate = tracked(chosen, len(chosen), title=title, unit="caption", inner=True)
    scores = [references.mean_cider(caption) for caption in candidate]
    return list(chosen[int(np.argmax(scores))])


class _References:
    """CIDEr-D against the references of a fixed set of images, with an inverted index."""

    def __init__(self, images: Sequence[Sequence[Sequence[str]]]) -> None:
        refs = [caption for captions in images for caption in captions]
        image_of = np.repeat(np.arange(len(images)), [len(captions) for captions in images])
        self.weight = 1 / np.bincount(image_of)[image_of] / len(images)  # of each reference's score
        self.bigrams = np.array([max(len(caption) - 1, 0) for caption in refs])
        postings: dict[NGram, list[tuple[int, int]]] = {}
        for position, caption in enumerate(refs):
            for ngram, count in _ngrams(caption).items():
                postings.setdefault(ngram, []).append((position, count))
        self.postings: dict[NGram, Ints] = {g: np.array(p).T for g, p in postings.items()}
        self.log_images = math.log(len(images))
        self.idf: dict[NGram, float] = {
            ngram: self.log_images - math.log(len(np.unique(image_of[where])))
            for ngram, (where, _) in self.postings.items()
        }
        self.norms = np.sqrt(self._squares(len(refs)))

    def mean_cider(self, caption: NGram) -> float:
        """The mean over images of 10 · the mean over references and n of CIDEr-D's similarity."""
        products = np.zeros_like(self.norms)
        squares = np.zeros((_ORDERS, 1))
        for ngram, count in _ngrams(caption).items():
            order, idf = len(ngram) - 1, self.idf.get(ngram, self.log_images)
            squares[order] += (count * idf) ** 2
            if ngram in self.postings:
                where, counts = self.postings[ngram]
                products[order, where] += np.minimum(count, counts) * counts * idf**2
        norms = np.sqrt(squares) * self.norms
        cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
        delta = max(len(caption) - 1, 0) - self.bigrams
        penalty = np.exp(-(delta**2) / (2 * _SIGMA**2))
        return float(10 * (cosines.mean(axis=0) * penalty) @ self.weight)

    def _squares(self, count: int) -> Floats:
        """(4, references): the squared norm of each reference's tf-idf vector of each order."""
        squares = np.zeros((_ORDERS, count))
        for ngram, (where, counts) in self.postings.items():
            squares[len(ngram) - 1, where] += (counts * self.idf[ngram]) ** 2
        return squares


def _ngrams(caption: Sequence[str]) -> Counter[NGram]:
    return Counter(
        tuple(caption[start : start + order])
        for order in range(1, _ORDERS + 1)
        for start in range(len(caption) - order + 1)
    )
