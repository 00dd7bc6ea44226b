"""What captions may not and what they must contain, as ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from capdist.config.base import ConfigError
from capdist.config.decoding import DecodingConfig
from capdist.decoding.constrained_beam import WordSets, fewest
from capdist.vocab import SPECIALS, Vocabulary

#: A search has a beam for each of the 2^C combinations of C sets.
MOST_SETS = 5

#: Of images, sets of words of which a caption must have one each.
Wanted = Mapping[int, Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Constraints:
    """Ids that are never written, and sets of which every caption, or an image's, has one each."""

    forbidden: tuple[int, ...] = ()
    forced: WordSets = ()
    by_image: Mapping[int, WordSets] = field(default_factory=dict)

    def sets(self, image: int) -> WordSets:
        """The sets that an image's captions must meet."""
        return (*self.forced, *self.by_image.get(image, ()))

    @classmethod
    def of(
        cls, decoding: DecodingConfig, vocab: Vocabulary, wanted: Wanted | None = None
    ) -> Constraints:
        """The config's words, and those of single images.

        Raises:
            ConfigError: if the beam is wider than the vocabulary, a word is not in it, or no
                caption could obey.
        """
        if decoding.beam > len(vocab):
            raise ConfigError(
                f"decoding.beam: {decoding.beam} hypotheses, but the vocabulary has {len(vocab)} "
                "words; choose a narrower beam"
            )
        forbidden = tuple(_id(word, vocab, "decoding.forbidden") for word in decoding.forbidden)
        forced = _ids(decoding.forced, vocab, forbidden, "decoding.forced")
        by_image = {
            image: _ids(sets, vocab, forbidden, f"forced words of image {image}")
            for image, sets in (wanted or {}).items()
        }
        limits = cls(forbidden, forced, by_image)
        _check(limits.forced, decoding, "decoding.forced")
        for image in by_image:
            _check(limits.sets(image), decoding, f"forced words of image {image}")
        return limits


def _id(word: str, vocab: Vocabulary, where: str) -> int:
    if word not in vocab or word in SPECIALS:
        raise ConfigError(
            f"{where}: {word!r} is not in the vocabulary; write one of its {len(vocab)} words, in "
            "lower case"
        )
    return vocab.id(word)


def _ids(
    sets: Sequence[Sequence[str]], vocab: Vocabulary, forbidden: Sequence[int], where: str
) -> WordSets:
    found = []
    for words in sets:
        ids = {_id(word, vocab, where) for word in words} - set(forbidden)
        if not ids:
            raise ConfigError(
                f"{where}: none of {', '.join(words) or 'an empty set'} may be written; take them "
                "off decoding.forbidden, or off this list"
            )
        found.append(tuple(sorted(ids)))
    return tuple(found)


def _check(sets: WordSets, decoding: DecodingConfig, where: str) -> None:
    if len(sets) > MOST_SETS:
        raise ConfigError(f"{where}: {len(sets)} sets of words, expected at most {MOST_SETS}")
    if (needed := fewest(sets)) > decoding.max_words:
        raise ConfigError(
            f"{where}: a caption needs {needed} words to have one of each set, but "
            f"decoding.max_words is {decoding.max_words}; raise it or force fewer words"
        )
    if sets and decoding.groups > 1:
        raise ConfigError(f"{where}: diverse groups can't be forced; set decoding.groups to 1")
