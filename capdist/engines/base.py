"""The protocol of engines: the micro-batches of a step become one update of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from capdist.batch import Batch
from capdist.distributed.process_group import ProcessGroup


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: its loss per unit of weight over all ranks, and whether it counted.

    ``parts`` are the contributions of this rank's micro-batches to the loss; ``skipped`` is True
    where the loss scaler saw an overflow and left the weights alone. ``seconds`` are the host's, of
    "forward", "backward", "communication" and "update"; an engine that communicates while it
    computes leaves "communication" out.
    """

    loss: float
    parts: list[float]
    grad_norm: float | None
    skipped: bool
    seconds: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """Turns the micro-batches of a step into an update of the weights."""

    def step(self, batches: Sequence[Batch], lr: float) -> StepResult:
        """One update from this rank's micro-batches; all ranks call it together."""

    def weights(self) -> dict[str, Tensor]:
        """The model's weights in fp32 on the CPU, whole, whatever holds them in training.

        All ranks call it together; only the first needs the answer.
        """

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state; all ranks call it together."""

    def load(self, folder: Path, ranks: int) -> None:
        """Read what `save` wrote on so many ranks; all ranks call it together."""


def total_weight(group: ProcessGroup, weights: Iterable[int]) -> float:
    """The divisor of a step's loss, over all ranks; 1 where all of its samples are lost."""
    (weight,) = group.sum(sum(weights))
    return max(weight, 1.0)
