"""What each image contributes to corpus scores, and intervals from resampled images.

A bootstrap draws as many images as there are, with replacement, and scores them again. For two
captioners the same images are drawn for both, so that what makes an image hard cancels (Koehn,
EMNLP 2004). CIDEr's document frequencies stay those of all images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capdist.metrics.coco_java import Texts
from shards.progress import tracked

Floats = NDArray[np.float64]

#: The metrics that are known image by image, without Java.
METRICS = ("BLEU-4", "ROUGE-L", "CIDEr")
#: Percentiles of a 95 % interval.
_ENDS = (2.5, 97.5)
#: The least difference that is not printed as 0.0.
_PRINTED = 0.05
#: As pycocoevalcap: a count of 0 must not end in a division by 0.
_TINY, _SMALL = 1e-15, 1e-9


@dataclass(frozen=True)
class PerImage:
    """N images of one captioner.

    ``means``: by metric, scores × 100 (N,) whose mean is the corpus score; ``bleu`` (N, 4 + 4 + 2):
    n-grams in a reference, n-grams, and the lengths of caption and closest reference.
    """

    means: dict[str, Floats]
    bleu: Floats

    @classmethod
    def of(cls, references: Texts, captions: Texts) -> PerImage:
        """Of tokenised captions and references, by image in the same order."""
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        scorer = BleuScorer(n=4)
        for image, (caption,) in captions.items():
            scorer += (caption, references[image])
        means = {
            "ROUGE-L": 100 * np.array(Rouge().compute_score(references, captions)[1]),
            "CIDEr": 100 * np.array(Cider().compute_score(references, captions)[1]),
        }
        return cls(means, np.array([_bleu_counts(image) for image in scorer.ctest], np.float64))

    def scores(self, images: NDArray[np.int64]) -> dict[str, float]:
        """The corpus scores × 100 of these images, which may repeat."""
        found = {name: float(each[images].mean()) for name, each in self.means.items()}
        return {"BLEU-4": 100 * bleu_4(self.bleu[images].sum(0)), **found}


def _bleu_counts(image: dict[str, Sequence[int]]) -> list[float]:
    length = int(image["testlen"])  # type: ignore[call-overload]
    closest = min(image["reflen"], key=lambda reference: (abs(reference - length), reference))
    return [*image["correct"], *image["guess"], length, closest]


def bleu_4(counts: Floats) -> float:
    """BLEU-4 as a fraction, as pycocoevalcap computes it, of the sums (10,) over a corpus."""
    precisions = (counts[:4] + _TINY) / (counts[4:8] + _SMALL)
    ratio = (counts[8] + _TINY) / (counts[9] + _SMALL)
    brevity = np.exp(min(0.0, 1 - 1 / ratio))
    return float(precisions.prod() ** 0.25 * brevity)


@dataclass(frozen=True)
class Difference:
    """A metric of two captioners A and B: their scores, B - A, and its 95 % interval."""

    a: float
    b: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        return self.b - self.a

    @property
    def excludes_zero(self) -> bool:
        """Whether one is ahead of the other beyond the interval, and beyond what is printed.

        BLEU's smoothing constants alone make a difference of a hundredth.
        """
        return not self.low <= 0 <= self.high and abs(self.difference) >= _PRINTED


def interval(captioner: PerImage, resamples: int = 1000, seed: int = 0) -> dict[str, Floats]:
    """The ends (2,) of the 95 % interval of every metric."""
    draws = _tracked_draws(captioner, resamples, seed, inner=True)
    drawn = [captioner.scores(images) for images in draws]
    return {name: np.percentile([s[name] for s in drawn], _ENDS) for name in METRICS}


def compare(
    a: PerImage, b: PerImage, resamples: int = 1000, seed: int = 0, *, inner: bool = False
) -> dict[str, Difference]:
    """The paired difference of every metric, of two captioners of the same images.

    With ``inner``, its progress bar is a part of another one.
    """
    draws = _tracked_draws(a, resamples, seed, inner=inner)
    drawn = [(a.scores(images), b.scores(images)) for images in draws]
    everything = np.arange(len(a.bleu))
    all_a, all_b = a.scores(everything), b.scores(everything)
    found = {}
    for name in METRICS:
        low, high = np.percentile([there[name] - here[name] for here, there in drawn], _ENDS)
        found[name] = Difference(all_a[name], all_b[name], float(low), float(high))
    return found


def _tracked_draws(
    captioner: PerImage, resamples: int, seed: int, *, inner: bool
) -> Iterator[NDArray[np.int64]]:
    """As `_draws`, with a progress bar."""
    draws = _draws(captioner, resamples, seed)
    return tracked(draws, resamples, title="resampling images", unit="resample", inner=inner)


def _draws(captioner: PerImage, resamples: int, seed: int) -> NDArray[np.int64]:
    """(resamples, N) numbers of images."""
    count = len(captioner.bleu)
    return np.random.default_rng(seed).integers(count, size=(resamples, count))
