"""The contract that every objective fulfils."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from capdist.batch import Batch


class Objective(nn.Module, ABC):
    """A model with its loss: a batch in, the loss summed over its tokens out."""

    model: nn.Module

    @abstractmethod
    def begin_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch (from 0)."""

    def prepare(self, batches: Sequence[Batch], step: int, device: torch.device) -> list[Batch]:
        """What a step (from 0) of the run learns from this rank's micro-batches."""
        return list(batches)

    def weight(self, batch: Batch) -> int:
        """How many things the loss of a batch is summed over: its tokens."""
        return batch.token_count

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """A scalar that is zero for a batch of no weight."""

    def sums(self) -> list[float]:
        """Of the last step on this rank, as many numbers as on every other."""
        return []

    def figures(self, sums: Sequence[float], world: int) -> dict[str, float]:
        """What the metrics log keeps of a step besides its loss, from the sums over all ranks."""
        return {}
