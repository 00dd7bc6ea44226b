"""A step of training: its entry in the metrics log, and what the entry is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from capdist.batch import Batch
from capdist.engines.base import StepResult
from capdist.inference.run_folder import TrainingProgress


@dataclass(frozen=True)
class StepRecord:
    """A step's entry in the metrics log.

    ``epoch`` is fractional; ``captions_per_s`` is over all ranks; ``step_s`` is its duration on
    the first rank in seconds, ``data_s`` the part of it spent waiting for batches; ``skipped``
    counts the steps that the loss scaler skipped since the run began; ``lost`` has a line for each
    damaged sample or unavailable shard that the step lacks; ``seconds`` are the engine's, of parts
    of the step on the first rank; ``figures`` are the objective's own.
    """

    step: int
    stage: str
    epoch: float
    loss: float
    lr: float
    grad_norm: float | None
    captions_per_s: float
    step_s: float
    data_s: float
    skipped: int
    lost: list[str]
    seconds: dict[str, float]
    figures: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """One flat record; ``lost`` only if it is not empty."""
        record = asdict(self)
        if not self.lost:
            del record["lost"]
        seconds = {f"{part}_s": spent for part, spent in record.pop("seconds").items()}
        figures = record.pop("figures")
        return record | seconds | figures


@dataclass(frozen=True)
class StepTaken:
    """A step whose numbers may still be computed on the device.

    ``progress`` is after it; ``sums`` are its objective's on this rank; ``spent`` seconds of the
    host, ``waited`` of them for data.
    """

    progress: TrainingProgress
    batches: list[Batch]
    result: StepResult
    sums: Sequence[float | Tensor]
    lr: float
    captions: float
    spent: float
    waited: float
    lost: list[str]
