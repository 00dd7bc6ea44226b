"""What a run minimises, stage by stage: objective, batch, optimizer, schedule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from capdist.config.base import Positive, Section, Share


class OptimizerConfig(Section):
    """Adam, or AdamW when ``decoupled`` (weight decay outside the gradient)."""

    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    decoupled: bool = False
    clip_norm: float = Field(0.0, ge=0, description="Largest global gradient norm; 0: no limit.")


class ConstantSchedule(Section):
    """The optimizer's rate, reached linearly over ``warmup_steps``."""

    name: Literal["constant"] = "constant"
    warmup_steps: int = Field(0, ge=0)


class StepSchedule(Section):
    """The rate times ``gamma`` every ``every_epochs`` epochs, after a linear warm-up."""

    name: Literal["step"]
    gamma: float = Field(0.8, gt=0, le=1)
    every_epochs: Positive = 3
    warmup_steps: int = Field(0, ge=0)


class NoamSchedule(Section):
    """Linear warm-up to the rate, then decay with 1/sqrt(step) (Vaswani et al. 2017, Eq. 3)."""

    name: Literal["noam"]
    warmup_steps: Positive = 4000


class CosineSchedule(Section):
    """Linear warm-up to the rate, then half a cosine down to 0 at the stage's last step."""

    name: Literal["cosine"]
    warmup_steps: int = Field(0, ge=0)


Schedule = Annotated[
    ConstantSchedule | StepSchedule | NoamSchedule | CosineSchedule, Field(discriminator="name")
]


class BatchConfig(Section):
    """The one home of batch sizes, in images; every image brings all its captions.

    Accumulation follows: images = micro × ranks × accumulation steps.
    """

    images: Positive = Field(description="Images of one optimizer step, over all ranks.")
    micro: Positive = Field(description="Images of one forward pass on one rank.")

    def accumulation(self, world: int) -> int:
        """Micro-batches of a step: the same number on every rank, in every step."""
        return -(-self.images // (world * self.micro))


class ScheduledSampling(Section):
    """Share of input words taken from the model itself: ``increase`` every ``every_epochs``."""

    increase: Share = 0.05
    every_epochs: Positive = 5
    maximum: Share = 0.25


class TrainingStage(Section):
    """What all stages have."""

    epochs: Positive
    batch: BatchConfig
    optimizer: OptimizerConfig
    schedule: Schedule = ConstantSchedule()
    patience: Positive | None = Field(
        None, description="Stop after this many evaluations without a better validation score."
    )


class GroundingConfig(Section):
    """The grounding loss of Spatial-Semantic attention, on shards that have grounding."""

    weight: float = Field(1.0, gt=0, description="μ.")
    iou: float = Field(
        0.0, ge=0, lt=1, description="An object's best region overlaps it by more, or is none."
    )


class XeStage(TrainingStage):
    """Cross entropy with teacher forcing."""

    objective: Literal["xe"]
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    scheduled_sampling: ScheduledSampling | None = None
    grounding: GroundingConfig | None = None


class MilStage(TrainingStage):
    """Concepts by multiple-instance learning (Fang et al. 2015), before captions."""

    objective: Literal["mil"]
    words: Positive = Field(1000, description="Commonest content words of the training captions.")
    kept: Positive = Field(49, description="Best concepts that an image keeps.")
    folds: int = Field(5, ge=2, description="Training images' concepts are cross-fitted by these.")
    hidden: Positive = Field(512, description="Width of the layer on a region.")
    dropout: float = Field(0.5, ge=0, lt=1)


class RewardConfig(Section):
    """What self-critical training maximises, and who computes it."""

    metrics: dict[str, float] = Field({"cider_d": 1.0}, description="Weight of each reward.")
    actors: int = Field(1, ge=0, description="Ray actors; 0: in the trainer's own process.")
    cpus: float = Field(1.0, gt=0, description="CPUs that Ray reserves for an actor.")


class ScstStage(TrainingStage):
    """Self-critical training (Rennie et al. 2017) on captions that the model draws itself."""

    objective: Literal["scst"]
    samples: Positive = Field(5, description="n, captions drawn of an image.")
    baseline: Literal["greedy", "leave_one_out"] = Field(
        "leave_one_out", description="The greedy caption's reward, or the other samples' mean."
    )
    reward: RewardConfig = RewardConfig()

    @model_validator(mode="after")
    def _others(self) -> ScstStage:
        if self.baseline == "leave_one_out" and self.samples == 1:
            raise ValueError("baseline leave_one_out needs samples of 2 or more; or take greedy")
        return self


Stage = Annotated[MilStage | XeStage | ScstStage, Field(discriminator="objective")]
