"""The training captions: the vocabulary that they give, and what is lost of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from capdist.config.base import ConfigError
from capdist.config.data import DataConfig
from capdist.data.dataset import captioned
from capdist.vocab import SPECIALS, Vocabulary, WordIds
from shards.caption_counts import CaptionCounts
from shards.count_captions import find_counts
from shards.manifest import Manifest
from shards.remote.cache import Cache

#: Shares of captions or tokens above this are warned of.
MUCH = 0.05


@dataclass(frozen=True)
class TrainingCaptions:
    """The vocabulary of the training captions, and what it and ``data.max_words`` take from them.

    Args:
        vocab: of the model; `read` takes the words that occur often enough.
        data: the settings.
        captions: their number.
        clipped: those with more than ``data.max_words`` words.
        single: those of one token.
        words: how often each occurs.
    """

    vocab: Vocabulary
    data: DataConfig
    captions: int
    clipped: int
    single: int
    words: Counter[str]

    @classmethod
    def read(cls, manifest: Manifest, data: DataConfig) -> TrainingCaptions:
        """From the counts of words and captions, which are read, not made, if a build wrote them.

        Raises:
            ShardError: if an image has no captions.
        """
        counts = read_counts(manifest, data.copies)
        words, lengths = counts.count_words(), counts.lengths
        return cls(
            Vocabulary.frequent(words, data.min_count),
            data,
            captions=counts.captions,
            clipped=int(lengths[data.max_words + 1 :].sum()),
            single=int(lengths[1:2].sum()),
            words=words,
        )

    @property
    def reference_ids(self) -> WordIds:
        """Ids of all words, for references of rewards."""
        return WordIds(self.vocab, self.words)

    @property
    def unknown(self) -> float:
        """The share of the tokens that are UNK."""
        unknown = (count for word, count in self.words.items() if word not in self.vocab)
        return sum(unknown) / self.words.total()

    def check_words(self, where: str) -> None:
        """Refuse a vocabulary that has only the special tokens.

        Raises:
            ConfigError: naming the option, after ``where``.
        """
        if len(self.vocab) == len(SPECIALS):
            word, most = self.words.most_common(1)[0]
            raise ConfigError(
                f"{where}: data.min_count: no word of the {self.captions} training captions occurs "
                f"{self.data.min_count} times; the commonest, {word!r}, occurs {most} times: lower "
                "it"
            )

    def check_ends(self, where: str) -> None:
        """Refuse captions that are all clipped, as none would show the model where to end.

        Raises:
            ConfigError: naming the option, after ``where``.
        """
        if self.clipped == self.captions:
            raise ConfigError(
                f"{where}: data.max_words: all {self.captions} training captions have more than "
                f"{self.data.max_words} words, so that none keeps its end; raise it"
            )

    def lines(self) -> Iterator[str]:
        """What is lost of the captions, and a warning where it is much."""
        clipped, single = self.clipped / self.captions, self.single / self.captions
        yield (
            f"training captions: {self.captions}, {_percent(clipped)} clipped to data.max_words "
            f"{self.data.max_words}; {_percent(self.unknown)} of their tokens are UNK "
            f"(data.min_count {self.data.min_count})"
        )
        for share, what in (
            (clipped, "captions lose their end; raise data.max_words"),
            (self.unknown, "tokens are UNK, which models never write; lower data.min_count"),
            (
                single,
                "captions are one token; if they are sentences without spaces, build the shards "
                "with --tokeniser characters",
            ),
        ):
            if share > MUCH:
                yield f"warning: {_percent(share)} of the {what}"


def read_counts(manifest: Manifest, cache: Cache) -> CaptionCounts:
    """The counts of the training captions, see `shards.count_captions`.

    Raises:
        ShardError: if an image has no captions, or two images have one id.
    """
    counts = find_counts(manifest, "train", cache)
    if counts is None:
        captioned(manifest, "train")  # names the image
        raise AssertionError("these captions can be counted")
    return counts


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
