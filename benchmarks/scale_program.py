"""The operations of a rank in a training step at COCO's sizes, counted on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.cost import Work, count
from benchmarks.decode import STEPS
from benchmarks.scale_check import captioned_batch, new_model
from capdist.batch import Batch
from capdist.config.base import validate
from capdist.config.stage import OptimizerConfig
from capdist.engines.optimizer import make_optimizer
from capdist.objectives.base import Objective
from capdist.objectives.cross_entropy import CrossEntropy, CrossEntropyStage
from capdist.objectives.self_critical import SelfCritical, SelfCriticalStage
from capdist.vocab import EOS
from capdist.workers.base import Pending

#: Images per rank, and captions sampled of each in self-critical training.
IMAGES_PER_RANK, SAMPLES = 16, 5


@dataclass(frozen=True)
class Program:
    """The work of each part of a step.

    ``micro``: cross entropy and its gradient, by the size of a micro-batch. ``update``: Adam.
    ``sample`` and ``learn``: self-critical training on `IMAGES_PER_RANK` images. ``parameters``:
    number of elements of each tensor of weights.
    """

    micro: dict[int, Work]
    update: Work
    sample: Work
    learn: Work
    parameters: list[int]

    @classmethod
    def of(cls, name: str, sizes: Sequence[int]) -> Program:
        """Count the operations of a registered model, for micro-batches of several sizes.

        Raises:
            ConfigError: if there is no such model.
        """
        model = new_model(name)
        objective = CrossEntropy(model, validate(CrossEntropyStage, _stage("xe"), "bench.py scale"))
        optimizer = make_optimizer(model, OptimizerConfig(lr=1e-4))
        micro = {size: count(_gradient(objective, captioned_batch(size))) for size in sizes}
        optimizer.step()  # the first one creates its state
        update = count(optimizer.step)
        learner = SelfCritical(
            model,
            validate(SelfCriticalStage, _stage("scst"), "bench.py scale"),
            STEPS - 1,
            1,
            _rewards,
        )
        learner.begin_epoch(0)
        sampled: list[Batch] = []
        sample = count(
            lambda: sampled.extend(
                learner.prepare([rewarded_batch(IMAGES_PER_RANK)], 0, torch.device("cpu"))
            )
        )
        learn = count(_gradient(learner, sampled[0]))
        return cls(micro, update, sample, learn, [p.numel() for p in model.parameters()])


def rewarded_batch(images: int) -> Batch:
    """As `captioned_batch`, with references, which are not scored here."""
    return replace(captioned_batch(images), references=np.full((images, 1, 1), EOS, np.int32))


def _stage(objective: str) -> dict[str, Any]:
    batch = {"images": IMAGES_PER_RANK, "micro": IMAGES_PER_RANK}
    return {"objective": objective, "epochs": 1, "batch": batch, "optimizer": {"lr": 1e-4}}


def _gradient(objective: Objective[Any], batch: Batch) -> Callable[[], None]:
    return lambda: objective(batch).backward()


def _rewards(packed: Any, references: Any) -> Pending:
    pending = Pending(lambda: None)
    pending.future.set_result(np.zeros(len(packed)))
    return pending
