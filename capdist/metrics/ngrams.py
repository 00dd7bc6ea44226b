"""Compiled loops over the n-grams of captions.

N-grams are compared word by word, so that their identity is exact. Numba's cache of a function
does not notice a change in another file: what is compiled calls only what stands here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from capdist.metrics.captions import Captions, Floats, Int32s, Ints, References

#: N-grams have 1 to this many words.
ORDERS = 4

#: Bits of the last word in an n-gram's key.
TOKEN_BITS = 31

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio (Knuth, TAOCP 6.4)
_BUCKETS = 1024


class Table(NamedTuple):
    """N-grams with their idf, hashed; one that is not there has ``unseen``.

    An n-gram's key is ``(slot of its first n - 1 words + 1) << 31 | last word``, that of a single
    word the word. ``keys`` (slots,) int64, a power of two of them, -1 where empty; ``idf`` (slots,)
    float64. Looking up enters nothing.
    """

    keys: Ints
    idf: Floats
    unseen: float


@njit(cache=True, nogil=True)
def _find(keys: Ints, key: int) -> int:
    """The slot of a key, or the empty one where it would stand."""
    mask = len(keys) - 1
    slot = np.int64((np.uint64(key) * _MULTIPLIER) >> np.uint64(32)) & mask
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def fill(table: Table, parents: Ints, words: Ints, idf: Floats) -> None:
    """Enter n-grams, each behind that of its first words, into an empty table.

    Args:
        table: filled.
        parents: (n,) which n-gram the first words are; -1 where there is one word.
        words: (n,) last words.
        idf: (n,).
    """
    slots = np.empty(len(parents), np.int64)
    for number in range(len(parents)):
        parent = parents[number]
        before = slots[parent] if parent >= 0 else -1
        key = (before + 1) << TOKEN_BITS | words[number]
        slots[number] = _find(table.keys, key)
        table.keys[slots[number]] = key
        table.idf[slots[number]] = idf[number]


class _Index(NamedTuple):
    """Where a caption's words stand in it: chains of places, a bucket by a word's last bits.

    ``heads`` (buckets,) and ``following`` (L,) int64, -1 at the end of a chain.
    """

    heads: Ints
    following: Ints


@njit(cache=True, nogil=True)
def _index(longest: int) -> _Index:
    """Of no caption yet."""
    return _Index(np.full(_BUCKETS, -1), np.empty(longest, np.int64))


@njit(cache=True, nogil=True)
def _enter(index: _Index, caption: Int32s) -> None:
    for place in range(len(caption)):
        bucket = caption[place] & (_BUCKETS - 1)
        index.following[place] = index.heads[bucket]
        index.heads[bucket] = place


@njit(cache=True, nogil=True)
def _leave(index: _Index, caption: Int32s) -> None:
    for place in range(len(caption)):
        index.heads[caption[place] & (_BUCKETS - 1)] = -1


@njit(cache=True, nogil=True)
def _count(index: _Index, caption: Int32s, other: Int32s, found: Floats) -> None:
    """How often the n-grams that begin at each place of an indexed caption occur in another.

    Into ``found`` (L, 4), by place and order.
    """
    heads, following = index.heads, index.following
    found[: len(caption)] = 0.0
    for begin in range(len(other)):
        place = heads[other[begin] & (_BUCKETS - 1)]
        while place >= 0:
            for order in range(min(ORDERS, len(caption) - place, len(other) - begin)):
                if caption[place + order] != other[begin + order]:
                    break
                found[place, order] += 1.0
            place = following[place]


@njit(cache=True, nogil=True)
def _caption(captions: Captions, number: int) -> Int32s:
    return captions.tokens[captions.starts[number] : captions.starts[number + 1]]


@njit(cache=True, nogil=True)
def _longest(captions: Captions) -> int:
    longest = 0
    for number in range(len(captions.starts) - 1):
        longest = max(longest, captions.starts[number + 1] - captions.starts[number])
    return longest


@njit(cache=True, nogil=True)
def _weigh(caption: Int32s, table: Table, counts: Floats, weights: Floats, norms: Floats) -> None:
    """Idf^2 of the n-grams at each place, shared among a caption's ``counts`` of the same one.

    Into ``weights`` (L, 4), so that a sum over places is one over different n-grams; ``norms``
    (4,) gets the inverse lengths of the tf-idf vectors, 0 where that is 0.
    """
    keys, known_idf = table.keys, table.idf
    norms[:] = 0.0
    for place in range(len(caption)):
        weights[place] = 0.0
        slot, known = -1, True
        for order in range(min(ORDERS, len(caption) - place)):
            idf = table.unseen
            if known:  # else no longer n-gram is either
                key = (slot + 1) << TOKEN_BITS | caption[place + order]
                slot = _find(keys, key)
                known = keys[slot] == key
                if known:
                    idf = known_idf[slot]
            weights[place, order] = idf**2 / counts[place, order]
            norms[order] += idf**2 * counts[place, order]
    for order in range(ORDERS):
        norms[order] = 1 / math.sqrt(norms[order]) if norms[order] > 0 else 0.0


@njit(cache=True, nogil=True)
def inverse_norms(captions: Captions, table: Table) -> Floats:
    """(C, 4): 1 / the length of each caption's tf-idf vector of each order, 0 where that is 0."""
    longest = _longest(captions)
    index = _index(longest)
    counts, weights = np.empty((longest, ORDERS)), np.empty((longest, ORDERS))
    norms = np.empty((len(captions.starts) - 1, ORDERS))
    for number in range(len(norms)):
        caption = _caption(captions, number)
        _enter(index, caption)
        _count(index, caption, caption, counts)
        _leave(index, caption)
        _weigh(caption, table, counts, weights, norms[number])
    return norms


@njit(cache=True, nogil=True)
def cider_d(
    captions: Captions,
    places: Ints,
    references: References,
    norms: Floats,
    table: Table,
    sigma: float,
) -> Floats:
    """(N,) CIDEr-D of captions, as `capdist.metrics.cider_d` has it.

    Args:
        captions: N of them.
        places: (N,) where their images stand among the references'.
        references: of M images.
        norms: `inverse_norms` of the references.
        table: idf of n-grams.
        sigma: of the length penalty, in words.
    """
    longest = _longest(captions)
    index = _index(longest)
    counts, weights = np.empty((longest, ORDERS)), np.empty((longest, ORDERS))
    found, norm, products = np.empty((longest, ORDERS)), np.empty(ORDERS), np.empty(ORDERS)
    scores = np.zeros(len(places))
    for row in range(len(places)):
        caption = _caption(captions, row)
        _enter(index, caption)
        _count(index, caption, caption, counts)
        _weigh(caption, table, counts, weights, norm)
        first, last = references.first[places[row]], references.first[places[row] + 1]
        for number in range(first, last):
            reference = _caption(references.captions, number)
            _count(index, caption, reference, found)
            products[:] = 0.0
            for place in range(len(caption)):
                for order in range(ORDERS):
                    count = found[place, order]
                    clipped = min(count, counts[place, order])
                    products[order] += weights[place, order] * clipped * count
            similarity = 0.0
            for order in range(ORDERS):
                similarity += products[order] * norm[order] * norms[number, order]
            longer = max(len(caption) - 1, 0) - max(len(reference) - 1, 0)
            scores[row] += similarity * math.exp(-(longer**2) / (2 * sigma**2))
        scores[row] *= 10 / ORDERS / (last - first)
        _leave(index, caption)
    return scores


@njit(cache=True, nogil=True)
def clipped_matches(captions: Captions, places: Ints, references: References) -> Floats:
    """(N, 4) matched n-grams by order, each counted at most as often as a single reference has it.

    Args:
        captions: N of them.
        places: (N,) where their images stand among the references'.
        references: of M images.
    """
    longest = _longest(captions)
    index = _index(longest)
    counts, found = np.empty((longest, ORDERS)), np.empty((longest, ORDERS))
    most = np.empty((longest, ORDERS))
    matches = np.zeros((len(places), ORDERS))
    for row in range(len(places)):
        caption = _caption(captions, row)
        _enter(index, caption)
        _count(index, caption, caption, counts)
        most[:] = 0.0
        for number in range(references.first[places[row]], references.first[places[row] + 1]):
            _count(index, caption, _caption(references.captions, number), found)
            most[: len(caption)] = np.maximum(most[: len(caption)], found[: len(caption)])
        _leave(index, caption)
        for place in range(len(caption)):
            for order in range(min(ORDERS, len(caption) - place)):
                count = counts[place, order]
                matches[row, order] += min(count, most[place, order]) / count
    return np.rint(matches)  # each n-gram's shares add up to a whole number


@njit(cache=True, nogil=True)
def closest_lengths(captions: Captions, places: Ints, references: References) -> Ints:
    """(N,) words of the reference that is closest in length, of two the shorter.

    Args:
        captions: N of them.
        places: (N,) where their images stand among the references'.
        references: of M images.
    """
    closest = np.empty(len(places), np.int64)
    for row in range(len(places)):
        length = len(_caption(captions, row))
        first, last = references.first[places[row]], references.first[places[row] + 1]
        best = len(_caption(references.captions, first))
        for number in range(first + 1, last):
            other = len(_caption(references.captions, number))
            if (abs(other - length), other) < (abs(best - length), best):
                best = other
        closest[row] = best
    return closest
