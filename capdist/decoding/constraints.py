"""Words that captions must or must not contain, as ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from capdist.config.base import ConfigError
from capdist.config.decoding import DecodingConfig
from capdist.decoding.constrained_beam import WordSets, fewest_words
from capdist.vocab import SPECIALS, Vocabulary
from shards.tokenisers import nfc

#: A search has a beam for each of the 2^C combinations of C sets.
MAX_SETS = 5

#: By image id: sets of words, of each of which its captions must contain one.
ForcedWords = Mapping[int, Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Constraints:
    """Word ids that are never written, and sets of which captions must contain one word each.

    ``forced`` holds for all images, ``by_image`` in addition for the images that it names.
    """

    forbidden: tuple[int, ...] = ()
    forced: WordSets = ()
    by_image: Mapping[int, WordSets] = field(default_factory=dict)

    def sets(self, image: int) -> WordSets:
        """All sets that an image's captions must satisfy."""
        return (*self.forced, *self.by_image.get(image, ()))

    @classmethod
    def of(
        cls, decoding: DecodingConfig, vocab: Vocabulary, forced: ForcedWords | None = None
    ) -> Constraints:
        """The config's words, and those of single images.

        Raises:
            ConfigError: if the beam is wider than the vocabulary, a word is not in the vocabulary,
                or no caption can satisfy all constraints.
        """
        if decoding.beam > len(vocab):
            raise ConfigError(
                f"decoding.beam: {decoding.beam} hypotheses, but the vocabulary has {len(vocab)} "
                "words; choose a narrower beam"
            )
        forbidden = tuple(_id(word, vocab, "decoding.forbidden") for word in decoding.forbidden)
        for_all = _ids(decoding.forced, vocab, forbidden, "decoding.forced")
        by_image = {
            image: _ids(sets, vocab, forbidden, f"forced words of image {image}")
            for image, sets in (forced or {}).items()
        }
        constraints = cls(forbidden, for_all, by_image)
        _check(constraints.forced, decoding, "decoding.forced")
        for image in by_image:
            _check(constraints.sets(image), decoding, f"forced words of image {image}")
        return constraints


def _id(word: str, vocab: Vocabulary, where: str) -> int:
    word = nfc(word)
    if word not in vocab or word in SPECIALS:
        raise ConfigError(
            f"{where}: {word!r} is not in the vocabulary; choose one of its {len(vocab)} words, in "
            "lower case"
        )
    return vocab.id(word)


def _ids(
    sets: Sequence[Sequence[str]], vocab: Vocabulary, forbidden: Sequence[int], where: str
) -> WordSets:
    id_sets = []
    for words in sets:
        ids = {_id(word, vocab, where) for word in words} - set(forbidden)
        if not ids:
            raise ConfigError(
                f"{where}: none of {', '.join(words) or 'an empty set'} may be written; remove "
                "them from decoding.forbidden, or from this list"
            )
        id_sets.append(tuple(sorted(ids)))
    return tuple(id_sets)


def _check(sets: WordSets, decoding: DecodingConfig, where: str) -> None:
    if len(sets) > MAX_SETS:
        raise ConfigError(
            f"{where}: {len(sets)} sets of words, expected at most {MAX_SETS}; remove some"
        )
    if (needed := fewest_words(sets)) > decoding.max_words:
        raise ConfigError(
            f"{where}: a caption needs {needed} words to contain one of each set, but "
            f"decoding.max_words is {decoding.max_words}; raise it or force fewer words"
        )
    if sets and decoding.groups > 1:
        raise ConfigError(
            f"{where}: words can't be forced in diverse beam search; set decoding.groups=1"
        )
