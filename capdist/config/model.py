"""The config section of a model; each model's file declares its own."""

from __future__ import annotations

from pydantic import Field, field_validator

from capdist.config.base import Section
from capdist.config.registry import Registry


class ModelConfig(Section):
    """What all models' sections have; ``name`` chooses the model."""

    name: str
    features: tuple[str, ...] = Field(
        (),
        description="Feature sets of the shards that it reads; none: their own. Most models read "
        "one.",
    )

    @field_validator("features")
    @classmethod
    def _different(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(features)) < len(features):
            raise ValueError(f"{', '.join(features)}: a set occurs twice; name each once")
        return features


#: Sections by the model's name.
MODEL_SECTIONS: Registry[type[ModelConfig]] = Registry("model", "capdist.models")
