"""How often a step waits for its device, and how many messages it sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import pytest
import torch
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

from capdist.batch import Batch
from capdist.config.base import validate
from capdist.data.rank_plan import Ranks
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.base import Engine, StepResult
from capdist.engines.torch_engine import TorchEngine
from capdist.inference.run_folder import TrainingProgress
from capdist.models.base import build
from capdist.objectives.cross_entropy import CrossEntropy, CrossEntropyStage
from capdist.signals import StopSignal
from capdist.training.trainer import Trainer
from shards.manifest import Manifest
from tests.support.models import DIMS, make_batch, small
from tests.support.steps import config, make_objective, read


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func._overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def group() -> Iterator[ProcessGroup]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    # The engine sends what it would send to another rank.
    yield ProcessGroup(Ranks(0, 2), torch.device("cpu"))
    distributed.destroy_process_group()


def test_an_engine_reads_nothing_of_its_device(group: ProcessGroup) -> None:
    stage = {
        "objective": "xe",
        "epochs": 1,
        "batch": {"images": 6, "micro": 3},
        "optimizer": {"lr": 0.1, "clip_norm": 1.0},
    }
    config = validate(CrossEntropyStage, stage, "the test")
    objective = CrossEntropy(build(small("glied"), DIMS), config)
    engine = TorchEngine(objective, config.optimizer, group)
    batches = [make_batch(), make_batch()]
    weight = float(sum(map(objective.weight, batches)))
    engine.step(batches, weight, 0.1)  # the first step creates the optimizer's state
    with Operations() as operations:
        engine.step(batches, weight, 0.1)
    assert operations.names["allreduce_"] == 1  # a small model's gradients are one message
    # Torch's fused Adam on a CPU reads each tensor's number of steps, which is the host's.
    tensors = sum(parameter.requires_grad for parameter in objective.parameters())
    assert operations.names["_local_scalar_dense"] <= tensors
    assert operations.names["nonzero"] == 0


class Remembering:
    """An engine that remembers what its steps returned."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.results: list[StepResult] = []

    def step(self, batches: Sequence[Batch], weight: float, lr: float) -> StepResult:
        self.results.append(self.engine.step(batches, weight, lr))
        return self.results[-1]

    def autocast(self) -> AbstractContextManager[Any]:
        return self.engine.autocast()


def test_a_step_sends_one_message_besides_its_gradients(
    group: ProcessGroup, tiny: Manifest
) -> None:
    run = config({"shards": str(tiny.root), "engine": "torch", "micro": 8})
    stage, objective = run.stages[0], make_objective(run)
    engine = Remembering(TorchEngine(objective, stage.optimizer, group))
    others: dict[str, Any] = dict.fromkeys(("validator", "checkpoints", "metrics_log"))
    batches, stop = read(run, group.ranks), StopSignal()
    trainer = Trainer(
        run, stage, objective, cast(Any, engine), batches, stop=stop, group=group, **others
    )
    with Operations() as operations:
        records = [record for record, _, _ in trainer.epoch(TrainingProgress())]
    assert [record.step for record in records] == [1, 2, 3, 4]
    # The last step of an epoch has no next one, whose message it could share.
    assert operations.names["allreduce_"] == 2 * len(records) + 1
    for record, result in zip(records, engine.results, strict=True):
        assert record.loss == result.loss
        assert record.grad_norm == result.grad_norm
