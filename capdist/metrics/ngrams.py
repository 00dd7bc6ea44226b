"""Compiled loops over the n-grams of captions.

N-grams are compared word by word, so hash collisions change nothing. Numba's cache of a function
does not notice a change in another file: compiled functions call only functions of this module.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from capdist.metrics.captions import Captions, Floats, Int32s, Ints, References

#: The longest n-grams have this many words.
ORDERS = 4

#: Bits of the last word in an n-gram's key.
TOKEN_BITS = 31

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio (Knuth, TAOCP 6.4)
_BUCKETS = 1024


class Table(NamedTuple):
    """A hash table from n-grams to their idf; an n-gram that is not in it has ``unseen``.

    An n-gram's key is ``(slot of its prefix + 1) << 31 | last word``; that of a single word is the
    word. ``keys`` (slots,) int64, -1 if empty, where the number of slots is a power of two; ``idf``
    (slots,) float64.
    """

    keys: Ints
    idf: Floats
    unseen: float


@njit(cache=True, nogil=True)
def _find(keys: Ints, key: int) -> int:
    """The slot of a key, or the empty slot where it belongs."""
    mask = len(keys) - 1
    slot = np.int64((np.uint64(key) * _MULTIPLIER) >> np.uint64(32)) & mask
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def insert(table: Table, parents: Ints, words: Ints, idf: Floats) -> None:
    """Insert n-grams into an empty table, each after its prefix.

    Args:
        table: modified in place.
        parents: (n,) index of the prefix among these n-grams; -1 for single words.
        words: (n,) last words.
        idf: (n,).
    """
    slots = np.empty(len(parents), np.int64)
    for number in range(len(parents)):
        parent = parents[number]
        prefix = slots[parent] if parent >= 0 else -1
        key = (prefix + 1) << TOKEN_BITS | words[number]
        slots[number] = _find(table.keys, key)
        table.keys[slots[number]] = key
        table.idf[slots[number]] = idf[number]


class _Index(NamedTuple):
    """The positions of a caption's words: linked lists, one per bucket of a word's lowest bits.

    ``heads`` (buckets,) and ``following`` (L,) int64, -1 at the end of a list.
    """

    heads: Ints
    following: Ints


@njit(cache=True, nogil=True)
def _new_index(longest: int) -> _Index:
    return _Index(np.full(_BUCKETS, -1), np.empty(longest, np.int64))


@njit(cache=True, nogil=True)
def _add(index: _Index, caption: Int32s) -> None:
    for position in range(len(caption)):
        bucket = caption[position] & (_BUCKETS - 1)
        index.following[position] = index.heads[bucket]
        index.heads[bucket] = position


@njit(cache=True, nogil=True)
def _clear(index: _Index, caption: Int32s) -> None:
    for position in range(len(caption)):
        index.heads[caption[position] & (_BUCKETS - 1)] = -1


@njit(cache=True, nogil=True)
def _count(index: _Index, caption: Int32s, other: Int32s, counts: Floats) -> None:
    """Count in ``other`` the n-grams that begin at each position of an indexed caption.

    Writes ``counts`` (L, 4), by position and order.
    """
    heads, following = index.heads, index.following
    counts[: len(caption)] = 0.0
    for begin in range(len(other)):
        position = heads[other[begin] & (_BUCKETS - 1)]
        while position >= 0:
            for order in range(min(ORDERS, len(caption) - position, len(other) - begin)):
                if caption[position + order] != other[begin + order]:
                    break
                counts[position, order] += 1.0
            position = following[position]


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
    """The idf^2 of the n-gram at each position, divided by its ``counts`` in the caption.

    Writes ``weights`` (L, 4), whose sum over positions is one over distinct n-grams, and ``norms``
    (4,), the inverse norms of the tf-idf vectors, 0 where the norm is 0.
    """
    keys, known_idf = table.keys, table.idf
    norms[:] = 0.0
    for position in range(len(caption)):
        weights[position] = 0.0
        slot, known = -1, True
        for order in range(min(ORDERS, len(caption) - position)):
            idf = table.unseen
            if known:  # if a prefix is not in the table, no longer n-gram is
                key = (slot + 1) << TOKEN_BITS | caption[position + order]
                slot = _find(keys, key)
                known = keys[slot] == key
                if known:
                    idf = known_idf[slot]
            weights[position, order] = idf**2 / counts[position, order]
            norms[order] += idf**2 * counts[position, order]
    for order in range(ORDERS):
        norms[order] = 1 / math.sqrt(norms[order]) if norms[order] > 0 else 0.0


@njit(cache=True, nogil=True)
def inverse_norms(captions: Captions, table: Table) -> Floats:
    """(C, 4): 1 / norm of each caption's tf-idf vector of each order, 0 where the norm is 0."""
    longest = _longest(captions)
    index = _new_index(longest)
    counts, weights = np.empty((longest, ORDERS)), np.empty((longest, ORDERS))
    norms = np.empty((len(captions.starts) - 1, ORDERS))
    for number in range(len(norms)):
        caption = _caption(captions, number)
        _add(index, caption)
        _count(index, caption, caption, counts)
        _clear(index, caption)
        _weigh(caption, table, counts, weights, norms[number])
    return norms


@njit(cache=True, nogil=True)
def cider_d(
    captions: Captions,
    images: Ints,
    references: References,
    norms: Floats,
    table: Table,
    sigma: float,
) -> Floats:
    """(N,) CIDEr-D of captions, as `capdist.metrics.cider_d` defines it.

    Args:
        captions: N captions.
        images: (N,) indices of their images into the references.
        references: of M images.
        norms: `inverse_norms` of the references.
        table: idf of n-grams.
        sigma: width of the length penalty, in words.
    """
    longest = _longest(captions)
    index = _new_index(longest)
    counts, weights = np.empty((longest, ORDERS)), np.empty((longest, ORDERS))
    matches, norm, products = np.empty((longest, ORDERS)), np.empty(ORDERS), np.empty(ORDERS)
    scores = np.zeros(len(images))
    for row in range(len(images)):
        caption = _caption(captions, row)
        _add(index, caption)
        _count(index, caption, caption, counts)
        _weigh(caption, table, counts, weights, norm)
        first, last = references.first[images[row]], references.first[images[row] + 1]
        for number in range(first, last):
            reference = _caption(references.captions, number)
            _count(index, caption, reference, matches)
            products[:] = 0.0
            for position in range(len(caption)):
                for order in range(ORDERS):
                    count = matches[position, order]
                    clipped = min(count, counts[position, order])
                    products[order] += weights[position, order] * clipped * count
            similarity = 0.0
            for order in range(ORDERS):
                similarity += products[order] * norm[order] * norms[number, order]
            excess = max(len(caption) - 1, 0) - max(len(reference) - 1, 0)
            scores[row] += similarity * math.exp(-(excess**2) / (2 * sigma**2))
        scores[row] *= 10 / ORDERS / (last - first)
        _clear(index, caption)
    return scores


@njit(cache=True, nogil=True)
def clipped_matches(captions: Captions, images: Ints, references: References) -> Floats:
    """(N, 4) matches by order, each n-gram clipped to its largest count in a single reference.

    Args:
        captions: N captions.
        images: (N,) indices of their images into the references.
        references: of M images.
    """
    longest = _longest(captions)
    index = _new_index(longest)
    counts, matches = np.empty((longest, ORDERS)), np.empty((longest, ORDERS))
    most = np.empty((longest, ORDERS))
    totals = np.zeros((len(images), ORDERS))
    for row in range(len(images)):
        caption = _caption(captions, row)
        _add(index, caption)
        _count(index, caption, caption, counts)
        most[:] = 0.0
        for number in range(references.first[images[row]], references.first[images[row] + 1]):
            _count(index, caption, _caption(references.captions, number), matches)
            most[: len(caption)] = np.maximum(most[: len(caption)], matches[: len(caption)])
        _clear(index, caption)
        for position in range(len(caption)):
            for order in range(min(ORDERS, len(caption) - position)):
                count = counts[position, order]
                totals[row, order] += min(count, most[position, order]) / count
    return np.rint(totals)  # the shares of each n-gram add up to an integer


@njit(cache=True, nogil=True)
def closest_lengths(captions: Captions, images: Ints, references: References) -> Ints:
    """(N,) length of the reference that is closest in length; of two, the shorter.

    Args:
        captions: N captions.
        images: (N,) indices of their images into the references.
        references: of M images.
    """
    closest = np.empty(len(images), np.int64)
    for row in range(len(images)):
        length = len(_caption(captions, row))
        first, last = references.first[images[row]], references.first[images[row] + 1]
        best = len(_caption(references.captions, first))
        for number in range(first + 1, last):
            other = len(_caption(references.captions, number))
            if (abs(other - length), other) < (abs(best - length), best):
                best = other
        closest[row] = best
    return closest
