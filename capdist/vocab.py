"""Words and their ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path

from typing_extensions import TypedDict

from capdist.config.base import read_json_as
from shards.atomic import write_text
from shards.schema import ShardError

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")


class _VocabularyJson(TypedDict):
    words: list[str]


class Vocabulary:
    """Ids of words: the four special tokens, then words from the most to the least frequent.

    Args:
        words: without the special tokens; their order gives the ids.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words: tuple[str, ...] = (*SPECIALS, *words)
        self._ids = {word: index for index, word in enumerate(self.words)}

    @classmethod
    def frequent(cls, counts: Mapping[str, int], min_count: int) -> Vocabulary:
        """The words that occur at least ``min_count`` times, from how often each word occurs.

        Equally frequent words are sorted alphabetically, so that ids depend only on the captions.
        """
        kept = [word for word, n in counts.items() if n >= min_count and word not in SPECIALS]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)))

    def extended(self, other: Vocabulary) -> Vocabulary:
        """These words with their ids, and after them the words of ``other`` that are new."""
        new = [word for word in other.words if word not in self]
        return Vocabulary([*self.words[len(SPECIALS) :], *new])

    @classmethod
    def load(cls, path: Path | str) -> Vocabulary:
        """Read the file that `save` wrote.

        Raises:
            ConfigError: if it is not JSON, or has another form.
        """
        return cls(read_json_as(_VocabularyJson, path)["words"])

    def save(self, path: Path | str) -> None:
        """Write the words as JSON."""
        text = json.dumps({"words": self.words[len(SPECIALS) :]}, ensure_ascii=False, indent=0)
        write_text(Path(path), text)

    @property
    def hash(self) -> str:
        """A short digest, equal for two vocabularies only if all their ids agree."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()[:16]

    def id(self, word: str) -> int:
        """The word's id, UNK if it has none."""
        return self._ids.get(word, UNK)

    def encode(self, words: Sequence[str], max_words: int | None = None) -> list[int]:
        """BOS, the words, EOS.

        A caption clipped to ``max_words`` has no EOS: it did not end there.
        """
        kept = words if max_words is None else words[:max_words]
        end = [EOS] if len(kept) == len(words) else []
        return [BOS, *(self.id(word) for word in kept), *end]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words before EOS, without PAD and BOS."""
        words = []
        for index in ids:
            if index == EOS:
                break
            if index not in (PAD, BOS):
                words.append(self.words[index])
        return words

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids


class WordIds:
    """Ids of words; those outside the vocabulary get ids of V or more, each its own.

    So a reference with a rare word scores as it does in words: no two rare words are equal.
    The ids depend on the words alone, not on their order.

    Args:
        vocab: V words.
        words: those that references have.
    """

    def __init__(self, vocab: Vocabulary, words: Iterable[str]) -> None:
        self.vocab, self._rare = vocab, dict[str, int]()
        self._add(words)

    def _add(self, words: Iterable[str]) -> None:
        new = {word for word in words if word not in self.vocab and word not in self._rare}
        for word in sorted(new):
            self._rare[word] = len(self.vocab) + len(self._rare)

    def extended(self, words: Iterable[str]) -> WordIds:
        """These ids, and new ones for other words."""
        extended = copy(self)
        extended._rare = dict(self._rare)
        extended._add(words)
        return extended

    def __call__(self, word: str) -> int:
        """The id of a word.

        Raises:
            ShardError: if it is neither in the vocabulary nor one of the words given.
        """
        if word in self.vocab:
            return self.vocab.id(word)
        if word not in self._rare:
            raise ShardError(
                f"the word {word!r} is not among the counted words of the training captions; build "
                "the shards again"
            )
        return self._rare[word]

    def encode(self, words: Sequence[str], *, end: bool = True) -> list[int]:
        """The words, never clipped, and EOS if ``end``."""
        return [*map(self, words), *([EOS] if end else [])]
