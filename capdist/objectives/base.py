"""The contract that every objective fulfils, and the registry of objectives.

An objective is one file: the config section of its stages, what it refuses before anything trains,
and how its loss and its validator are built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.registry import Registry
from capdist.config.run_config import Config
from capdist.config.stage import STAGE_SECTIONS, TrainingStage
from capdist.distributed.process_group import ProcessGroup
from capdist.inference.exported_model import read_weights
from capdist.inference.run_folder import BEST
from capdist.inference.validation import CaptionValidator
from capdist.models.base import CaptionModel
from capdist.tracking.base import ValidationCaptions
from capdist.vocab import Vocabulary
from shards.manifest import Manifest

StageT = TypeVar("StageT", bound=TrainingStage)


class ValidationResult(Protocol):
    """What a validation measured: the score that chooses the best checkpoint, and more.

    If the score is None, undefined, the later checkpoint is the better one. Where captions were
    scored, the first rank has them.
    """

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def remark(self) -> str: ...
    @property
    def captions(self) -> ValidationCaptions | None: ...
    def to_json(self) -> dict[str, float]: ...


class Validator(Protocol):
    """Scores the weights of a stage; all ranks call it together.

    ``best_name`` is the name of the checkpoint with the best score.
    """

    @property
    def best_name(self) -> str: ...

    def score(self, weights: dict[str, Tensor], step: int) -> ValidationResult:
        """The validation score of the weights after a step."""

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the portable files into a folder."""


@dataclass(frozen=True)
class StageContext:
    """What a stage is checked against and built from; the same on every rank.

    Args:
        config: of the run.
        place: the config's file and the stage in it, for messages.
        manifest: of the shards, with the members that earlier stages predicted.
        vocab: of the run.
        group: the ranks.
        model: freshly initialised; to be copied, see `new_model`.
        start: the checkpoint whose weights the stage begins with; None: those of ``model``.
        resumed: whether the stage continues from a checkpoint of its own.
    """

    config: Config
    place: str
    manifest: Manifest
    vocab: Vocabulary
    group: ProcessGroup
    model: CaptionModel[Any]
    start: Path | None = None
    resumed: bool = False

    def new_model(self) -> CaptionModel[Any]:
        return deepcopy(self.model)

    def start_model(self) -> CaptionModel[Any]:
        """A model with the weights that the stage begins with, also when it is resumed."""
        model = self.new_model()
        if self.start:
            model.load_state_dict(read_weights(self.start, self.vocab))
        return model

    def caption_validator(self) -> CaptionValidator:
        return CaptionValidator(
            self.config, self.group, self.manifest, self.vocab, self.new_model()
        )


class Objective(nn.Module, ABC, Generic[StageT]):
    """A model with its loss: a batch in, the loss summed over its tokens out."""

    Config: ClassVar[type[TrainingStage]]
    #: The name of the validation score, and of the checkpoint with the best.
    metric: ClassVar[str] = "CIDEr"
    best_name: ClassVar[str] = BEST

    model: nn.Module

    @classmethod
    def preflight(cls, stage: StageT, context: StageContext) -> None:
        """Refuse what the config, the model or the shards can't do, before anything trains.

        Raises:
            ConfigError, ShardError: naming the option or the shards.
        """

    @classmethod
    @abstractmethod
    def build(
        cls, stage: StageT, context: StageContext
    ) -> AbstractContextManager[tuple[Objective[StageT], Validator]]:
        """The objective and its validator; the exit releases what they hold.

        All ranks call it together.
        """

    @classmethod
    def describe(cls, stage: StageT, context: StageContext) -> str:
        """A line about the stage for the start of a run; empty: the model's line says it all."""
        return ""

    @classmethod
    def provide(cls, stage: StageT, context: StageContext) -> Manifest:
        """The shards as later stages read them: with the members that ``stage.provides`` names.

        All ranks call it together.
        """
        return context.manifest

    @abstractmethod
    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch (from 0)."""

    def prepare(self, batches: Sequence[Batch], step: int, device: torch.device) -> list[Batch]:
        """The micro-batches of this rank, with what the loss of a step (from 0) needs."""
        return list(batches)

    def weight(self, batch: Batch) -> int:
        """How many terms the loss of a batch is summed over: its tokens."""
        return batch.token_count

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """A scalar that is zero for a batch of no weight."""

    def sums(self) -> Sequence[float | Tensor]:
        """Figures of the last step on this rank, as many as on every other rank.

        Those on the device are scalars; the device need not have finished them.
        """
        return []

    def figures(self, sums: Sequence[float], world: int) -> dict[str, float]:
        """The objective's entries in the metrics log, from the sums over all ranks."""
        return {}


_OBJECTIVES: Registry[type[Objective[Any]]] = Registry("objective", "capdist.objectives")

ObjectiveT = TypeVar("ObjectiveT", bound=type[Objective[Any]])


def register(name: str) -> Callable[[ObjectiveT], ObjectiveT]:
    """Make an objective, and its section, known by the name that configs use."""

    def add(objective: ObjectiveT) -> ObjectiveT:
        _OBJECTIVES.add(name, objective)
        STAGE_SECTIONS.add(name, objective.Config)
        return objective

    return add


def registered() -> dict[str, type[Objective[Any]]]:
    """All objectives by name."""
    return _OBJECTIVES.all()


def objective_of(stage: TrainingStage) -> type[Objective[Any]]:
    return _OBJECTIVES.all()[stage.objective]
