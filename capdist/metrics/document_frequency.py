"""Document frequency: in how many training images each n-gram occurs, and the idf from it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from capdist.metrics.captions import Int32s, Ints, ReferenceIds, References
from capdist.metrics.coco import ScoreError
from capdist.metrics.ngrams import ORDERS, TOKEN_BITS, Table, insert
from shards.atomic import atomic_write
from shards.ngrams import NgramList


@dataclass(frozen=True, eq=False)
class DocumentFrequency:
    """The n-grams, n = 1..4, that occur in the references of two images or more.

    All others count as occurring in one image: CIDEr-D takes log max(1, df), which is the same for
    none and for one. If an n-gram is listed, so are its prefixes.

    ``keys`` (n,) int64, increasing: ``(index of the prefix + 1) << 31 | last word``; the key of a
    single word is the word. ``counts`` (n,) int32: images with the n-gram. ``images``: their total
    number. ``vocabulary``: hash of the vocabulary that the ids belong to, or empty.
    """

    keys: Ints
    counts: Int32s
    images: int
    vocabulary: str

    @classmethod
    def count(
        cls, references: ReferenceIds | References, vocabulary: str = ""
    ) -> DocumentFrequency:
        """Count over references.

        Args:
            references: token ids by image, with end tokens if the scored captions have them.
            vocabulary: `capdist.vocab.Vocabulary.hash` of the ids, if they belong to one.

        Raises:
            ScoreError: as `References.of` does.
        """
        checked = References.of(references)
        keys, counts = _count(checked)
        return cls(keys, counts, len(checked.images), vocabulary)

    @classmethod
    def of_ngrams(
        cls, ngrams: NgramList, ids: Ints, images: int, vocabulary: str
    ) -> DocumentFrequency:
        """The document frequency that `count` has, from counted n-grams.

        Args:
            ngrams: in which a word is an index.
            ids: (W,) the token id of each word; no two are equal.
            images: their number.
            vocabulary: as in `count`.
        """
        keys, counts = np.empty_like(ngrams.keys), np.empty_like(ngrams.counts)
        prefixes, words = ngrams.keys >> TOKEN_BITS, ids[ngrams.keys & ((1 << TOKEN_BITS) - 1)]
        moved = np.zeros(len(keys) + 1, np.int64)  # index + 1 by that in ngrams
        start, stop = 0, int(np.searchsorted(prefixes, 0, "right"))
        while start < stop:  # n-grams of one order, in order of other words
            key = moved[prefixes[start:stop]] << TOKEN_BITS | words[start:stop]
            by_key = np.argsort(key)
            keys[start:stop], counts[start:stop] = key[by_key], ngrams.counts[start:stop][by_key]
            moved[start + 1 + by_key] = np.arange(start, stop) + 1
            start, stop = stop, int(np.searchsorted(prefixes, stop, "right"))
        return cls(keys, counts, images, vocabulary)

    def without(self, word: int) -> DocumentFrequency:
        """What is left without the n-grams that have a word."""
        prefixes, words = self.keys >> TOKEN_BITS, self.keys & ((1 << TOKEN_BITS) - 1)
        kept = words != word
        for _ in range(ORDERS - 1):  # an n-gram goes with its prefix
            kept &= np.append(True, kept)[prefixes]
        moved = np.append(0, np.cumsum(kept))
        keys = moved[prefixes[kept]] << TOKEN_BITS | words[kept]
        return DocumentFrequency(keys, self.counts[kept], self.images, self.vocabulary)

    @classmethod
    def load(cls, path: Path | str, vocabulary: str) -> DocumentFrequency:
        """Load a file written by `save`.

        Raises:
            ScoreError: if the file is missing or damaged, or belongs to another vocabulary.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                keys, counts = file["keys"], file["counts"]
                loaded = cls(keys, counts, int(file["images"]), str(file["vocabulary"]))
        except FileNotFoundError:
            raise ScoreError(f"{path}: no such file; count and save it first") from None
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ScoreError(
                f"{path}: not a document frequency, or damaged ({error}); remove it and count "
                "it again"
            ) from None
        loaded.require(vocabulary, str(path))
        return loaded

    def save(self, path: Path | str) -> None:
        """Write an npz file; the write is atomic."""
        with atomic_write(Path(path)) as file:
            np.savez(
                file,
                keys=self.keys,
                counts=self.counts,
                images=np.int64(self.images),
                vocabulary=np.str_(self.vocabulary),
            )

    def require(self, vocabulary: str, where: str) -> None:
        """Check the vocabulary's hash; ``where`` names this document frequency in the message.

        Raises:
            ScoreError: if the hashes differ.
        """
        if self.vocabulary != vocabulary:
            raise ScoreError(
                f"{where}: counted for vocabulary {self.vocabulary or '(none)'}, but the captions "
                f"have {vocabulary}; count it again with that vocabulary"
            )

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of a digest of all fields."""
        digest = hashlib.sha256(f"{self.images} {self.vocabulary} ".encode())
        digest.update(self.keys.astype("<i8").tobytes())
        digest.update(self.counts.astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def frequency(self, ngram: Sequence[int]) -> int:
        """max(1, number of images with an n-gram of 1 to 4 token ids)."""
        index = -1
        for word in ngram:
            key = (index + 1) << TOKEN_BITS | word
            index = int(np.searchsorted(self.keys, key))
            if index == len(self.keys) or self.keys[index] != key:
                return 1
        return int(self.counts[index])

    def table(self) -> Table:
        """A hash table of idf = log(images) - log(max(1, df)) for compiled code."""
        slots = 1 << int(1.5 * len(self.keys)).bit_length()
        # All logarithms in one call, so that the idf of an n-gram of all images is exactly 0.
        logs = np.log(np.append(self.counts, self.images).astype(np.float64))
        table = Table(np.full(slots, -1, np.int64), np.zeros(slots), float(logs[-1]))
        parents = (self.keys >> TOKEN_BITS) - 1
        words = self.keys & ((1 << TOKEN_BITS) - 1)
        insert(table, parents, words, logs[-1] - logs[:-1])
        return table


def _count(references: References) -> tuple[Ints, Int32s]:
    """Keys and counts, for one order of n-grams after the other.

    An n-gram is extended to the next order only if it occurs in two images.
    """
    tokens, starts = references.captions.tokens.astype(np.int64), references.captions.starts
    image = np.searchsorted(references.first, np.arange(len(starts) - 1), "right")
    image = np.repeat(image, np.diff(starts))
    stop = np.repeat(starts[1:], np.diff(starts))
    prefix = np.zeros(len(tokens), np.int64)  # index + 1 of the n-gram that begins here
    begins = np.arange(len(tokens))
    keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    total = 0
    for order in range(ORDERS):
        begins = begins[begins + order < stop[begins]]
        key = prefix[begins] << TOKEN_BITS | tokens[begins + order]
        by_key = np.argsort(key, kind="stable")  # and by image within a key
        key, positions = key[by_key], begins[by_key]
        first = _changes(key)
        group = np.cumsum(first) - 1
        count = np.bincount(group[first | _changes(image[positions])])
        kept = count >= 2
        keys.append(key[first][kept])
        counts.append(count[kept].astype(np.int32))
        prefix[positions] = np.where(kept, total + np.cumsum(kept), 0)[group]
        total += int(kept.sum())
        begins = begins[prefix[begins] > 0]
    return np.concatenate(keys), np.concatenate(counts)


def _changes(values: Ints) -> npt.NDArray[np.bool_]:
    """True where a value differs from the one before it, and at the first."""
    changed = np.ones(len(values), np.bool_)
    changed[1:] = values[1:] != values[:-1]
    return changed
