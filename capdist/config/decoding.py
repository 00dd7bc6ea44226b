"""How captions are decoded: by beam search, or sampled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from capdist.config.base import Positive, Section


class LengthConfig(Section):
    """Length normalisation of competing hypotheses; the scores that are reported stay sums."""

    name: Literal["none", "average", "gnmt"] = Field(
        "none", description="1; the length with its end; or ((5 + length) / 6)^alpha."
    )
    alpha: float = Field(0.6, gt=0, description="Of gnmt (Wu et al. 2016, Eq. 14).")


class DecodingConfig(Section):
    """How captions are decoded when they are scored."""

    beam: Positive = Field(3, description="Hypotheses per image; 1 is greedy.")
    max_words: Positive = Field(20, description="Most words of a caption, which ends after them.")
    min_words: int = Field(0, ge=0)
    length: LengthConfig = LengthConfig()
    no_repeat_ngram: int = Field(0, ge=0, description="No n words twice in a caption; 0: no limit.")
    no_immediate_repeat: bool = Field(False, description="No word twice in a row.")
    forbidden: tuple[str, ...] = Field((), description="Words that captions must not contain.")
    forced: tuple[tuple[str, ...], ...] = Field(
        (), description="Sets of words; every caption must contain a word of each."
    )
    groups: Positive = Field(1, description="Groups of diverse beam search; 1: plain beam search.")
    diversity: float = Field(0.5, ge=0, description="λ, the penalty of a word of an earlier group.")
    batch: Positive = Field(50, description="Images decoded at a time on one rank.")

    @model_validator(mode="after")
    def _room(self) -> DecodingConfig:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is more than max_words {self.max_words}")
        if self.beam % self.groups:
            raise ValueError(f"{self.groups} groups do not divide a beam of {self.beam}")
        return self


class SamplingConfig(Section):
    """How captions are sampled from a model."""

    samples: Positive = Field(5, description="Captions per image.")
    max_words: Positive = Field(20, description="Most words of a caption, which ends after them.")
