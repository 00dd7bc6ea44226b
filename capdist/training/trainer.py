"""The loop of a stage: steps, evaluations, checkpoints, early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from capdist.batch import Batch
from capdist.config import Config, XeStage
from capdist.data.dataset import Batches
from capdist.reporting.journal import Journal
from capdist.reporting.progress import Progress
from capdist.training.checkpoint import Checkpoints, Cursor
from capdist.training.engine import Engine, StepResult
from capdist.training.export import write_export
from capdist.training.job import Job
from capdist.training.schedule import rate
from capdist.training.stages import XeObjective
from capdist.training.validation import Validation


class TrainingError(RuntimeError):
    """Training that can't go on; the message says where and what to do."""


@dataclass(frozen=True)
class StepRecord:
    """One step as the journal keeps it.

    ``epoch`` is fractional; ``captions_per_s`` is over all ranks; ``skipped`` counts the steps
    that the loss scaler left out since the run began.
    """

    step: int
    stage: str
    epoch: float
    loss: float
    lr: float
    grad_norm: float | None
    captions_per_s: float
    skipped: int


@dataclass(frozen=True)
class Trainer:
    """Trains one stage from a cursor on."""

    config: Config
    stage: XeStage
    objective: XeObjective
    engine: Engine
    batches: Batches
    validation: Validation
    checkpoints: Checkpoints
    journal: Journal
    job: Job

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.stage.epochs * self.batches.stream.steps

    def run(self, cursor: Cursor) -> Cursor:
        """Epochs up to the last, or up to ``patience`` evaluations without a better one.

        Raises:
            TrainingError: if the loss is not a number.
        """
        with Progress(self.steps, initial=cursor.stage_step, enabled=self.job.first) as progress:
            while not self.done(cursor):
                for record, after in self.epoch(cursor):
                    cursor = after
                    self.journal.write(asdict(record))
                    progress.update(record)
                    self.save_between(cursor)
                cursor = self.end_epoch(cursor, progress)
        return cursor

    def done(self, cursor: Cursor) -> bool:
        """Whether the stage has had its epochs, or stopped getting better."""
        patience = self.stage.patience
        return cursor.epoch >= self.stage.epochs or bool(patience and cursor.waited >= patience)

    def epoch(self, cursor: Cursor) -> Iterator[tuple[StepRecord, Cursor]]:
        """The rest of the cursor's epoch: what each step did, and the cursor after it."""
        self.objective.begin_epoch(cursor.epoch)
        started = time.perf_counter()
        for batches in self.batches.epoch(cursor.epoch, cursor.consumed):
            lr = self.rate(cursor.stage_step)
            result = self.engine.step(batches, lr)
            self.check(result, cursor, batches)
            captions = self.job.sum(sum(batch.caption_count for batch in batches))
            cursor = self.advance(cursor, result.skipped)
            now = time.perf_counter()
            yield self.record(cursor, result, lr, captions / (now - started)), cursor
            started = time.perf_counter()

    def rate(self, step: int) -> float:
        """The learning rate of a step of the stage."""
        per_epoch = self.batches.stream.steps
        return rate(self.stage.schedule, self.stage.optimizer.lr, step, per_epoch, self.steps)

    def check(self, result: StepResult, cursor: Cursor, batches: list[Batch]) -> None:
        """Stop at a loss that is not a number, unless the loss scaler caught it."""
        if result.skipped or math.isfinite(result.loss):
            return
        keys = ", ".join(key for batch in batches for key in batch.keys)
        raise TrainingError(
            f"step {cursor.step + 1}: the loss is {result.loss}; lower the learning rate or look "
            f"at the samples of rank {self.job.ranks.rank}: {keys}"
        )

    def advance(self, cursor: Cursor, skipped: bool) -> Cursor:
        """The cursor one step on."""
        stream = self.batches.stream
        return replace(
            cursor,
            step=cursor.step + 1,
            stage_step=cursor.stage_step + 1,
            consumed=min(cursor.consumed + stream.images, stream.order.samples),
            skipped=cursor.skipped + skipped,
        )

    def record(self, cursor: Cursor, result: StepResult, lr: float, speed: float) -> StepRecord:
        """What the journal keeps of a step."""
        return StepRecord(
            step=cursor.step,
            stage=self.stage.objective,
            epoch=cursor.epoch + cursor.consumed / self.batches.stream.order.samples,
            loss=result.loss,
            lr=lr,
            grad_norm=result.grad_norm,
            captions_per_s=speed,
            skipped=cursor.skipped,
        )

    def end_epoch(self, cursor: Cursor, progress: Progress) -> Cursor:
        """Evaluate where it is due, and save."""
        weights, best = self.engine.weights(), False
        cursor = replace(cursor, epoch=cursor.epoch + 1, consumed=0)
        due = cursor.epoch % self.config.validation.every_epochs == 0
        if due or cursor.epoch == self.stage.epochs:
            cider = self.validation.score(weights, cursor.step)
            cursor, best = judge(cursor, cider)
            self.journal.write({"step": cursor.step, "epoch": cursor.epoch, "val_cider": cider})
            progress.say(
                f"epoch {cursor.epoch}: validation CIDEr {cider:.1f}"
                + ("" if best else f" (best {cursor.best_cider:.1f})")
            )
        self.save(cursor, weights, best=best)
        return cursor

    def save_between(self, cursor: Cursor) -> None:
        """Save inside an epoch where the config asks for it; its end is saved in any case."""
        every = self.config.checkpoint.every_steps
        inside = cursor.consumed < self.batches.stream.order.samples
        if every and cursor.step % every == 0 and inside:
            self.save(cursor, self.engine.weights(), best=False)

    def save(self, cursor: Cursor, weights: dict[str, Tensor], *, best: bool) -> None:
        """Write a checkpoint with its portable export."""

        def export(folder: Path) -> None:
            manifest = self.validation.manifest
            write_export(folder, weights, self.config, self.validation.vocab, manifest)

        self.checkpoints.save(cursor, self.engine, export, best=best)


def judge(cursor: Cursor, cider: float) -> tuple[Cursor, bool]:
    """The cursor after an evaluation, and whether it was the best so far."""
    best = cursor.best_cider is None or cider > cursor.best_cider
    if best:
        return replace(cursor, best_cider=cider, waited=0), True
    return replace(cursor, waited=cursor.waited + 1), False
