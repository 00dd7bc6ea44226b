"""Where a run's samples come from."""

from __future__ import annotations

from math import fsum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from capdist.config.base import ONE, SEVERAL, Positive, Section
from shards.remote.cache import Cache, default_folder

#: How far from 1 proportions may be that are 1 together.
NEARLY = 1e-6


class ShardSet(Section):
    """One of several sets that are mixed."""

    shards: str = Field(description="Folder of shards, with its manifest.json.")
    repeats: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="How often an epoch contains it; 1 unless it has a proportion.",
    )
    proportion: float | None = Field(
        None, gt=0, lt=1, description="Its share of an epoch's images, instead of repeats."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> ShardSet:
        if self.repeats is not None and self.proportion is not None:
            raise ValueError("has both repeats and a proportion; remove one of them")
        return self


def _one_or_several(shards: Any) -> str:
    return SEVERAL if isinstance(shards, list | tuple) else ONE


class DataConfig(Section):
    """Where the shards are and how they are read."""

    shards: Annotated[
        Annotated[str, Tag(ONE)]
        | Annotated[tuple[ShardSet, ...], Field(min_length=1), Tag(SEVERAL)],
        Discriminator(_one_or_several),
    ] = Field(
        description="Folder of shards, or its URL, or a list of sets that are mixed in training."
    )
    min_count: Positive = Field(5, description="Rarer words of the training captions become UNK.")
    max_words: Positive = Field(20, description="Training captions are clipped to this many words.")
    max_concepts: Positive = Field(36, description="Best-scored concepts kept for an image.")
    lanes: Positive = Field(64, description="Lanes of the sample order; ranks must divide them.")
    window: Positive = Field(64, description="Samples of a lane that are mixed with each other.")
    reader: Literal["auto", "stream", "mapped", "dali"] = Field(
        "auto", description="Reader of the tars; auto: mapped, or stream if they are remote."
    )
    workers: int = Field(
        2, ge=0, description="Per rank: threads of mapped, or processes of stream; 0: none."
    )
    resident: Literal["ram", "gpu"] | None = Field(
        None,
        description="What to keep resident: ram locks the training shards in the page cache, gpu "
        "keeps their regions on the GPU (reader mapped); null: neither.",
    )
    max_bad_samples: int = Field(
        0,
        ge=0,
        description="Damaged samples per epoch to leave out; one more stops training.",
    )
    cache_dir: str | None = Field(
        None,
        description="Folder of this node's copies of remote shards; none: capdist-<user id> in "
        "TMPDIR, or capdist in the user's cache folder.",
    )
    cache_bytes: Positive = Field(64 * 2**30, description="Most bytes that those copies take.")
    max_bad_shards: int = Field(
        0,
        ge=0,
        description="Unavailable remote shards to leave out; one more stops training.",
    )

    accept_features: bool = Field(
        False,
        description="Accept features with other statistics than those of the first set, or of the "
        "checkpoint that the run resumes from; --accept-features sets it.",
    )

    @field_validator("shards")
    @classmethod
    def _shares(cls, shards: str | tuple[ShardSet, ...]) -> str | tuple[ShardSet, ...]:
        sets = () if isinstance(shards, str) else shards
        given = [part.proportion for part in sets if part.proportion is not None]
        total = fsum(given)
        found = f"proportions {', '.join(f'{p:g}' for p in given)} add up to {total:g}"
        others = [f"data.shards.{n}" for n, part in enumerate(sets) if part.proportion is None]
        if given and not others and abs(total - 1) > NEARLY:
            raise ValueError(
                f"{found}, expected 1 because every set has one; change them, or remove one"
            )
        if others and total > 1 - NEARLY:
            raise ValueError(
                f"{found}, which leaves nothing of an epoch for {', '.join(others)}; "
                "lower them, or give all sets one"
            )
        return shards

    @model_validator(mode="after")
    def _resident(self) -> DataConfig:
        if self.resident == "gpu" and self.reader not in ("auto", "mapped"):
            raise ValueError(f"resident gpu needs reader mapped, but reader is {self.reader}")
        return self

    @property
    def copies(self) -> Cache:
        """Where copies of remote shards are kept."""
        folder = Path(self.cache_dir) if self.cache_dir else default_folder()
        return Cache(folder, self.cache_bytes)
