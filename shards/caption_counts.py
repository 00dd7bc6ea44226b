"""Counts of a split's captions: what training needs of all of them before its first step.

``<split>.counts.npz``, next to the tars or, of shards in a folder that can't be written to, in the
cache of remote copies, has the arrays

``shards``         (1,) text       `shards_digest` of the shards that were counted
``images``         (1,) int64      their number
``lengths``        (L,) int64      captions of n tokens, for n = 0, 1, ...
``words``          (J,) uint8      a JSON list of W words: END, then the others in order of their
                                   first occurrence
``occurrences``    (W,) int64      of each word
``captions_with``  (W,) int64      captions with each word; absent in files of older builds
``ngram_keys``     (n,) int64      n-grams, n = 1 to 4, of two images or more, see `merge_ngrams`;
``ngram_counts``   (n,) int32      the images with each. Captions end with END.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.atomic import atomic_write
from shards.manifest import Manifest
from shards.ngrams import WORD_BITS, Ints, NgramList
from shards.npy import decode_npy
from shards.schema import ShardError

#: The word at the end of every caption in n-grams.
END = "<eos>"


def counts_name(split: str) -> str:
    """The name of the file next to the tars."""
    return f"{split}.counts.npz"


def shards_digest(manifest: Manifest, split: str) -> str:
    """32 digits that tell the tars of a split, in their order, from all others."""
    tars = "\n".join(shard.sha256 for shard in manifest.split(split))
    return hashlib.sha256(tars.encode()).hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class CaptionCounts:
    """A file of counts; the n-grams are read when they are asked for.

    Args:
        path: of the file.
        shards: `shards_digest` of what was counted.
        images: their number.
        lengths: (L,) captions of n tokens, for n = 0, 1, ...
        words: END, then the others in order of their first occurrence.
        occurrences: (W,) of each word; END is only counted where a caption has it as a word.
        captions_with: (W,) captions with each word, likewise; None: an older build counted.
    """

    path: Path
    shards: str
    images: int
    lengths: Ints
    words: tuple[str, ...]
    occurrences: Ints
    captions_with: Ints | None

    @classmethod
    def load(cls, path: Path) -> CaptionCounts:
        """Read a file but for its n-grams.

        Raises:
            ShardError: if it is damaged.
        """
        names = ("shards", "images", "lengths", "words", "occurrences")
        with _naming(path):
            shards, images, lengths, words, occurrences = _read_arrays(path, names)
            captions_with = _read_arrays(path, ("captions_with",), optional=True)
            counts = cls(
                path,
                str(shards.item()),
                int(images.item()),
                lengths.astype(np.int64),
                tuple(json.loads(words.tobytes())),
                occurrences.astype(np.int64),
                captions_with[0].astype(np.int64) if captions_with else None,
            )
            _require(counts.words[0] == END)
            _require(all(len(counts.words) == len(a) for a in (occurrences, *captions_with)))
            _require(all(isinstance(word, str) for word in counts.words))
        return counts

    @property
    def captions(self) -> int:
        return int(self.lengths.sum())

    def count_words(self) -> Counter[str]:
        """Occurrences of each word, in order of the first one."""
        return self._by_word(self.occurrences)

    def count_captions_with(self) -> Counter[str]:
        """Captions with each word; not of files of older builds."""
        assert self.captions_with is not None
        return self._by_word(self.captions_with)

    def _by_word(self, counts: Ints) -> Counter[str]:
        pairs = zip(self.words, counts.tolist(), strict=True)
        return Counter({word: count for word, count in pairs if count})

    def ngrams(self) -> NgramList:
        """N-grams of two images or more; words in keys are indices into ``words``.

        Raises:
            ShardError: if the file is damaged.
        """
        with _naming(self.path):
            keys, counts = _read_arrays(self.path, ("ngram_keys", "ngram_counts"))
            _require(keys.dtype == np.int64 and counts.dtype == np.int32)
            _require(keys.shape == counts.shape == (len(keys),))
            _require(bool((np.diff(keys, prepend=-1) > 0).all()))
            _require(bool((keys >> WORD_BITS <= np.arange(len(keys))).all()))
            _require(bool((keys & ((1 << WORD_BITS) - 1) < len(self.words)).all()))
        return NgramList(keys, counts)

    def save(self, ngrams: NgramList) -> None:
        """Write the file, atomically; the same bytes every time."""
        assert self.captions_with is not None
        with atomic_write(self.path) as file:
            np.savez(
                file,
                shards=np.array([self.shards]),
                images=np.array([self.images]),
                lengths=self.lengths,
                words=np.frombuffer(json.dumps(self.words).encode(), np.uint8),
                occurrences=self.occurrences,
                captions_with=self.captions_with,
                ngram_keys=ngrams.keys,
                ngram_counts=ngrams.counts,
            )


def _read_arrays(path: Path, names: tuple[str, ...], *, optional: bool = False) -> list[Any]:
    """Arrays of a file; if they are ``optional``, none of them where one is missing."""
    with zipfile.ZipFile(path) as archive:
        if optional and not {f"{name}.npy" for name in names} <= set(archive.namelist()):
            return []
        sizes = [archive.getinfo(f"{name}.npy").file_size for name in names]
        _require(sum(sizes) <= path.stat().st_size)  # nothing is compressed
        return [decode_npy(archive.read(f"{name}.npy")) for name in names]


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("its arrays do not fit each other")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into an error that names it."""
    try:
        yield
    except Exception as error:  # zipfile, numpy and Python's parsers raise many kinds
        raise ShardError(
            f"{path}: damaged, or not the counts of captions ({error}); remove it, and training "
            "counts them again"
        ) from error
