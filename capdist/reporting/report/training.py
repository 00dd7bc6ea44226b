"""Learning curves, throughput, and where the time of a step went, from the metrics log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from statistics import mean, median
from typing import Any

from capdist.config.base import read_json_as
from capdist.reporting.report.data import Curve, Part, Run, StepTime, Training
from capdist.reporting.report.files import RunFiles
from capdist.reporting.timeline import WARM_UP

#: Points of a curve to keep, evenly spaced over its steps.
POINTS = 4000
#: Keys that are not numbers to draw.
NOT_CURVES = {"step", "stage", "epoch", "lost"}

#: Names of the parts of a step, by their keys in the metrics log.
PART_NAMES = {
    "data_s": "data",
    "encode_s": "encode",
    "sample_s": "decode: sample",
    "greedy_s": "decode: greedy baseline",
    "copy_s": "copy to the host",
    "submit_s": "reward: submit",
    "wait_s": "reward: wait",
    "loss_s": "forward",
    "forward_s": "forward",
    "backward_s": "backward",
    "update_s": "update",
    "communication_s": "communication",
}

REST = "everything else"

Records = Sequence[dict[str, Any]]


def describe_run(files: RunFiles, name: str) -> Run:
    return Run(name, str(files.run), files.config.get("description", ""), training_of(files))


def training_of(files: RunFiles) -> Training:
    records = files.records
    steps = [record for record in records if "step_s" in record]
    return Training(
        steps=max((record["step"] for record in records), default=0),
        epochs=max((record["epoch"] for record in records if "epoch" in record), default=0),
        finished=_finished(files),
        speed=median(r["captions_per_s"] for r in steps) if steps else None,
        best=_best(records),
        times=[step_time(stage, list(part)) for stage, part in groupby(steps, _stage)],
        skipped=steps[-1]["skipped"] if steps else 0,
        lost=[f"step {r['step']}: {line}" for r in records for line in r.get("lost", ())],
        curves=curves(records),
    )


def step_time(stage: str, steps: Records) -> StepTime:
    """Means over the steps of a stage, without the first few if there are more."""
    steps = steps[WARM_UP:] or steps
    whole = mean(step["step_s"] for step in steps)
    # The engine measures the whole forward pass; of a self-critical step, the objective the loss.
    keys = [
        k for k in PART_NAMES if k in steps[0] and not (k == "loss_s" and "forward_s" in steps[0])
    ]
    seconds = {key: mean(step.get(key, 0.0) for step in steps) for key in keys}
    parts = [(PART_NAMES[key], seconds[key]) for key in keys]
    rest = [(REST, max(0.0, whole - sum(seconds.values())))]
    return StepTime(
        stage, whole, [Part(name, taken, taken / whole) for name, taken in [*parts, *rest]]
    )


def curves(records: Records) -> list[Curve]:
    """Every number of the log against the step; values that are not finite are gaps."""
    names = dict.fromkeys(
        name
        for record in records
        for name, value in record.items()
        if name not in NOT_CURVES and isinstance(value, int | float)
    )
    return [_curve(name, [record for record in records if name in record]) for name in names]


def _curve(name: str, records: Records) -> Curve:
    kept = records[:: -(-len(records) // POINTS)]
    return Curve(name, [r["step"] for r in kept], [_number(r[name]) for r in kept])


def _number(value: float | None) -> float | None:
    known = value is not None and math.isfinite(value)
    return float(f"{value:.5g}") if known else None


def _stage(record: dict[str, Any]) -> str:
    return str(record["stage"])


def _best(records: Records) -> dict[str, float]:
    scores: dict[str, float] = {}
    for record in records:
        for name in ("val_cider", "val_ap"):
            if name in record:
                scores[name] = max(record[name], scores.get(name, -math.inf))
    return scores


def _finished(files: RunFiles) -> bool:
    names = files.run / "checkpoints" / "names.json"
    return names.is_file() and "finished" in read_json_as(dict[str, str], names)
