"""The figures of a training step in the progress bar."""

from __future__ import annotations

from typing import Protocol


class StepFigures(Protocol):
    """The figures of a training step: ``data_s`` of its ``step_s`` seconds were spent waiting for
    data, ``skipped`` counts steps that the loss scaler skipped, and ``figures`` has the reward in
    self-critical training.
    """

    @property
    def loss(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def captions_per_s(self) -> float: ...
    @property
    def step_s(self) -> float: ...
    @property
    def data_s(self) -> float: ...
    @property
    def skipped(self) -> int: ...
    @property
    def figures(self) -> dict[str, float]: ...


def describe_step(step: StepFigures) -> str:
    """A training step's figures for the progress bar."""
    shown = f"loss {step.loss:.3f}, {step.captions_per_s:.0f} captions/s, lr {step.lr:.2e}"
    shown += f", data {100 * step.data_s / step.step_s:.0f} %"
    if "reward" in step.figures:
        shown += f", reward {step.figures['reward']:.3f}"
    if step.skipped:
        shown += f", {step.skipped} skipped"
    return shown
