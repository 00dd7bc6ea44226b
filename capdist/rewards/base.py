"""The contract that every reward fulfils, the registry of rewards, and their weighted sum.

A reward reads **packed** captions, one int64 array (N, 1 + L): image id, then token ids, EOS
included where the caption ended, then PAD. The end token is a word of captions and references
alike: without it, a caption that breaks off scores as well as one that ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from capdist.config.base import ConfigError
from capdist.config.registry import Registry
from capdist.metrics.captions import Captions, Floats, Ints, ReferenceIds, References
from capdist.metrics.coco import ScoreError
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.vocab import EOS, PAD, Vocabulary


class Reward(Protocol):
    """A picklable function of packed captions."""

    @property
    def signature(self) -> str:
        """What a score depends on besides captions and references, to be kept with it."""

    def __call__(self, packed: Ints) -> Floats:
        """(N,) rewards of (N, 1 + L) packed captions; no row's depends on another row.

        Raises:
            ScoreError: if the array is no such thing, an image has no references, or an id is not
                in the vocabulary.
        """


class CaptionReward(ABC):
    """A reward that compares a caption with its image's references.

    Args:
        references: token ids of each image's captions, EOS at the end of each, never clipped; a
            word outside the vocabulary has an id of V or more, the same everywhere.
        vocabulary: of the model, with V words.
        df: document frequency of the training references, for rewards that need one.

    Raises:
        ScoreError: if an image has no reference, a reference does not end, or ``df`` was counted
            for another vocabulary.
    """

    def __init__(
        self,
        references: ReferenceIds | References,
        vocabulary: Vocabulary,
        df: DocumentFrequency | None = None,
    ) -> None:
        self.references = References.of(references)
        _check_ends(self.references)
        if df is not None:
            df.require(vocabulary.hash, "the document frequency")
        self.vocabulary_size = len(vocabulary)

    def __call__(self, packed: Ints) -> Floats:
        """As `Reward` has it."""
        return self.score(*unpack(packed, self.vocabulary_size))

    @property
    @abstractmethod
    def signature(self) -> str:
        """As `Reward` has it."""

    @abstractmethod
    def score(self, image_ids: Ints, captions: Captions) -> Floats:
        """(N,) rewards of N captions of the images (N,)."""


class WeightedSum:
    """Rewards of several kinds, each times its weight, added up.

    ``parts``: weight and reward by name.
    """

    def __init__(self, parts: Mapping[str, tuple[float, Reward]]) -> None:
        self.parts = dict(parts)

    def __call__(self, packed: Ints) -> Floats:
        """As `Reward` has it."""
        total = np.zeros(len(packed))
        for weight, reward in self.parts.values():
            total += weight * reward(packed)
        return total

    @property
    def signature(self) -> str:
        """Those of the parts with their weights."""
        return " + ".join(f"{weight:g} {part.signature}" for weight, part in self.parts.values())


_REWARDS: Registry[type[CaptionReward]] = Registry("reward", "capdist.rewards")
register = _REWARDS.register
registered = _REWARDS.all


def build(
    weights: Mapping[str, float],
    references: ReferenceIds | References,
    vocabulary: Vocabulary,
    df: DocumentFrequency | None = None,
    where: str = "reward.metrics",
) -> WeightedSum:
    """The weighted sum of rewards by name; ``where`` names what chose them.

    Raises:
        ConfigError: if there is no reward of a name, or none is asked for.
        ScoreError: as `CaptionReward` does.
    """
    check_names(weights, where)
    made = References.of(references)
    parts = {
        name: (w, _REWARDS.get(name, where)(made, vocabulary, df)) for name, w in weights.items()
    }
    return WeightedSum(parts)


def check_names(weights: Mapping[str, float], where: str) -> None:
    """Refuse rewards that are not there; ``where`` names what chose them.

    Raises:
        ConfigError: if there is no reward of a name, or none is asked for.
    """
    if not weights:
        raise ConfigError(f"{where}: no reward; name at least one of {', '.join(registered())}")
    for name in weights:
        _REWARDS.get(name, where)


def unpack(packed: Ints, vocabulary_size: int) -> tuple[Ints, Captions]:
    """Image ids (N,) and captions of (N, 1 + L) packed ones.

    Raises:
        ScoreError: if the array has another shape or type, an id is not in the vocabulary, or a
            word follows the end.
    """
    if packed.ndim != 2 or not packed.shape[1] or packed.dtype != np.int64:
        raise ScoreError(
            f"packed captions are {packed.dtype} {packed.shape}; expected int64 (N, 1 + L), image "
            "id first"
        )
    images, tokens = packed[:, 0], packed[:, 1:]
    _refuse(
        (tokens < 0) | (tokens >= vocabulary_size),
        packed,
        f"expected token ids of 0 to {vocabulary_size - 1}",
    )
    there = tokens != PAD
    late = np.zeros_like(there)
    late[:, 1:] = there[:, 1:] & (~there | (tokens == EOS))[:, :-1]
    _refuse(late, packed, "expected nothing but PAD behind the end")
    starts = np.append(0, there.sum(1).cumsum())
    return images, Captions(tokens[there].astype(np.int32), starts)


def _refuse(wrong: npt.NDArray[np.bool_], packed: Ints, expected: str) -> None:
    """Name the first wrong token (N, L) of packed captions."""
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        raise ScoreError(
            f"packed row {row} (image {packed[row, 0]}): token id {packed[row, 1 + place]} at "
            f"place {place}; {expected}"
        )


def _check_ends(references: References) -> None:
    tokens, starts = references.captions
    last = np.where(starts[1:] > starts[:-1], tokens[starts[1:] - 1], PAD)
    endless = np.flatnonzero(last != EOS)
    if len(endless):
        image = references.images[np.searchsorted(references.first, endless[0], "right") - 1]
        raise ScoreError(
            f"image {image}: a reference does not end with EOS (id {EOS}); references keep their "
            "end token and are never clipped"
        )
