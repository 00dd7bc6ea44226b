"""CIDEr-D with dictionaries: the specification of `capdist.metrics.cider_d`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

NGram = tuple[int, ...]
References = Mapping[int, Sequence[Sequence[int]]]


def ngrams(caption: Sequence[int]) -> Counter[NGram]:
    return Counter(
        tuple(caption[start : start + order])
        for order in (1, 2, 3, 4)
        for start in range(len(caption) - order + 1)
    )


def document_frequency(references: References) -> Counter[NGram]:
    """In how many images each n-gram occurs."""
    df: Counter[NGram] = Counter()
    for captions in references.values():
        df.update({ngram for caption in captions for ngram in ngrams(caption)})
    return df


def cider_d(
    hypothesis: Sequence[int],
    references: Sequence[Sequence[int]],
    df: Mapping[NGram, int],
    images: int,
    sigma: float = 6.0,
) -> float:
    """10 · the mean over references and orders of the clipped, penalised cosine."""

    def vectors(caption: Sequence[int]) -> list[dict[NGram, float]]:
        found: list[dict[NGram, float]] = [{}, {}, {}, {}]
        for ngram, count in ngrams(caption).items():
            idf = math.log(images) - math.log(max(1, df.get(ngram, 0)))
            found[len(ngram) - 1][ngram] = count * idf
        return found

    def length(vector: Mapping[NGram, float]) -> float:
        return math.sqrt(sum(weight**2 for weight in vector.values()))

    total = 0.0
    for reference in references:
        bigrams = max(len(hypothesis) - 1, 0) - max(len(reference) - 1, 0)
        penalty = math.exp(-(bigrams**2) / (2 * sigma**2))
        for mine, theirs in zip(vectors(hypothesis), vectors(reference), strict=True):
            product = sum(
                min(mine[ngram], theirs[ngram]) * theirs[ngram] for ngram in mine if ngram in theirs
            )
            if product:
                total += penalty * product / (length(mine) * length(theirs))
    return 10 * total / 4 / len(references)
