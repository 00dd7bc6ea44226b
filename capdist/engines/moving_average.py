"""An engine whose weights, for evaluation and export, are a moving average over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.base import Engine, StepResult

#: Its file in a checkpoint.
FILE = "moving_average.pt"


class MovingAverage:
    """Averages another engine's weights: a ← d a + (1 - d) w after the n-th step that counts.

    d = min(decay, (1 + n) / (10 + n)), so that the first weights, which are random, are soon
    forgotten. Training itself continues with the engine's own weights.

    Args:
        engine: takes the steps.
        group: the ranks.
        decay: d after many steps, such as 0.999.
    """

    def __init__(self, engine: Engine, group: ProcessGroup, decay: float) -> None:
        self.engine = engine
        self.group = group
        self.decay = decay
        self.steps = 0
        self.average = engine.weights()

    def step(self, batches: Sequence[Batch], weight: float, lr: float) -> StepResult:
        result = self.engine.step(batches, weight, lr)
        if not result.skipped:
            self.steps += 1
            decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
            for name, new in self.engine.weights().items():
                self.average[name].lerp_(new, 1 - decay)
        return result

    def autocast(self) -> AbstractContextManager[Any]:
        return self.engine.autocast()

    def weights(self) -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in self.average.items()}

    def save(self, folder: Path) -> None:
        """The engine's files, and the average, which is the same on all ranks."""
        self.engine.save(folder)
        if self.group.first:
            torch.save({"steps": self.steps, "average": self.average}, folder / FILE)

    def load(self, folder: Path, ranks: int) -> None:
        self.engine.load(folder, ranks)
        state = torch.load(folder / FILE, weights_only=True)
        self.steps, self.average = state["steps"], state["average"]
