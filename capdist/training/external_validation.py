"""Training that does not decode: a follower scores the checkpoints (``validation.by``).

Every evaluated epoch's checkpoint is kept until `capdist.inference.follow.Follower` has scored it.
Best score and patience are a pure function of the scores, so that a resumed run finds them again.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from capdist.config.run_config import Config
from capdist.inference.follow import POLL_S, evaluated, read_rows, scores_path
from capdist.inference.run_folder import BEST, TrainingProgress, step_folders
from capdist.reporting.metrics_log import METRICS_LOG, read_records
from capdist.training.trainer import Trainer, update_best
from shards.progress import Progress


def follower_scores(config: Config) -> Path:
    """The file in which a follower with the config's own beam keeps its validation scores."""
    return scores_path(Path(config.run), f"{config.validation.split}-beam{config.decoding.beam}")


@dataclass(frozen=True)
class ExternallyValidatedTrainer(Trainer):
    """Takes the best checkpoint, and patience, from a follower's scores; at the end it waits."""

    scored: dict[int, dict[str, Any]] = field(default_factory=dict)

    def run(self, progress: TrainingProgress) -> TrainingProgress:
        self.checkpoints.keeps = self.needs_scores
        return self.wait(super().run(self.read_scores(progress)))

    def end_epoch(self, progress: TrainingProgress, bar: Progress) -> TrainingProgress:
        """Save, and read the scores that have arrived."""
        progress = progress.next_epoch()
        self.save(progress, self.engine.weights(), best=False)
        return self.read_scores(progress)

    def needs_scores(self, folder: Path) -> bool:
        """Whether a checkpoint is still to be scored."""
        return evaluated(folder, self.config) and _step_of(folder) not in self.scored

    def read_scores(self, progress: TrainingProgress) -> TrainingProgress:
        """The progress after all scores so far; the best checkpoint is named, others removed."""
        rows = read_rows(follower_scores(self.config)) if self.group.first else {}
        rows = self.group.gather(rows)[0]
        self.scored.update((step, rows[step]) for step in rows if step <= progress.step)
        stage_start, best_step = progress.step - progress.stage_step, None
        others = {name: score for name, score in progress.best.items() if name != "CIDEr"}
        progress = replace(progress, best=others, waited=0)
        for step, row in sorted(self.scored.items()):
            progress, better = update_best(progress, "CIDEr", row["values"].get("CIDEr"))
            best_step = step if better else best_step
            if step <= stage_start:  # of an earlier stage, which patience does not count
                progress = replace(progress, waited=0)
        if best_step is not None:
            self.log_scores()
            self.checkpoints.set_name(BEST, f"step-{best_step:08d}")
            if self.group.first:
                self.checkpoints.prune()
        return progress

    def log_scores(self) -> None:
        """Add the scores that the metrics log does not have yet."""
        if self.group.first:
            records = read_records(Path(self.config.run) / METRICS_LOG)
            logged = {record["step"] for record in records if "val_cider" in record}
            for step in sorted(self.scored.keys() - logged):
                row = self.scored[step]
                cider = row["values"].get("CIDEr")
                if cider is not None:
                    record = {"step": step, "epoch": row["epoch"], "val_cider": cider}
                    self.metrics_log.write(record)

    def wait(self, progress: TrainingProgress) -> TrainingProgress:
        """Wait until the follower has scored every checkpoint that is kept for it.

        Raises:
            Stopped: if a signal asked for it.
        """
        announced = False
        while waiting := self.group.gather(self._waiting())[0]:
            if self.group.first and not announced:
                options = ["--run", self.config.run, "--split", self.config.validation.split]
                command = shlex.join(["capdist", "evaluate", *options, "--follow"])
                print(f"{waiting} checkpoints wait for their scores: {command}", flush=True)
            announced = True
            time.sleep(POLL_S)
            progress = self.read_scores(progress)
            self.stop_if(sum(self.group.sum(self.stop.asked)) > 0, progress)
        return progress

    def _waiting(self) -> int:
        return sum(map(self.needs_scores, step_folders(self.checkpoints.run)))


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
