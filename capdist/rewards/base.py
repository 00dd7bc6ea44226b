"""The reward protocol, the registry of rewards, and their weighted sum.

A reward reads **packed** captions, one int64 array (N, 1 + L): image id, then token ids, including
EOS if the caption ended, then PAD. Their images' references are packed in the same way, (M, 1 + L),
with EOS at the end of each, never clipped, and padded with -1; a word outside the vocabulary has an
id of V or more, the same in all references and in the document frequency. EOS counts as a word in
captions and references; otherwise a truncated caption would score as well as a complete one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from capdist.config.base import ConfigError
from capdist.config.registry import Registry
from capdist.metrics.captions import Captions, Floats, Ints, References
from capdist.metrics.coco import ScoreError
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.vocab import EOS, PAD, Vocabulary


class Reward(Protocol):
    """A picklable function of packed captions and packed references of their images."""

    @property
    def signature(self) -> str:
        """What a score depends on besides captions and references; stored with the scores."""

    def __call__(self, packed: Ints, references: Ints) -> Floats:
        """(N,) rewards of (N, 1 + L) packed captions; rows are independent.

        Raises:
            ScoreError: if an array has another shape or type, an image has no references, an id is
                not in the vocabulary, or a reference does not end.
        """


class CaptionReward(ABC):
    """A reward that compares a caption with its image's references.

    Args:
        vocabulary: the model's, with V words.
        df: document frequency of the training references, for rewards that need one.

    Raises:
        ScoreError: if ``df`` was counted for another vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, df: DocumentFrequency | None = None) -> None:
        if df is not None:
            df.require(vocabulary.hash, "the document frequency")
        self.vocabulary_size = len(vocabulary)

    def __call__(self, packed: Ints, references: Ints) -> Floats:
        unpacked = References.of_packed(references)
        _check_ends(unpacked)
        return self.score(*unpack(packed, self.vocabulary_size), unpacked)

    @property
    @abstractmethod
    def signature(self) -> str: ...

    @abstractmethod
    def score(self, image_ids: Ints, captions: Captions, references: References) -> Floats:
        """(N,) rewards of N captions of the images (N,)."""


class WeightedSum:
    """Σ over rewards of weight · reward; ``parts`` has weight and reward by name."""

    def __init__(self, parts: Mapping[str, tuple[float, Reward]]) -> None:
        self.parts = dict(parts)

    def __call__(self, packed: Ints, references: Ints) -> Floats:
        total = np.zeros(len(packed))
        for weight, reward in self.parts.values():
            total += weight * reward(packed, references)
        return total

    @property
    def signature(self) -> str:
        return " + ".join(f"{weight:g} {part.signature}" for weight, part in self.parts.values())


_REWARDS: Registry[type[CaptionReward]] = Registry("reward", "capdist.rewards")
register = _REWARDS.register
registered = _REWARDS.all


def build(
    weights: Mapping[str, float],
    vocabulary: Vocabulary,
    df: DocumentFrequency | None = None,
    where: str = "reward.metrics",
) -> WeightedSum:
    """The weighted sum of rewards by name; ``where`` names the config key in errors.

    Raises:
        ConfigError: if a name is not registered, or there is none.
        ScoreError: as `CaptionReward`.
    """
    check_names(weights, where)
    return WeightedSum(
        {name: (w, _REWARDS.get(name, where)(vocabulary, df)) for name, w in weights.items()}
    )


def check_names(weights: Mapping[str, float], where: str) -> None:
    """Check that rewards are registered; ``where`` names the config key in errors.

    Raises:
        ConfigError: if a name is not registered, or there is none.
    """
    if not weights:
        raise ConfigError(f"{where}: no reward; name at least one of {', '.join(registered())}")
    for name in weights:
        _REWARDS.get(name, where)


def unpack(packed: Ints, vocabulary_size: int) -> tuple[Ints, Captions]:
    """Image ids (N,) and captions from packed captions (N, 1 + L).

    Raises:
        ScoreError: if the array has another shape or type, an id is not in the vocabulary, or a
            token follows EOS.
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
    written = tokens != PAD
    after_end = np.zeros_like(written)
    after_end[:, 1:] = written[:, 1:] & (~written | (tokens == EOS))[:, :-1]
    _refuse(after_end, packed, "expected only PAD after the end")
    starts = np.append(0, written.sum(1).cumsum())
    return images, Captions(tokens[written].astype(np.int32), starts)


def _refuse(wrong: npt.NDArray[np.bool_], packed: Ints, expected: str) -> None:
    """Raise `ScoreError` for the first wrong token (N, L) of packed captions."""
    if wrong.any():
        row, position = np.argwhere(wrong)[0]
        raise ScoreError(
            f"packed row {row} (image {packed[row, 0]}): token id {packed[row, 1 + position]} at "
            f"position {position}; {expected}"
        )


def _check_ends(references: References) -> None:
    tokens, starts = references.captions
    last = np.where(starts[1:] > starts[:-1], tokens[starts[1:] - 1], PAD)
    unended = np.flatnonzero(last != EOS)
    if len(unended):
        image = references.images[np.searchsorted(references.first, unended[0], "right") - 1]
        raise ScoreError(
            f"image {image}: a reference does not end with EOS (id {EOS}); append it, and do not "
            "clip references"
        )
