"""The sizes of concept detectors."""

from __future__ import annotations

from pydantic import Field

from capdist.config.base import Positive, Section


class DetectorConfig(Section):
    """Cross-fitted concept detectors: one for all training images, and one for each fold."""

    words: Positive = Field(1000, description="Commonest content words of the training captions.")
    kept: Positive = Field(49, description="Best concepts that an image keeps.")
    folds: int = Field(5, ge=2, description="Training images' concepts are cross-fitted by these.")
    hidden: Positive = Field(512, description="Width of the layer on a region.")
    dropout: float = Field(0.5, ge=0, lt=1)
