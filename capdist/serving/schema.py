"""What requests and answers of the API are made of; OpenAPI describes it from here."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import UploadFile
from pydantic import BaseModel, Field

from capdist.config.base import validate
from capdist.config.decoding import DecodingConfig
from capdist.decoding.constraints import Constraints
from capdist.inference.captioner import Captioner

MAX_BEAM, MAX_WORDS = 10, 50

_Words = Annotated[list[str], Field(default_factory=list)]


class CaptionForm(BaseModel, extra="forbid"):
    """The fields of ``POST /v1/caption``."""

    image: UploadFile = Field(description="The photograph: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF.")
    run: str | None = Field(None, description="Which run captions it; the first one by default.")
    beam: int | None = Field(None, ge=1, le=MAX_BEAM, description="Hypotheses; 1 is greedy.")
    min_words: int | None = Field(None, ge=0, le=MAX_WORDS, description="Fewest words.")
    max_words: int | None = Field(None, ge=1, le=MAX_WORDS, description="Most words.")
    forced: list[str] = Field(
        [],
        description="A word that the caption must contain, or several, separated by commas, of "
        "which it must contain one. Repeatable.",
    )
    forbidden: list[str] = Field(
        [], description="Words, separated by commas, that it must not contain. Repeatable."
    )

    def decoding(self, captioner: Captioner) -> DecodingConfig:
        """The run's settings with those of the request.

        Raises:
            ConfigError: if they do not fit each other, or the vocabulary.
        """
        trained = captioner.decoding
        chosen = self.model_dump(include={"beam", "min_words", "max_words"}, exclude_none=True)
        words: dict[str, Any] = {
            "forced": (*trained.forced, *filter(None, map(_split, self.forced))),
            "forbidden": (*trained.forbidden, *_split(",".join(self.forbidden))),
        }
        decoding = validate(DecodingConfig, {**trained.model_dump(), **chosen, **words}, "request")
        Constraints.of(decoding, captioner.first.vocab)
        return decoding


def _split(words: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in words.split(",")) if word)


class Alternative(BaseModel):
    caption: str
    score: float = Field(description="The sum of its tokens' log-probabilities.")


class CaptionAnswer(BaseModel, extra="forbid"):
    """A caption, the other hypotheses of the beam, and what its words attended to."""

    run: str
    caption: str
    score: float = Field(description="The sum of its tokens' log-probabilities.")
    words: list[str] = Field(description="Of the caption, L of them.")
    alternatives: list[Alternative] = Field(description="The others of the beam, best first.")
    width: int = Field(description="Of the photograph as people see it, in pixels.")
    height: int
    boxes: list[tuple[float, float, float, float]] = Field(
        description="Of R regions: x1, y1, x2, y2 as shares of width and height."
    )
    concepts: list[str] = Field(description="That the model read, A of them.")
    attention: dict[str, list[list[float]]] = Field(
        description="By the attention's name, such as regions/local: the weights before each of "
        "the L words, of R regions, or of A concepts if the name begins with concepts."
    )


class ErrorAnswer(BaseModel):
    error: str = Field(description="What is wrong, in one line.")


class Health(BaseModel):
    status: str
    runs: list[str] = Field(description="Names to choose from; the first one is the default.")
