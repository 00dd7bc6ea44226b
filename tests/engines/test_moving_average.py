"""The moving average of an engine's weights, against its definition."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.data.rank_plan import Ranks
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.base import StepResult
from capdist.engines.moving_average import MovingAverage


class Walk:
    """An engine whose weights are random after every step; every fourth step is skipped."""

    def __init__(self) -> None:
        self.taken = 0

    def step(self, batches: Sequence[Batch], weight: float, lr: float) -> StepResult:
        self.taken += 1
        return StepResult([], None, skipped=self.taken % 4 == 0)

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def weights(self) -> dict[str, Tensor]:
        return {"w": torch.randn(3, generator=torch.Generator().manual_seed(self.taken))}

    def save(self, folder: Path) -> None:
        (folder / "taken").write_text(str(self.taken))

    def load(self, folder: Path, ranks: int) -> None:
        self.taken = int((folder / "taken").read_text())


def averaged(decay: float) -> MovingAverage:
    return MovingAverage(Walk(), ProcessGroup(Ranks(), torch.device("cpu")), decay)


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_the_average_equals_the_sum_over_all_steps(decay: float) -> None:
    found, walk, weights = averaged(decay), Walk(), []
    for _ in range(15):
        found.step([], 1.0, 0.1)
        if not walk.step([], 1.0, 0.1).skipped:
            weights.append(walk.weights()["w"].double())
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(1, len(weights) + 1)]
    expected = Walk().weights()["w"].double() * torch.tensor(decays).double().prod()
    for n, weight in enumerate(weights):
        later = torch.tensor(decays[n + 1 :]).double().prod()
        expected += (1 - decays[n]) * later * weight
    torch.testing.assert_close(found.weights()["w"].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_loaded_average_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, first, second = (averaged(0.9) for _ in range(3))
    for _ in range(9):
        whole.step([], 1.0, 0.1)
    for _ in range(5):
        first.step([], 1.0, 0.1)
    first.save(tmp_path)
    second.load(tmp_path, 1)
    for _ in range(4):
        second.step([], 1.0, 0.1)
    assert torch.equal(second.weights()["w"], whole.weights()["w"])
