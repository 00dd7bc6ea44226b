"""What a rank computes in a step at COCO's sizes, counted on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.cost import Work, count
from benchmarks.decode import STEPS
from benchmarks.scale_check import captioned, new_model
from capdist.batch import Batch
from capdist.config.base import validate
from capdist.config.stage import OptimizerConfig, ScstStage, XeStage
from capdist.engines.base import make_optimizer
from capdist.objectives.base import Objective
from capdist.objectives.cross_entropy import CrossEntropy
from capdist.objectives.self_critical import SelfCritical
from capdist.workers.base import Pending

#: Images of a rank, and captions drawn of each in self-critical training.
OWN, SAMPLES = 16, 5


@dataclass(frozen=True)
class Program:
    """The parts of a step.

    ``micro``: cross entropy and its gradient, by the images of a micro-batch. ``update``: Adam.
    ``draw`` and ``learn``: self-critical training of `OWN` images. ``parameters``: numbers in each
    tensor of weights.
    """

    micro: dict[int, Work]
    update: Work
    draw: Work
    learn: Work
    parameters: list[int]

    @classmethod
    def of(cls, name: str, sizes: Sequence[int]) -> Program:
        """A registered model's.

        Raises:
            ConfigError: if there is no such model.
        """
        model = new_model(name)
        objective = CrossEntropy(model, validate(XeStage, _stage("xe"), "bench.py scale"))
        optimizer = make_optimizer(model, OptimizerConfig(lr=1e-4))
        micro = {size: count(_gradient(objective, captioned(size))) for size in sizes}
        optimizer.step()  # the first one makes its state
        update = count(optimizer.step)
        learner = SelfCritical(
            model, validate(ScstStage, _stage("scst"), "bench.py scale"), STEPS - 1, 1, _rewards
        )
        learner.begin_epoch(0)
        drawn: list[Batch] = []
        draw = count(
            lambda: drawn.extend(learner.prepare([captioned(OWN)], 0, torch.device("cpu")))
        )
        learn = count(_gradient(learner, drawn[0]))
        return cls(micro, update, draw, learn, [p.numel() for p in model.parameters()])


def _stage(objective: str) -> dict[str, Any]:
    batch = {"images": OWN, "micro": OWN}
    return {"objective": objective, "epochs": 1, "batch": batch, "optimizer": {"lr": 1e-4}}


def _gradient(objective: Objective, batch: Batch) -> Callable[[], None]:
    return lambda: objective(batch).backward()


def _rewards(packed: Any) -> Pending:
    pending = Pending(lambda: None)
    pending.future.set_result(np.zeros(len(packed)))
    return pending
