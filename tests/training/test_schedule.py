"""Learning rates at hand-worked steps."""

from __future__ import annotations

import math

import pytest

from capdist.config.stage import (
    ConstantSchedule,
    CosineSchedule,
    NoamSchedule,
    Schedule,
    StepSchedule,
)
from capdist.objectives.cross_entropy import ScheduledSampling, sampled_share
from capdist.training.schedule import rate


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (ConstantSchedule(), 0, 1.0),
        (ConstantSchedule(warmup_steps=4), 0, 0.25),
        (ConstantSchedule(warmup_steps=4), 50, 1.0),
        (StepSchedule(name="step", gamma=0.5, every_epochs=2), 19, 1.0),
        (StepSchedule(name="step", gamma=0.5, every_epochs=2), 20, 0.5),
        (StepSchedule(name="step", gamma=0.5, every_epochs=2), 65, 0.125),
        (NoamSchedule(name="noam", warmup_steps=10), 4, 0.5),
        (NoamSchedule(name="noam", warmup_steps=10), 9, 1.0),
        (NoamSchedule(name="noam", warmup_steps=10), 39, 0.5),
        (CosineSchedule(name="cosine", warmup_steps=20), 9, 0.5),
        (CosineSchedule(name="cosine", warmup_steps=20), 60, 0.5),
        (CosineSchedule(name="cosine"), 99, 0.5 * (1 + math.cos(math.pi * 0.99))),
    ],
)
def test_learning_rates_equal_hand_computed_values(
    schedule: Schedule, step: int, expected: float
) -> None:
    found = rate(schedule, 1.0, step, steps_per_epoch=10, steps=100)
    assert found == pytest.approx(expected)


def test_scheduled_sampling_rises_to_its_maximum() -> None:
    sampling = ScheduledSampling(increase=0.05, every_epochs=5, maximum=0.12)
    shares = [sampled_share(sampling, epoch) for epoch in (0, 4, 5, 10, 50)]
    assert shares == pytest.approx([0.0, 0.0, 0.05, 0.10, 0.12])
    assert sampled_share(None, 7) == 0.0
