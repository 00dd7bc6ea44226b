"""The config section of a model; each model's file declares its own."""

from __future__ import annotations

from capdist.config.base import Section
from capdist.config.registry import Registry


class ModelConfig(Section):
    """What all models' sections have; ``name`` chooses the model."""

    name: str


#: Sections by the model's name.
MODEL_SECTIONS: Registry[type[ModelConfig]] = Registry("model", "capdist.models")
