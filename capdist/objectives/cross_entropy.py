"""What a stage minimises."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from capdist.batch import Batch
from capdist.config.stage import ScheduledSampling, XeStage
from capdist.losses.cross_entropy import cross_entropy
from capdist.losses.grounding import Salient, grounding_loss
from capdist.models.base import CaptionModel
from capdist.objectives.base import Objective


class CrossEntropy(Objective):
    """Cross entropy of a stage; ``sampled`` is the epoch's share of scheduled sampling."""

    model: CaptionModel[Any]

    def __init__(self, model: CaptionModel[Any], stage: XeStage) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.sampled = 0.0

    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch (from 0)."""
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
    """The share of input words that the model draws itself in an epoch (from 0)."""
    if sampling is None:
        return 0.0
    return min(sampling.maximum, sampling.increase * (epoch // sampling.every_epochs))
