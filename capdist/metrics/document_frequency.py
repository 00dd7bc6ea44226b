"""In how many images of a training set each n-gram occurs, and the idf that follows."""

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
from capdist.metrics.ngrams import ORDERS, TOKEN_BITS, Table, fill
from shards.atomic import atomic_write


@dataclass(frozen=True, eq=False)
class DocumentFrequency:
    """The n-grams, n = 1..4, that occur in the references of two images or more.

    One that is not here counts as in one image: CIDEr-D takes log max(1, df), which is the same
    for none and for one. All the first words of an n-gram are here if it is.

    ``keys`` (n,) int64 in rising order: ``(number of the first words + 1) << 31 | last word``, that
    of a single word the word, where an n-gram's number is its place here. ``counts`` (n,) int32
    images. ``images``: how many there are. ``vocabulary``: hash of the one that the ids are of, or
    nothing.
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
            references: token ids by image, with whatever end token the scored captions have.
            vocabulary: `capdist.vocab.Vocabulary.hash`, where the ids are of one.

        Raises:
            ScoreError: as `References.of` does.
        """
        made = References.of(references)
        keys, counts = _count(made)
        return cls(keys, counts, len(made.images), vocabulary)

    @classmethod
    def load(cls, path: Path | str, vocabulary: str) -> DocumentFrequency:
        """Read what `save` wrote.

        Raises:
            ScoreError: if the file is missing or damaged, or of another vocabulary.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                keys, counts = file["keys"], file["counts"]
                found = cls(keys, counts, int(file["images"]), str(file["vocabulary"]))
        except FileNotFoundError:
            raise ScoreError(f"{path}: no such file; count and save it first") from None
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ScoreError(
                f"{path}: not a document frequency, or damaged ({error}); remove it and count again"
            ) from None
        found.require(vocabulary, str(path))
        return found

    def save(self, path: Path | str) -> None:
        """Write an npz file, whole or not at all."""
        with atomic_write(Path(path)) as file:
            np.savez(
                file,
                keys=self.keys,
                counts=self.counts,
                images=np.int64(self.images),
                vocabulary=np.str_(self.vocabulary),
            )

    def require(self, vocabulary: str, where: str) -> None:
        """Refuse ids of another vocabulary; ``where`` names this document frequency.

        Raises:
            ScoreError: if the hashes differ.
        """
        if self.vocabulary != vocabulary:
            raise ScoreError(
                f"{where}: counted for vocabulary {self.vocabulary or '(none)'}, but the captions' "
                f"is {vocabulary}; count again with that vocabulary"
            )

    @property
    def hash(self) -> str:
        """A short digest of everything here."""
        digest = hashlib.sha256(f"{self.images} {self.vocabulary} ".encode())
        digest.update(self.keys.astype("<i8").tobytes())
        digest.update(self.counts.astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def frequency(self, ngram: Sequence[int]) -> int:
        """max(1, the number of images that an n-gram of 1 to 4 token ids occurs in)."""
        number = -1
        for word in ngram:
            key = (number + 1) << TOKEN_BITS | word
            number = int(np.searchsorted(self.keys, key))
            if number == len(self.keys) or self.keys[number] != key:
                return 1
        return int(self.counts[number])

    def table(self) -> Table:
        """Idf = log(images) - log(max(1, df)), to look up in compiled code."""
        slots = 1 << int(1.5 * len(self.keys)).bit_length()
        # In one go, so that an n-gram of all images has exactly 0.
        logs = np.log(np.append(self.counts, self.images).astype(np.float64))
        table = Table(np.full(slots, -1, np.int64), np.zeros(slots), float(logs[-1]))
        parents = (self.keys >> TOKEN_BITS) - 1
        words = self.keys & ((1 << TOKEN_BITS) - 1)
        fill(table, parents, words, logs[-1] - logs[:-1])
        return table


def _count(references: References) -> tuple[Ints, Int32s]:
    """Keys and counts, one order of n-grams after the other.

    An n-gram is followed to the next order only where it occurs in two images.
    """
    tokens, starts = references.captions.tokens.astype(np.int64), references.captions.starts
    image = np.searchsorted(references.first, np.arange(len(starts) - 1), "right")
    image = np.repeat(image, np.diff(starts))
    stop = np.repeat(starts[1:], np.diff(starts))
    prefix = np.zeros(len(tokens), np.int64)  # the number + 1 of the n-gram that begins here
    begins = np.arange(len(tokens))
    keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    known = 0
    for order in range(ORDERS):
        begins = begins[begins + order < stop[begins]]
        key = prefix[begins] << TOKEN_BITS | tokens[begins + order]
        by_key = np.argsort(key, kind="stable")  # and within a key by image
        key, places = key[by_key], begins[by_key]
        first = _changes(key)
        group = np.cumsum(first) - 1
        count = np.bincount(group[first | _changes(image[places])])
        kept = count >= 2
        keys.append(key[first][kept])
        counts.append(count[kept].astype(np.int32))
        prefix[places] = np.where(kept, known + np.cumsum(kept), 0)[group]
        known += int(kept.sum())
        begins = begins[prefix[begins] > 0]
    return np.concatenate(keys), np.concatenate(counts)


def _changes(values: Ints) -> npt.NDArray[np.bool_]:
    """Where a value is not the one before it; true at the first."""
    changed = np.ones(len(values), np.bool_)
    changed[1:] = values[1:] != values[:-1]
    return changed
