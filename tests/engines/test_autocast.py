"""The precision in which a step's samples are drawn, and its loss computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.data.rank_plan import Ranks
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.factory import make_engine
from capdist.inference.run_folder import TrainingProgress
from capdist.objectives.cross_entropy import CrossEntropy
from capdist.signals import StopSignal
from capdist.training.trainer import Trainer
from shards.manifest import Manifest
from tests.support.steps import config, make_objective, read


class Watched(CrossEntropy):
    """Remembers the types that its model computes, in `prepare` and in the loss."""

    types: list[torch.dtype]

    def prepare(self, batches: Sequence[Batch], step: int, device: torch.device) -> Sequence[Batch]:
        self.types = [*getattr(self, "types", []), self._computed()]
        return super().prepare(batches, step, device)

    def forward(self, batch: Batch) -> Tensor:
        self.types.append(self._computed())
        return super().forward(batch)

    def _computed(self) -> torch.dtype:
        output = self.model.output
        return output(torch.zeros(1, output.in_features)).dtype


@pytest.mark.parametrize(("bf16", "expected"), [(False, torch.float32), (True, torch.bfloat16)])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_samples_have_the_precision_of_the_loss(
    tiny: Manifest, bf16: bool, expected: torch.dtype, ema: float
) -> None:
    section = {"bf16": {"enabled": bf16}}
    run = config({"shards": str(tiny.root), "engine": "torch", "micro": 16, "deepspeed": section})
    stage = run.stages[0]
    optimizer = stage.optimizer.model_copy(update={"ema": ema})
    stage = stage.model_copy(update={"optimizer": optimizer})
    objective = Watched(make_objective(run).model, stage)
    group = ProcessGroup(Ranks(), torch.device("cpu"))
    others: dict[str, Any] = dict.fromkeys(("validator", "checkpoints", "metrics_log"))
    engine = make_engine(objective, run, stage, group)
    batches, stop = read(run, group.ranks), StopSignal()
    trainer = Trainer(run, stage, objective, engine, batches, stop=stop, group=group, **others)
    steps = sum(1 for _ in trainer.epoch(TrainingProgress()))
    assert objective.types == [expected] * (2 * steps)
    assert {weight.dtype for weight in engine.weights().values()} == {torch.float32}
