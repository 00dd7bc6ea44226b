"""The loop of a stage: steps, evaluations, checkpoints, early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

from torch import Tensor

from capdist.batch import Batch
from capdist.config.run_config import Config
from capdist.config.stage import Stage
from capdist.data.batches import Batches
from capdist.distributed.process_group import OtherRankError, ProcessGroup
from capdist.engines.base import Engine, StepResult
from capdist.errors import CapdistError
from capdist.inference.run_folder import TrainingProgress, find_checkpoint
from capdist.objectives.base import Objective
from capdist.reporting.metrics_log import MetricsLog
from capdist.reporting.progress import Progress
from capdist.signals import StopSignal
from capdist.training.checkpoint import Checkpoints
from capdist.training.schedule import rate
from shards.remote.download import ShardUnavailableError
from shards.schema import ShardError


class TrainingError(CapdistError):
    """Training that can't go on; the message says where and what to do."""


class Stopped(Exception):  # noqa: N818  # not an error: everything is saved
    """The run was asked to stop, and has saved its state; the message says where."""


@dataclass(frozen=True)
class StepRecord:
    """One step as the metrics log keeps it.

    ``epoch`` is fractional; ``captions_per_s`` is over all ranks; ``step_s`` are its seconds on
    the first rank, ``data_s`` those that it waited for its batches; ``skipped`` counts the steps
    that the loss scaler left out since the run began; ``lost`` has a line for each damaged sample
    or lost shard that the step went without; ``figures`` are the objective's own.
    """

    step: int
    stage: str
    epoch: float
    loss: float
    lr: float
    grad_norm: float | None
    captions_per_s: float
    step_s: float
    data_s: float
    skipped: int
    lost: list[str]
    figures: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """One flat record; ``lost`` only where there is something in it."""
        record = asdict(self)
        if not self.lost:
            del record["lost"]
        return record | record.pop("figures")


class ValidationResult(Protocol):
    """What an evaluation found: the score that chooses the best, its name, and a remark."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def remark(self) -> str: ...
    def to_json(self) -> dict[str, float]: ...


class Validator(Protocol):
    """Scores the weights of a stage; all ranks call it together.

    ``measure`` is the cursor's field for its best score, ``kept_as`` the name of the best
    checkpoint.
    """

    @property
    def measure(self) -> str: ...
    @property
    def kept_as(self) -> str: ...

    def score(self, weights: dict[str, Tensor], step: int) -> ValidationResult:
        """What the weights are worth behind a step."""

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the portable files into a folder."""


@dataclass(frozen=True)
class Trainer:
    """Trains one stage from a cursor on; ``gone`` are the remote shards that it has lost."""

    config: Config
    stage: Stage
    objective: Objective
    engine: Engine
    batches: Batches
    validation: Validator
    checkpoints: Checkpoints
    metrics_log: MetricsLog
    stop: StopSignal
    job: ProcessGroup
    gone: set[str] = field(default_factory=set)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.stage.epochs * self.batches.plan.steps

    def run(self, cursor: TrainingProgress) -> TrainingProgress:
        """Epochs up to the last, or up to ``patience`` evaluations without a better one.

        Raises:
            TrainingError: if the loss or a weight is not a number.
            ShardError: if more samples are damaged than the config allows; all up to the step
                before is saved.
            CheckpointError: if the state can't be saved.
            Stopped: if a signal asked for it, once the state is saved.
        """
        with Progress(self.steps, initial=cursor.stage_step, enabled=self.job.first) as progress:
            while not self.done(cursor):
                for record, after, asked in self.epoch(cursor):
                    cursor = after
                    self.metrics_log.write(record.to_json())
                    progress.update(record)
                    for line in record.lost:
                        progress.say(f"step {record.step}: left out: {line}")
                    self.save_between(cursor)
                    self.stop_if(asked, cursor)
                cursor = self.end_epoch(cursor, progress)
                self.stop_if(sum(self.job.sum(self.stop.asked)) > 0, cursor)
        return cursor

    def done(self, cursor: TrainingProgress) -> bool:
        """Whether the stage has had its epochs, or stopped getting better."""
        patience = self.stage.patience
        return cursor.epoch >= self.stage.epochs or bool(patience and cursor.waited >= patience)

    def epoch(
        self, cursor: TrainingProgress
    ) -> Iterator[tuple[StepRecord, TrainingProgress, bool]]:
        """The rest of the cursor's epoch, step by step.

        What the step did, the cursor after it, and whether a rank was asked to stop.
        """
        self.objective.begin_epoch(cursor.epoch)
        started = time.perf_counter()
        for read in self.batches.steps(cursor.epoch, cursor.consumed):
            waited = time.perf_counter() - started
            lost, damaged = self.lose(read.errors, cursor)
            batches = self.objective.prepare(read.batches, cursor.step, self.job.device)
            lr = self.rate(cursor.stage_step)
            result = self.engine.step(batches, lr)
            self.check(result, cursor, batches)
            # Signals reach the ranks at different times: they stop behind the same step.
            captions, asked, *sums = self.job.sum(
                sum(batch.caption_count for batch in batches),
                self.stop.asked,
                *self.objective.sums(),
            )
            figures = self.objective.figures(sums, self.job.ranks.world)
            cursor = self.advance(cursor, result.skipped, damaged)
            took = time.perf_counter() - started
            yield (
                StepRecord(
                    step=cursor.step,
                    stage=self.stage.objective,
                    epoch=cursor.epoch + cursor.consumed / self.batches.plan.order.samples,
                    loss=result.loss,
                    lr=lr,
                    grad_norm=result.grad_norm,
                    captions_per_s=captions / took,
                    step_s=took,
                    data_s=waited,
                    skipped=cursor.skipped,
                    lost=lost,
                    figures=figures,
                ),
                cursor,
                asked > 0,
            )
            started = time.perf_counter()

    def rate(self, step: int) -> float:
        """The learning rate of a step of the stage."""
        per_epoch = self.batches.plan.steps
        return rate(self.stage.schedule, self.stage.optimizer.lr, step, per_epoch, self.steps)

    def check(self, result: StepResult, cursor: TrainingProgress, batches: list[Batch]) -> None:
        """Stop at a loss that is not a number, unless the loss scaler caught it."""
        if result.skipped or math.isfinite(result.loss):
            return
        parts = zip(result.parts, batches, strict=True)
        keys = [key for part, batch in parts if not math.isfinite(part) for key in batch.keys]
        if not keys:
            raise OtherRankError("the samples are those of another rank")
        raise TrainingError(
            f"step {cursor.step + 1}: the loss is {result.loss} for samples {', '.join(keys)}; "
            f"look at them, or lower the learning rate; {self.saved()}"
        )

    def lose(self, lost: list[ShardError], cursor: TrainingProgress) -> tuple[list[str], int]:
        """What a step goes without, of all ranks, in lines; how many damaged samples are in it.

        Raises:
            ShardError: on the first rank, if that is too much; the state is saved.
            OtherRankError: on the others.
        """
        # Ranks read different samples: unless they agree before the step, one waits for ever.
        (count,) = self.job.sum(len(lost))
        if not count:
            return [], 0
        mine = [(isinstance(error, ShardUnavailableError), str(error)) for error in lost]
        every = [pair for pairs in self.job.gather(mine) for pair in pairs]
        samples = [line for whole, line in every if not whole]
        # Each begins with the name of its shard; what follows may differ between ranks.
        shards = {line.partition(": ")[0]: line for whole, line in every if whole}
        new = [line for name, line in shards.items() if name not in self.gone]
        self.gone.update(shards)
        data, damaged = self.config.data, cursor.lost + len(samples)
        if damaged > data.max_bad_samples:
            line, remedy = samples[data.max_bad_samples - cursor.lost], "an epoch go on without "
            self.give_up(cursor, line, f"{remedy}{damaged} or more by --set data.max_bad_samples=N")
        if len(self.gone) > data.max_bad_shards:
            remedy = f"training go on without {len(self.gone)} by --set data.max_bad_shards=N"
            self.give_up(cursor, new[-1], remedy)
        return [*new, *samples], len(samples)

    def give_up(self, cursor: TrainingProgress, line: str, remedy: str) -> NoReturn:
        """Save, and stop for what can't be read."""
        if cursor.step:
            self.save(cursor, self.engine.weights(), best=False)
        if not self.job.first:
            raise OtherRankError("the first rank says what can't be read")
        raise ShardError(
            f"step {cursor.step + 1}: {line}; restore it, or let {remedy}; {self.saved()}"
        )

    def advance(self, cursor: TrainingProgress, skipped: bool, lost: int) -> TrainingProgress:
        """The cursor one step on."""
        plan = self.batches.plan
        return replace(
            cursor,
            step=cursor.step + 1,
            stage_step=cursor.stage_step + 1,
            consumed=min(cursor.consumed + plan.images, plan.order.samples),
            skipped=cursor.skipped + skipped,
            lost=cursor.lost + lost,
        )

    def end_epoch(self, cursor: TrainingProgress, progress: Progress) -> TrainingProgress:
        """Evaluate where it is due, and save."""
        weights, best = self.engine.weights(), False
        before, cursor = cursor, replace(cursor, epoch=cursor.epoch + 1, consumed=0, lost=0)
        if self.config.validation.due(cursor.epoch, self.stage.epochs):
            # Killed while it is evaluated, the epoch is not lost.
            self.save(before, weights, best=False)
            found, measure = self.validation.score(weights, cursor.step), self.validation.measure
            cursor, best = judge(cursor, measure, found.value)
            self.metrics_log.write({"step": cursor.step, "epoch": cursor.epoch, **found.to_json()})
            progress.say(
                f"epoch {cursor.epoch}: validation {found.name} {found.value:.1f}"
                + ("" if best else f" (best {getattr(cursor, measure):.1f})")
                + f", {found.remark}"
            )
        self.save(cursor, weights, best=best)
        return cursor

    def save_between(self, cursor: TrainingProgress) -> None:
        """Save inside an epoch where the config asks for it; its end is saved in any case."""
        every = self.config.checkpoint.every_steps
        inside = cursor.consumed < self.batches.plan.order.samples
        if every and cursor.step % every == 0 and inside:
            self.save(cursor, self.engine.weights(), best=False)

    def save(self, cursor: TrainingProgress, weights: dict[str, Tensor], *, best: bool) -> None:
        """Write a checkpoint with its portable export, unless the weights are spoilt."""
        spoilt = [name for name, weight in weights.items() if not weight.isfinite().all()]
        if spoilt and self.job.first:
            raise TrainingError(
                f"step {cursor.step}: {len(spoilt)} weights hold values that are not numbers, "
                f"{spoilt[0]} first; lower the learning rate; {self.saved()}"
            )
        if spoilt:
            raise OtherRankError("the first rank names the weights")

        def export(folder: Path) -> None:
            self.validation.export(folder, weights)

        name = self.validation.kept_as if best else None
        self.checkpoints.save(cursor, self.engine, export, best=name)

    def stop_if(self, asked: bool, cursor: TrainingProgress) -> None:
        """Save and stop, where a rank was asked to."""
        if asked:
            self.save(cursor, self.engine.weights(), best=False)
            raise Stopped(f"stopped at step {cursor.step}; {self.saved()}")

    def saved(self) -> str:
        """What the run can go on from."""
        last = find_checkpoint(Path(self.config.run), "last")
        return f"{last} is whole, go on by --resume auto" if last else "nothing is saved yet"


def judge(cursor: TrainingProgress, measure: str, score: float) -> tuple[TrainingProgress, bool]:
    """The cursor after an evaluation, and whether it was the best so far by ``measure``."""
    before = getattr(cursor, measure)
    if before is None or score > before:
        better: dict[str, Any] = {measure: score, "waited": 0}
        return replace(cursor, **better), True
    return replace(cursor, waited=cursor.waited + 1), False
