"""The objects that captions name, by lemma, and how they differ from those of the references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from capdist.metrics.grounding import lemma
from capdist.reporting.report.data import Failure, Failures
from shards.concepts import STOP_WORDS
from shards.manifest import Manifest
from shards.tokenisers import is_word

_lemma = cache(lemma)
#: Lemmas of verbs that name no object even if no list of classes says what does.
_VERBS = frozenset({"be", "have", "do"})


@dataclass(frozen=True)
class Objects:
    """Which words name objects.

    ``names``: their lemmas, those of the detector's classes; None: without a list of classes, every
    word that is not a function word.
    """

    names: frozenset[str] | None
    english: bool

    @classmethod
    def of(cls, manifest: Manifest) -> Objects:
        english = manifest.text.is_english
        words = {name.split()[-1] for name in manifest.class_names if name.split()}
        names = frozenset(_lemma(word) if english else word for word in words)
        return cls(names or None, english)

    def lemma(self, word: str) -> str:
        return _lemma(word) if self.english else word

    def named(self, words: Iterable[str]) -> dict[str, None]:
        """The lemmas of the objects among words, in their order."""
        return dict.fromkeys(
            name for word in words if (name := self.lemma(word)) and self._is_object(word, name)
        )

    def _is_object(self, word: str, name: str) -> bool:
        if self.names is not None:
            return name in self.names
        return is_word(word) and word not in STOP_WORDS and name not in _VERBS

    def missing(self, words: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
        """Objects that all references name and the caption does not."""
        mine = {self.lemma(word) for word in words}
        named = [self.named(reference) for reference in references]
        first = named[0] if named else {}
        return [name for name in first if name not in mine and all(name in each for each in named)]

    def invented(self, words: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
        """Objects of the caption that no reference names."""
        known = {self.lemma(word) for reference in references for word in reference}
        return [name for name in self.named(words) if references and name not in known]


def count_failures(
    missing: Iterable[Collection[str]], invented: Iterable[Collection[str]]
) -> Failures:
    """How many images lack, or have, each object without need, the most frequent first."""
    return Failures(list(_counted(missing)), list(_counted(invented)))


def _counted(images: Iterable[Collection[str]]) -> Iterator[Failure]:
    counts = Counter(word for words in images for word in words)
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield Failure(word, count)
