"""The reward of the captions that a model samples in training."""

from __future__ import annotations

from pydantic import Field

from capdist.config.base import Section


class RewardConfig(Section):
    """Which metrics reward a caption, and who computes them."""

    metrics: dict[str, float] = Field({"cider_d": 1.0}, description="Weight of each reward.")
    actors: int = Field(1, ge=0, description="Ray actors; 0: in the trainer's own process.")
    cpus: float = Field(1.0, gt=0, description="CPUs that Ray reserves for an actor.")
