"""Learning rates as pure functions of the step, so that a resumed run needs no state for them."""

from __future__ import annotations

import math

from capdist.config.stage import (
    ConstantSchedule,
    CosineSchedule,
    NoamSchedule,
    Schedule,
    StepSchedule,
)


def rate(schedule: Schedule, base: float, step: int, steps_per_epoch: int, steps: int) -> float:
    """The learning rate of step ``step`` (from 0) of a stage of ``steps`` steps.

    Args:
        schedule: which curve.
        base: the optimizer's rate, the curve's highest point.
        step: of the stage.
        steps_per_epoch: for schedules that count epochs.
        steps: of the whole stage.
    """
    now = step + 1
    warm = min(1.0, now / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    match schedule:
        case ConstantSchedule():
            return base * warm
        case StepSchedule():
            drops = step // steps_per_epoch // schedule.every_epochs
            return base * warm * float(schedule.gamma**drops)
        case NoamSchedule():
            return base * min(warm, math.sqrt(schedule.warmup_steps / now))
        case CosineSchedule():
            left = max(1, steps - schedule.warmup_steps)
            done = max(0, step - schedule.warmup_steps) / left
            return base * warm * 0.5 * (1 + math.cos(math.pi * done))
