"""Plots of a run: training loss and validation CIDEr against the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capdist.reporting.metrics_log import MetricsLogError, read_records

#: Decay of the moving average of the loss.
SMOOTHING = 0.97

Records = Sequence[dict[str, Any]]


def draw_curves(metrics_jsonl: Path, out: Path) -> None:
    """Draw a PNG with a panel for each stage's loss, raw and smoothed, and one for CIDEr.

    Raises:
        MetricsLogError: if the metrics log cannot be parsed, or has neither losses nor CIDEr.
    """
    from matplotlib.figure import Figure

    records = read_records(metrics_jsonl)
    stages: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        # The loss of a step that the loss scaler skipped may be NaN, and so would the average be.
        if "loss" in record and math.isfinite(record["loss"]):
            stages.setdefault(record["stage"], []).append(record)
    evaluations = [record for record in records if "val_cider" in record]
    panels = len(stages) + bool(evaluations)
    if not panels:
        raise MetricsLogError(f"{metrics_jsonl}: no loss and no val_cider to draw; train first")
    figure = Figure(figsize=(8, 2.8 * panels), layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for axis, (stage, steps) in zip(axes, stages.items(), strict=False):
        _draw_loss(axis, stage, steps)
    if evaluations:
        _draw_cider(axes[-1], evaluations)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("step")
    figure.savefig(out, format="png", dpi=110)


def smooth(values: Sequence[float], decay: float = SMOOTHING) -> list[float]:
    """The exponential moving average m = decay · m + (1 − decay) · v, with bias correction.

    As for Adam's moments (Kingma & Ba 2015, Algorithm 1), m is divided by 1 − decay^t.
    """
    average, smoothed = 0.0, []
    for t, value in enumerate(values, 1):
        average = decay * average + (1 - decay) * value
        smoothed.append(average / (1 - decay**t))
    return smoothed


def _draw_loss(axis: Any, stage: str, steps: Records) -> None:
    x, losses = [record["step"] for record in steps], [record["loss"] for record in steps]
    axis.plot(x, losses, color="#9fb8d8", linewidth=0.7, label="each step")
    axis.plot(x, smooth(losses), color="#1f4e8c", linewidth=1.6, label="smoothed")
    axis.set_ylabel(f"{stage} training loss")
    axis.legend(frameon=False)


def _draw_cider(axis: Any, evaluations: Records) -> None:
    x = [record["step"] for record in evaluations]
    y = [record["val_cider"] for record in evaluations]
    best = max(range(len(y)), key=y.__getitem__)
    axis.plot(x, y, color="#b3541e", linewidth=1.4, marker="o", markersize=3.5)
    axis.annotate(
        f"{y[best]:.1f}", (x[best], y[best]), xytext=(0, 5), textcoords="offset points", ha="center"
    )
    axis.margins(y=0.15)
    axis.set_ylabel("validation CIDEr")
