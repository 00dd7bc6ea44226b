"""Cross entropy with teacher forcing, with the grounding loss where a stage asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from capdist.batch import Batch
from capdist.config.base import ConfigError, Positive, Section, Share
from capdist.config.stage import TrainingStage
from capdist.data.dataset import members
from capdist.losses.cross_entropy import cross_entropy
from capdist.losses.grounding import Salient, grounding_loss
from capdist.models.base import CaptionModel
from capdist.objectives.base import Objective, StageContext, Validator, register


class ScheduledSampling(Section):
    """Share of input words taken from the model itself: ``increase`` every ``every_epochs``."""

    increase: Share = 0.05
    every_epochs: Positive = 5
    maximum: Share = 0.25


class GroundingConfig(Section):
    """The grounding loss of Spatial-Semantic attention, on shards that have grounding."""

    weight: float = Field(1.0, gt=0, description="μ.")
    iou: float = Field(
        0.0, ge=0, lt=1, description="Least overlap of an object and its best region, exclusive."
    )


class CrossEntropyStage(TrainingStage):
    """Cross entropy with teacher forcing."""

    objective: Literal["xe"]
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    scheduled_sampling: ScheduledSampling | None = None
    grounding: GroundingConfig | None = None

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"grounding"} if self.grounding else ())


@register("xe")
class CrossEntropy(Objective[CrossEntropyStage]):
    """Cross entropy of a stage; ``sampled`` is the epoch's share of scheduled sampling."""

    Config = CrossEntropyStage

    model: CaptionModel[Any]

    def __init__(self, model: CaptionModel[Any], stage: CrossEntropyStage) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.sampled = 0.0

    @classmethod
    def preflight(cls, stage: CrossEntropyStage, context: StageContext) -> None:
        model, name = context.model, context.config.model.name
        if stage.scheduled_sampling and not model.recurrent:
            raise ConfigError(
                f"{context.place}.scheduled_sampling needs a recurrent model, which {name} is not; "
                "remove it"
            )
        if stage.grounding:
            _check_grounding(context, f"{context.place}.grounding")

    @classmethod
    @contextmanager
    def build(
        cls, stage: CrossEntropyStage, context: StageContext
    ) -> Iterator[tuple[CrossEntropy, Validator]]:
        yield cls(context.start_model(), stage), context.caption_validator()

    def begin_epoch(self, epoch: int) -> None:
        self.train()
        self.sampled = sampled_share(self.stage.scheduled_sampling, epoch)

    def forward(self, batch: Batch) -> Tensor:
        """The sum of `cross_entropy` and, if it is on, μ times `grounding_loss`."""
        loss = cross_entropy(
            self.model,
            batch,
            label_smoothing=self.stage.label_smoothing,
            sampled=self.sampled,
        )
        if self.stage.grounding is None:
            return loss
        assert isinstance(self.model, Salient)
        options = self.stage.grounding
        return loss + options.weight * grounding_loss(
            self.model.saliency(batch), batch, options.iou
        )


def sampled_share(sampling: ScheduledSampling | None, epoch: int) -> float:
    """The share of input words that the model samples itself in an epoch (from 0)."""
    if sampling is None:
        return 0.0
    return min(sampling.maximum, sampling.increase * (epoch // sampling.every_epochs))


def _check_grounding(context: StageContext, option: str) -> None:
    """Refuse the grounding loss for a model without saliency, and for shards without grounding."""
    if not isinstance(context.model, Salient):
        raise ConfigError(
            f"{option} needs a model that predicts which regions captions mention, such as "
            f"ss_updown; {context.config.model.name} does not; remove it"
        )
    if "grounding" not in members(context.manifest, "train"):
        raise ConfigError(
            f"{option}: {context.manifest.location}: its samples have no grounding; remove it, or "
            "choose other shards"
        )
