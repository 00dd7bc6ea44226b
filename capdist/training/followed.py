"""Training that does not decode: the best checkpoint is a follower's choice (``validation.by``).

Every evaluated epoch's checkpoint is kept until `follow.Follower` has scored it. What its scores
mean is a pure function of them, so that a resumed run reads on where it was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from capdist.config.tree import Config
from capdist.reporting.journal import JOURNAL, read_records
from capdist.reporting.progress import Progress
from capdist.training.checkpoint import Cursor, step_folders
from capdist.training.follow import POLL_S, evaluated, read_rows, scores_path
from capdist.training.trainer import Trainer, judge


def follower_scores(config: Config) -> Path:
    """Where a follower with the config's own beam writes what it finds of the validation split."""
    return scores_path(Path(config.run), config.validation.split, config.decoding.beam)


@dataclass(frozen=True)
class FollowedTrainer(Trainer):
    """Counts patience, and names the best, by the scores that are there; at the end it waits."""

    scored: dict[int, dict[str, Any]] = field(default_factory=dict)

    def run(self, cursor: Cursor) -> Cursor:
        """As `Trainer.run`."""
        self.checkpoints.keeps = self.waits
        return self.wait(super().run(self.heed(cursor)))

    def end_epoch(self, cursor: Cursor, progress: Progress) -> Cursor:
        """Save, and look what was scored meanwhile."""
        cursor = replace(cursor, epoch=cursor.epoch + 1, consumed=0)
        self.save(cursor, self.engine.weights(), best=False)
        return self.heed(cursor)

    def waits(self, folder: Path) -> bool:
        """Whether a checkpoint is to be scored, and is not yet."""
        return evaluated(folder, self.config) and step_of(folder) not in self.scored

    def heed(self, cursor: Cursor) -> Cursor:
        """The cursor after all scores that are there; the best is named, and the others go."""
        rows = read_rows(follower_scores(self.config)) if self.job.first else {}
        rows = self.job.gather(rows)[0]
        self.scored.update((step, rows[step]) for step in rows if step <= cursor.step)
        began, best = cursor.step - cursor.stage_step, None
        cursor = replace(cursor, best_cider=None, waited=0)
        for step, row in sorted(self.scored.items()):
            cursor, better = judge(cursor, "best_cider", row["values"]["CIDEr"])
            best = step if better else best
            if step <= began:  # of an earlier stage, which patience does not count
                cursor = replace(cursor, waited=0)
        if best is not None:
            self.tell()
            self.checkpoints.name("best", f"step-{best:08d}")
        return cursor

    def tell(self) -> None:
        """Bring the scores that the journal has not into it."""
        if self.job.first:
            told = read_records(Path(self.config.run) / JOURNAL)
            known = {record["step"] for record in told if "val_cider" in record}
            for step in sorted(self.scored.keys() - known):
                row = self.scored[step]
                cider = row["values"]["CIDEr"]
                self.journal.write({"step": step, "epoch": row["epoch"], "val_cider": cider})

    def wait(self, cursor: Cursor) -> Cursor:
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
            cursor = self.heed(cursor)
            self.stop_if(sum(self.job.sum(self.stop.asked)) > 0, cursor)
        return cursor


def step_of(folder: Path) -> int:
    """The step that a checkpoint behind an epoch is named after."""
    return int(folder.name.removeprefix("step-"))
