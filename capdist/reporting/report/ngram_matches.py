"""The n-grams that a caption shares with its references, as CIDEr weighs them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from capdist.reporting.report.data import NGram

#: n-grams to show, the longest first.
SHOWN = 12
_LONGEST = 4

Words = Sequence[str]


@dataclass(frozen=True)
class Frequencies:
    """In the references of how many images of a split each n-gram is."""

    images: int
    counts: Counter[tuple[str, ...]]

    @classmethod
    def of(cls, references: Iterable[Sequence[Words]]) -> Frequencies:
        counts: Counter[tuple[str, ...]] = Counter()
        images = list(references)
        for image in images:
            counts.update({ngram for reference in image for ngram in ngrams(reference)})
        return cls(len(images), counts)

    def matches(self, words: Words, references: Sequence[Words]) -> list[NGram]:
        """The longest and rarest n-grams of a caption that a reference has; weight = log N / df."""
        having = Counter(ngram for each in references for ngram in set(ngrams(each)))
        shared = [
            NGram(" ".join(ngram), having[ngram], round(self._weight(ngram), 2))
            for ngram in dict.fromkeys(ngrams(words))
            if having[ngram]
        ]
        shared.sort(key=lambda match: (-len(match.text.split()), -match.weight))
        return shared[:SHOWN]

    def _weight(self, ngram: tuple[str, ...]) -> float:
        return math.log(self.images / self.counts[ngram])


def ngrams(words: Words) -> list[tuple[str, ...]]:
    """All n-grams of 1 to 4 words."""
    return [
        tuple(words[start : start + n])
        for n in range(1, _LONGEST + 1)
        for start in range(len(words) - n + 1)
    ]
