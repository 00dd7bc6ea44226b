"""Training that does not decode: the best checkpoint is a follower's choice (``validation.by``).

Every evaluated epoch's checkpoint is kept until `follow.Follower` has scored it. What its scores
mean is a pure function of them, so that a resumed run reads on where it was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from capdist.config.run_config import Config
from capdist.inference.follow import POLL_S, evaluated, read_rows, scores_path
from capdist.inference.run_folder import TrainingProgress, step_folders
from capdist.reporting.metrics_log import METRICS_LOG, read_records
from capdist.reporting.progress import Progress
from capdist.training.trainer import Trainer, judge


def follower_scores(config: Config) -> Path:
    """Where a follower with the config's own beam writes what it finds of the validation split."""
    return scores_path(Path(config.run), config.validation.split, config.decoding.beam)


@dataclass(frozen=True)
class ExternallyValidatedTrainer(Trainer):
    """Counts patience, and names the best, by the scores that are there; at the end it waits."""

    scored: dict[int, dict[str, Any]] = field(default_factory=dict)

    def run(self, progress: TrainingProgress) -> TrainingProgress:
        """As `Trainer.run`."""
        self.checkpoints.keeps = self.waits
        return self.wait(super().run(self.heed(progress)))

    def end_epoch(self, cursor: TrainingProgress, progress: Progress) -> TrainingProgress:
        """Save, and look what was scored meanwhile."""
        cursor = replace(cursor, epoch=cursor.epoch + 1, consumed=0)
        self.save(cursor, self.engine.weights(), best=False)
        return self.heed(cursor)

    def waits(self, folder: Path) -> bool:
        """Whether a checkpoint is to be scored, and is not yet."""
        return evaluated(folder, self.config) and step_of(folder) not in self.scored

    def heed(self, progress: TrainingProgress) -> TrainingProgress:
        """The progress after all scores that are there; the best is named, and the others go."""
        rows = read_rows(follower_scores(self.config)) if self.job.first else {}
        rows = self.job.gather(rows)[0]
        self.scored.update((step, rows[step]) for step in rows if step <= progress.step)
        began, best = progress.step - progress.stage_step, None
        progress = replace(progress, best_cider=None, waited=0)
        for step, row in sorted(self.scored.items()):
            progress, better = judge(progress, "best_cider", row["values"]["CIDEr"])
            best = step if better else best
            if step <= began:  # of an earlier stage, which patience does not count
                progress = replace(progress, waited=0)
        if best is not None:
            self.tell()
            self.checkpoints.name("best", f"step-{best:08d}")
        return progress

    def tell(self) -> None:
        """Bring the scores that the metrics log has not into it."""
        if self.job.first:
            told = read_records(Path(self.config.run) / METRICS_LOG)
            known = {record["step"] for record in told if "val_cider" in record}
            for step in sorted(self.scored.keys() - known):
                row = self.scored[step]
                cider = row["values"]["CIDEr"]
                self.metrics_log.write({"step": step, "epoch": row["epoch"], "val_cider": cider})

    def wait(self, progress: TrainingProgress) -> TrainingProgress:
        """Until the follower has scored all that is kept for it.

        Raises:
            Stopped: if a signal asked for it.
        """
        said = False
        while left := self.job.gather(sum(map(self.waits, step_folders(self.checkpoints.run))))[0]:
            if self.job.first and not said:
                print(
                    f"{left} checkpoints wait for their scores: python launcher/evaluate.py --run "
                    f"{self.config.run} --split {self.config.validation.split} --follow",
                    flush=True,
                )
            said = True
            time.sleep(POLL_S)
            progress = self.heed(progress)
            self.stop_if(sum(self.job.sum(self.stop.asked)) > 0, progress)
        return progress


def step_of(folder: Path) -> int:
    """The step that a checkpoint behind an epoch is named after."""
    return int(folder.name.removeprefix("step-"))
