"""Scores a run's checkpoints while it trains: every metric, one row for each evaluated epoch.

A row of ``scores/<split>-beam<K>.jsonl`` has step and epoch, the first digits of the SHA-256 of the
weights' file, and the scores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capdist.config.base import ConfigError
from capdist.config.run_config import Config
from capdist.data.dataset import captioned
from capdist.inference.evaluation import Evaluation, EvaluationRequest, sentences
from capdist.inference.exported_model import read_export
from capdist.inference.run_folder import (
    FINISHED,
    LAST,
    find_checkpoint,
    read_progress,
    read_run_config,
    step_folders,
)
from capdist.metrics.coco import probe
from capdist.reporting.metrics_log import METRICS_LOG, read_records
from shards.atomic import atomic_write

#: Seconds between checks of the run folder.
POLL_S = 1.0


@dataclass(frozen=True)
class Follower:
    """Scores each new checkpoint of a run, until training is finished."""

    request: EvaluationRequest
    seen: set[tuple[str, int]] = field(default_factory=set)

    def follow(self) -> None:
        """Score the checkpoints that are there, and each new one.

        Raises:
            ConfigError, ShardError: as `Evaluation.open`.
            PoolError: as `decode_split`.
        """
        for metric, reason in probe().items():
            print(f"{metric} will be absent: {reason}")
        print(f"following {self.request.run}; Ctrl-C ends it", flush=True)
        while True:
            finished = self.finished()  # read first: then the last checkpoints are there
            for folder in self.new():
                self.score(folder)
            if finished:
                print(f"{self.request.run}: training is finished")
                return
            time.sleep(POLL_S)

    def finished(self) -> bool:
        """Whether training is done; a run that was stopped is not."""
        last = find_checkpoint(self.request.run, LAST)
        return last is not None and last == find_checkpoint(self.request.run, FINISHED)

    def new(self) -> list[Path]:
        """Checkpoints after evaluated epochs that were not seen yet, by step."""
        found = []
        for folder in step_folders(self.request.run):
            try:
                which = folder.name, folder.stat().st_mtime_ns
                if which not in self.seen and evaluated(folder, self.config()):
                    found.append(folder)
            except (FileNotFoundError, ConfigError):
                if folder.exists():
                    raise
                continue  # the trainer removed it: see `missed`
            self.seen.add(which)
        return found

    def config(self) -> Config:
        """The config that the run trains with at present."""
        return read_run_config(self.request.run)

    def score(self, folder: Path) -> None:
        """Add a checkpoint's row, unless it has one."""
        step = int(folder.name.removeprefix("step-"))
        try:
            exported, epoch = read_export(folder), read_progress(folder).epoch
        except (OSError, ConfigError):
            if folder.exists():
                raise
            return
        evaluation = Evaluation.open(self.request, exported)
        path = scores_path(self.request.run, evaluation.name)
        rows = read_rows(path)
        weights = exported.weights[:16]
        if rows.get(step, {}).get("weights") == weights:
            return
        known = captioned(evaluation.manifest, evaluation.split)
        beams, _ = evaluation.decode()
        decoded = {image: captions[0] for image, captions in beams.items()}
        scores = evaluation.score(known, decoded)
        captions = known.by_id(sentences(decoded, evaluation.manifest.text))
        evaluation.write_captions(f"{evaluation.name}-{step:08d}", captions)
        for gone in self.missed(rows, step):
            print(f"step {gone}: not scored: the trainer had replaced its checkpoint")
        path.parent.mkdir(exist_ok=True)
        rows[step] = {
            "step": step,
            "epoch": epoch,
            "weights": weights,
            **scores.to_json(),
            "decoding": evaluation.decoding.model_dump(mode="json"),
        }
        with atomic_write(path) as file:
            file.writelines(json.dumps(rows[key]).encode() + b"\n" for key in sorted(rows))
        line = ", ".join(f"{name} {value:.1f}" for name, value in scores.values.items())
        print(f"step {step}: {line}", flush=True)

    def missed(self, rows: Collection[int], step: int) -> list[int]:
        """Evaluated steps since the last row before ``step``, whose checkpoints are gone."""
        before = max((scored for scored in rows if scored < step), default=0)
        records = read_records(self.request.run / METRICS_LOG)
        return [r["step"] for r in records if "val_cider" in r and before < r["step"] < step]


def scores_path(run: Path, name: str) -> Path:
    """The file of scores; ``name`` is `Evaluation.name`."""
    return run / "scores" / f"{name}.jsonl"


def read_rows(path: Path) -> dict[int, dict[str, Any]]:
    """Rows by step; none if there is no file yet."""
    return {row["step"]: row for row in read_records(path)} if path.is_file() else {}


def evaluated(folder: Path, config: Config) -> bool:
    """Whether a checkpoint follows an epoch that is evaluated, of a stage that trains captions.

    Raises:
        ConfigError: if it is missing.
    """
    progress = read_progress(folder)
    stage = config.stages[progress.stage]
    return (
        not progress.consumed
        and stage.trains_captions
        and config.validation.due(progress.epoch, stage.epochs)
    )
