"""Cross entropy with teacher forcing, with the grounding loss where a stage asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from capdist.batch import Batch
from capdist.config.base import ConfigError, Positive, Section, Share
from capdist.config.stage import TrainingStage
from capdist.data.dataset import members
from capdist.losses.cross_entropy import training_losses
from capdist.losses.grounding import Salient, grounding_loss
from capdist.losses.stochastic_attention import stochastic_loss
from capdist.models.base import CaptionModel
from capdist.models.soft_attention import HardAttention
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


class ReinforceConfig(Section):
    """REINFORCE for hard attention (Xu et al., 2015, Eq. 12), instead of straight-through."""

    weight: float = Field(1.0, gt=0, description="λ_r.")
    entropy: float = Field(0.002, ge=0, description="λ_e.")
    expectation: Share = Field(0.5, description="Share of images read by expectation.")
    decay: float = Field(0.9, ge=0, lt=1, description="Of the moving baseline b.")


class CrossEntropyStage(TrainingStage):
    """Cross entropy with teacher forcing."""

    supervises: ClassVar[bool] = True

    objective: Literal["xe"]
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    scheduled_sampling: ScheduledSampling | None = None
    grounding: GroundingConfig | None = None
    reinforce: ReinforceConfig | None = None
    drop_regions: float = Field(
        0.0, ge=0, lt=1, description="Share of an image's regions to leave out at random."
    )
    drop_concepts: float = Field(
        0.0, ge=0, lt=1, description="Share of an image's concepts to leave out at random."
    )

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"grounding"} if self.grounding else ())


@register("xe")
class CrossEntropy(Objective[CrossEntropyStage]):
    """Cross entropy of a stage; ``sampled`` is the epoch's share of scheduled sampling."""

    Config = CrossEntropyStage

    model: CaptionModel[Any]
    baseline: Tensor

    def __init__(self, model: CaptionModel[Any], stage: CrossEntropyStage) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.sampled = 0.0
        self.saliency = SaliencyFigures()
        self.own: tuple[Tensor | float, int] | None = None
        self.likelihood = torch.zeros(2, dtype=torch.float64)
        if stage.reinforce:
            self.register_buffer("baseline", torch.tensor(float("nan")))

    @classmethod
    def preflight(cls, stage: CrossEntropyStage, context: StageContext) -> None:
        model, name = context.model, context.config.model.name
        if stage.scheduled_sampling and not model.recurrent:
            raise ConfigError(
                f"{context.place}.scheduled_sampling needs a recurrent model, which {name} is not; "
                "remove it"
            )
        if stage.reinforce:
            _check_reinforce(stage, context)
        if stage.grounding:
            _check_grounding(context, f"{context.place}.grounding")
        for lacking in sorted(model.supervision - members(context.manifest, "train")):
            raise ConfigError(
                f"{context.place}: {context.manifest.location}: its samples have no {lacking}, "
                f"which the losses of model {name!r} read; switch those off in the section model, "
                "or choose other shards"
            )

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
        """The sum of `training_losses` and, if it is on, μ times `grounding_loss`."""
        batch = self.dropped(batch)
        if self.stage.reinforce:
            return self.reinforced(batch, self.stage.reinforce)
        loss, own = training_losses(
            self.model,
            batch,
            label_smoothing=self.stage.label_smoothing,
            sampled=self.sampled,
        )
        if own is not None:
            total, tokens = self.own or (0.0, 0)
            self.own = total + own.detach(), tokens + batch.token_count
            loss = loss + own
        if self.stage.grounding is None:
            return loss
        assert isinstance(self.model, Salient)
        options = self.stage.grounding
        log_beta = self.model.saliency(batch)
        self.saliency.add(log_beta, batch)
        return loss + options.weight * grounding_loss(log_beta, batch, options.iou)

    def reinforced(self, batch: Batch, options: ReinforceConfig) -> Tensor:
        """The loss of REINFORCE."""
        assert isinstance(self.model, HardAttention)
        found = stochastic_loss(
            self.model,
            batch,
            self.baseline,
            weight=options.weight,
            entropy=options.entropy,
            expectation=options.expectation,
        )
        sums = found.log_likelihood.sum(), torch.tensor(batch.caption_count)
        self.likelihood += torch.stack([value.double().cpu() for value in sums])
        return found.loss

    def dropped(self, batch: Batch) -> Batch:
        """The batch without the regions and concepts that are left out in this step."""
        regions, concepts = self.stage.drop_regions, self.stage.drop_concepts
        if not regions and not concepts:
            return batch
        return replace(
            batch,
            region_mask=keep_some(batch.region_mask, regions),
            concept_mask=keep_some(batch.concept_mask, concepts),
        )

    def prepare(self, batches: Sequence[Batch], step: int, device: torch.device) -> list[Batch]:
        """The batches as they are; the figures of the step before are forgotten."""
        self.saliency, self.own = SaliencyFigures(), None
        self.likelihood.zero_()
        return list(batches)

    def sums(self) -> Sequence[float | Tensor]:
        if self.stage.reinforce:
            return self.likelihood.tolist()
        saliency = self.saliency.regions, self.saliency.images
        return [*(saliency if self.stage.grounding else ()), *(self.own or ())]

    def figures(self, sums: Sequence[float], world: int) -> dict[str, float]:
        """What `sums` counted, each divided by its number, or the baseline of REINFORCE, if any.

        "beta_regions" is the number of regions among which β spreads, "own_loss" the loss of the
        model's own per token. As the sums are of all ranks, the baseline moves alike on all.
        """
        means = [total / max(count, 1) for total, count in zip(sums[::2], sums[1::2], strict=True)]
        if self.stage.reinforce is None:
            names = ["beta_regions"] * bool(self.stage.grounding) + ["own_loss"]
            return dict(zip(names, means, strict=False))
        (mean,) = means
        b, decay = self.baseline, self.stage.reinforce.decay
        self.baseline.copy_(torch.where(b.isnan(), mean, decay * b + (1 - decay) * mean))
        return {"baseline": float(self.baseline)}


@dataclass
class SaliencyFigures:
    """exp(H(β)), the effective number of salient regions, summed over ``images``.

    The sum stays on its device, for which a micro-batch need not wait.
    """

    regions: Tensor | float = 0.0
    images: int = 0

    def add(self, log_beta: Tensor, batch: Batch) -> None:
        """Count a batch with log β (B, R)."""
        log_beta = log_beta.detach()
        entropy = -(log_beta.exp() * log_beta).masked_fill(~batch.region_mask, 0).sum(-1)
        self.regions = self.regions + (entropy.exp().sum() if batch.keys else 0.0)
        self.images += len(batch.keys)


def keep_some(mask: Tensor, share: float) -> Tensor:
    """A mask (B, N) without a random ``share`` of its places, but never without all of a row's."""
    if not share:
        return mask
    kept = mask & (torch.rand(mask.shape, device=mask.device) >= share)
    return torch.where(kept.any(1, keepdim=True), kept, mask)


def sampled_share(sampling: ScheduledSampling | None, epoch: int) -> float:
    """The share of input words that the model samples itself in an epoch (from 0)."""
    if sampling is None:
        return 0.0
    return min(sampling.maximum, sampling.increase * (epoch // sampling.every_epochs))


def _check_reinforce(stage: CrossEntropyStage, context: StageContext) -> None:
    """Refuse REINFORCE for a model without hard attention, and with options that it ignores."""
    option = f"{context.place}.reinforce"
    if not isinstance(context.model, HardAttention):
        raise ConfigError(
            f"{option} needs a model that draws its regions, such as hard_attention; "
            f"{context.config.model.name} does not; remove it"
        )
    ignored = ("label_smoothing", "scheduled_sampling", "grounding")
    if given := [name for name in ignored if getattr(stage, name)]:
        raise ConfigError(f"{option}: does not use {', '.join(given)}; remove it")


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
