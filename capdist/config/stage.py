"""The stages of a run: what they have in common, whatever their objective."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from capdist.config.base import Positive, Section
from capdist.config.registry import Registry


class ParameterGroup(Section):
    """Parameters with settings of their own; what it leaves out is the optimizer's."""

    match: str = Field(
        description="Shell pattern of parameter names, as in model.safetensors: 'decoder.*.bias'."
    )
    lr: float | None = Field(None, gt=0, description="Peak learning rate; follows the schedule.")
    weight_decay: float | None = Field(None, ge=0)
    frozen: bool = Field(False, description="Keep the weights that the stage begins with.")


class OptimizerConfig(Section):
    """Adam, or AdamW when ``decoupled`` (weight decay outside the gradient)."""

    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    decoupled: bool = False
    clip_norm: float = Field(0.0, ge=0, description="Largest global gradient norm; 0: no limit.")
    clip_value: float = Field(
        0.0,
        ge=0,
        description="Largest absolute value of a gradient's element; 0: no limit. Not "
        "with DeepSpeed.",
    )
    implementation: Literal["torch", "fused", "deepspeed", "apex"] = Field(
        "fused",
        description="Who computes Adam: torch, torch's fused kernel, DeepSpeed's or Apex's. All "
        "are the same algorithm; they round differently.",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of a moving average of the weights, which is then "
        "evaluated and exported; 0: none.",
    )
    groups: tuple[ParameterGroup, ...] = Field(
        (), description="Parameters with other settings; the first group that matches counts."
    )


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
    """Batch sizes, in images; every image comes with all its captions.

    Accumulation follows: images = micro × ranks × accumulation steps.
    """

    images: Positive = Field(description="Images of one optimizer step, over all ranks.")
    micro: Positive = Field(description="Images of one forward pass on one rank.")

    def accumulation(self, world: int) -> int:
        """Micro-batches per step: the same number on every rank, in every step."""
        return -(-self.images // (world * self.micro))


class InitConfig(Section):
    """Another run, whose weights and words a run begins with; null: it begins afresh."""

    run: str = Field(description="Folder of the other run, which has the same model.")
    checkpoint: Literal["best", "last"] = Field("best", description="Which of its checkpoints.")
    vocabulary: Literal["keep", "extend"] = Field(
        "extend",
        description="keep: its words; extend: also those of the training captions, whose weights "
        "are initialised afresh. Its words keep their ids.",
    )


class TrainingStage(Section):
    """What all stages have; each objective's file declares its own section."""

    #: Members of a sample that the stage predicts for later stages and for evaluation.
    provides: ClassVar[frozenset[str]] = frozenset()
    #: Whether it rewards captions, for which batches have all references.
    reads_references: ClassVar[bool] = False
    #: Whether it trains a captioning model; otherwise it prepares what captioning models read.
    trains_captions: ClassVar[bool] = True
    #: Whether the loss of the model's own, `CaptionModel.supervised`, is part of its loss.
    supervises: ClassVar[bool] = False

    objective: str
    init: InitConfig | None = Field(
        None, description="Where weights and words come from; in the first stage of captioning."
    )
    epochs: Positive
    batch: BatchConfig
    optimizer: OptimizerConfig
    schedule: Schedule = ConstantSchedule()
    patience: Positive | None = Field(
        None, description="Stop after this many evaluations without a better validation score."
    )

    @property
    def reads(self) -> frozenset[str]:
        """Members of a sample that the objective reads, besides those that the model needs."""
        return frozenset()

    @property
    def uses_ray(self) -> bool:
        """Whether Ray actors compute something in each step."""
        return False


#: Sections by the objective's name.
STAGE_SECTIONS: Registry[type[TrainingStage]] = Registry("objective", "capdist.objectives")
