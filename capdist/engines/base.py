"""The protocol of engines: the micro-batches of a step become one update of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from capdist.batch import Batch


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, and whether it counted.

    ``parts`` are the contributions of this rank's micro-batches to the loss per unit of weight over
    all ranks. They and the norm are scalars that the device may still be computing. ``skipped`` is
    True where the loss scaler saw an overflow and left the weights alone. ``seconds`` are the
    host's, of "forward", "backward", "communication" and "update"; "communication" is what is left
    of it after the backward pass, and absent where the engine does not know it.
    """

    parts: list[Tensor]
    grad_norm: Tensor | None
    skipped: bool
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> Tensor:
        """The sum of the parts in fp64."""
        return torch.stack(self.parts).double().sum()


class Engine(Protocol):
    """Turns the micro-batches of a step into an update of the weights."""

    def step(self, batches: Sequence[Batch], weight: float, lr: float) -> StepResult:
        """One update from this rank's micro-batches; all ranks call it together.

        ``weight`` is that of the micro-batches of all ranks, the divisor of the loss.
        """

    def autocast(self) -> AbstractContextManager[Any]:
        """In which the model computes outside of `step` as it does there, such as its samples."""

    def weights(self) -> dict[str, Tensor]:
        """The model's weights in fp32 on the CPU, whole, whatever holds them in training.

        All ranks call it together; only the first needs the answer.
        """

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state; all ranks call it together."""

    def load(self, folder: Path, ranks: int) -> None:
        """Read what `save` wrote on so many ranks; all ranks call it together."""
