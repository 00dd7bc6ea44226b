"""In how many images each n-gram occurs: counted in parts of a split, and merged.

An n-gram of n = 1 to 4 words is its prefix and its last word. Within a part, a list for each n has
its n-grams in order of ``key``: index of the prefix in the list for n - 1 (0 for n = 1) << 31 |
word.

Only n-grams of two images or more are of interest, and then their prefixes are, too. So the lists
of all parts are merged for one n after the other, without n-grams whose prefix was dropped before.
A merge sorts a bounded number of keys at a time, whatever the number of parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

#: The longest n-grams have this many words.
ORDERS = 4
#: Bits of the last word in a key.
WORD_BITS = 31

#: Keys that a merge sorts at a time, about; one in `_STRIDE` is looked at to divide them.
CHUNK, _STRIDE = 2**22, 2**10


class NgramList(NamedTuple):
    """``keys`` (n,) int64, rising, and ``counts`` (n,) int32: images with the n-gram."""

    keys: Ints
    counts: Int32s


def count_ngrams(tokens: Ints, starts: Ints, images: Ints) -> list[NgramList]:
    """The lists of a part's n-grams, for n = 1 to 4.

    Args:
        tokens: (T,) words of all captions.
        starts: (C + 1,) where each caption begins, and where the last one ends.
        images: (C,) the image of each caption; those of an image are adjacent.
    """
    lengths = np.diff(starts)
    image, stop = np.repeat(images, lengths), np.repeat(starts[1:], lengths)
    prefix = np.zeros(len(tokens), np.int64)  # index of the n-gram that begins here
    begins, lists = np.arange(len(tokens)), []
    for order in range(ORDERS):
        begins = begins[begins + order < stop[begins]]
        key = prefix[begins] << WORD_BITS | tokens[begins + order]
        by_key = np.argsort(key, kind="stable")  # and by image within a key
        key, positions = key[by_key], begins[by_key]
        first = _changes(key)
        group = np.cumsum(first) - 1
        counts = np.bincount(group[first | _changes(image[positions])])
        lists.append(NgramList(key[first], counts.astype(np.int32)))
        prefix[positions] = group
    return lists


@dataclass(frozen=True)
class Part:
    """A part's lists, in a folder.

    Args:
        folder: of the lists; temporary files are written there, too.
        words: (W,) the word of the split that each word of the part is.
    """

    folder: Path
    words: Ints

    @staticmethod
    def save(folder: Path, lists: Sequence[NgramList]) -> None:
        """Write the lists of `count_ngrams`."""
        for order, (keys, counts) in enumerate(lists):
            np.save(folder / f"keys-{order}.npy", keys)
            np.save(folder / f"counts-{order}.npy", counts)

    def keys(self, order: int) -> Ints:
        """The keys of a list in terms of the merged list; negative if the prefix is not in it."""
        keys = np.load(self.folder / f"keys-{order}.npy")
        prefix = np.load(self.folder / "merged.npy")[keys >> WORD_BITS] if order else 0
        word = self.words[keys & ((1 << WORD_BITS) - 1)]
        merged: Ints = prefix << WORD_BITS | word
        return merged

    def sort(self, order: int) -> NgramList:
        """A list in order of its keys in terms of the merged list, on the disk."""
        keys, counts = self.keys(order), np.load(self.folder / f"counts-{order}.npy")
        by_key = np.argsort(keys)[np.count_nonzero(keys < 0) :]
        paths = [self.folder / f"sorted-{name}.npy" for name in ("keys", "counts")]
        for path, array in zip(paths, (keys[by_key], counts[by_key]), strict=True):
            np.save(path, array)
        return NgramList(*(np.load(path, mmap_mode="r") for path in paths))

    def find(self, order: int, merged: Ints, offset: int) -> None:
        """Note where a list's n-grams are in the merged one, whose keys begin at ``offset``."""
        keys = self.keys(order)
        places = np.searchsorted(merged, keys)
        found = np.append(merged, -1)[places] == keys
        np.save(self.folder / "merged.npy", np.where(found, offset + places + 1, -1))


def merge_ngrams(parts: Sequence[Part]) -> NgramList:
    """The n-grams of two images or more, of all parts together.

    Returns:
        One list; a key is ``(index of the prefix in this list + 1) << 31 | word``, that of a
        single word is the word.
    """
    merged, offset = list[NgramList](), 0
    for order in range(ORDERS):
        merged.append(merge_lists([part.sort(order) for part in parts]))
        for part in parts:
            part.find(order, merged[-1].keys, offset)
        offset += len(merged[-1].keys)
    return NgramList(*map(np.concatenate, zip(*merged, strict=True)))


def merge_lists(lists: Sequence[NgramList]) -> NgramList:
    """The keys whose counts sum to 2 or more over the lists, and the sums."""
    kept = [_merge_chunk(chunk) for chunk in _chunks(lists)]
    return NgramList(*map(np.concatenate, zip(*kept, strict=True)))


def _chunks(lists: Sequence[NgramList]) -> Iterator[list[NgramList]]:
    """The lists in pieces of about CHUNK keys together, which share no key; at least one piece."""
    some = np.sort(np.concatenate([keys[::_STRIDE] for keys, _ in lists]))
    bounds = np.unique(some[CHUNK // _STRIDE :: CHUNK // _STRIDE])
    edges = [[0, *np.searchsorted(keys, bounds), len(keys)] for keys, _ in lists]
    for number in range(len(bounds) + 1):
        spans = [slice(edge[number], edge[number + 1]) for edge in edges]
        yield [
            NgramList(of.keys[span], of.counts[span]) for of, span in zip(lists, spans, strict=True)
        ]


def _merge_chunk(lists: Sequence[NgramList]) -> NgramList:
    keys, counts = map(np.concatenate, zip(*lists, strict=True))
    by_key = np.argsort(keys)
    keys, counts = keys[by_key], counts[by_key]
    first = np.flatnonzero(_changes(keys))
    sums = np.add.reduceat(counts, first) if len(first) else counts
    kept = sums >= 2
    return NgramList(keys[first][kept], sums[kept].astype(np.int32))


def _changes(values: Ints) -> npt.NDArray[np.bool_]:
    """True where a value differs from the one before it, and at the first."""
    changed = np.ones(len(values), np.bool_)
    changed[1:] = values[1:] != values[:-1]
    return changed
