"""The loop of a stage: steps, evaluations, checkpoints, early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from capdist.config.run_config import Config
from capdist.config.stage import TrainingStage
from capdist.data.batches import Batches
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.base import Engine
from capdist.errors import CapdistError, OtherRankError
from capdist.inference.run_folder import LAST, TrainingProgress, find_checkpoint
from capdist.metrics.coco import ONE_IMAGE
from capdist.objectives.base import Objective, ValidationResult, Validator
from capdist.reporting.metrics_log import MetricsLog
from capdist.reporting.progress import describe_step
from capdist.signals import StopSignal
from capdist.training.checkpoint import Checkpoints
from capdist.training.schedule import rate
from capdist.training.step_record import StepRecord, StepTaken
from shards.progress import Progress
from shards.remote.download import ShardUnavailableError
from shards.schema import ShardError


class TrainingError(CapdistError):
    """Training can't continue."""


class Stopped(Exception):  # noqa: N818  # not an error: everything is saved
    """A signal asked the run to stop, and its state is saved; the message says where."""


@dataclass(frozen=True)
class Trainer:
    """Trains one stage; ``lost_shards`` are the remote shards that could not be read."""

    config: Config
    stage: TrainingStage
    objective: Objective[Any]
    engine: Engine
    batches: Batches
    validator: Validator
    checkpoints: Checkpoints
    metrics_log: MetricsLog
    stop: StopSignal
    group: ProcessGroup
    lost_shards: set[str] = field(default_factory=set)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.stage.epochs * self.batches.plan.steps

    def run(self, progress: TrainingProgress) -> TrainingProgress:
        """Train until the last epoch, or until ``patience`` evaluations brought no better score.

        Raises:
            TrainingError: if the loss or a weight is not a number.
            ShardError: if more samples are damaged than the config allows; the state before the
                step is saved.
            CheckpointError: if the state can't be saved.
            Stopped: if a signal asked for it; the state is saved.
        """
        with Progress(
            self.steps,
            title="training",
            unit="step",
            initial=progress.stage_step,
            enabled=self.group.first,
        ) as bar:
            while not has_ended(self.stage, progress):
                for record, after, asked in self.epoch(progress):
                    progress = after
                    self.metrics_log.write(record.to_json())
                    bar.advance(1, describe_step(record))
                    for line in record.lost:
                        bar.say(f"step {record.step}: left out: {line}")
                    self.save_between(progress)
                    self.stop_if(asked, progress)
                progress = self.end_epoch(progress, bar)
                self.stop_if(sum(self.group.sum(self.stop.asked)) > 0, progress)
        return progress

    def epoch(
        self, progress: TrainingProgress
    ) -> Iterator[tuple[StepRecord, TrainingProgress, bool]]:
        """The remaining steps of the current epoch.

        Yields each step's record, the progress after it, and whether a rank was asked to stop.
        """
        self.objective.begin_epoch(progress.epoch)
        taken: StepTaken | None = None
        started = time.perf_counter()
        for read in self.batches.steps(progress.epoch, progress.consumed):
            waited = time.perf_counter() - started
            with self.engine.autocast():
                batches = self.objective.prepare(read.batches, progress.step, self.group.device)
            record, (errors, weight, captions, asked) = self.exchange(
                taken,
                len(read.errors),
                sum(map(self.objective.weight, batches)),
                sum(batch.caption_count for batch in batches),
                self.stop.asked,
            )
            if record:
                yield record, progress, asked > 0
            lost, damaged = self.tolerate(read.errors, progress) if errors else ([], 0)
            lr = self.rate(progress.stage_step)
            # A step whose samples are all lost has no weight.
            result = self.engine.step(batches, max(weight, 1.0), lr)
            progress = self.advance(progress, result.skipped, damaged)
            sums, spent = self.objective.sums(), time.perf_counter() - started
            taken = StepTaken(progress, batches, result, sums, lr, captions, spent, waited, lost)
            started = time.perf_counter()
        record, (asked,) = self.exchange(taken, self.stop.asked)
        if record:
            yield record, progress, asked > 0

    def exchange(
        self, taken: StepTaken | None, *counts: float
    ) -> tuple[StepRecord | None, list[float]]:
        """The record of the last step, and the sums of the next one's counts over all ranks.

        Both are in one message, after the next batch was read: until then, the device need not have
        finished. It must have before the next update: a loss that is not finite ends training, and
        an objective's figures may be part of its next loss. Signals reach the ranks at different
        times; the message makes all of them stop after the same step.
        """
        own = [taken.result.loss, *taken.sums] if taken else []
        started = time.perf_counter()
        totals = self.group.sum(*counts, *own)
        waited = time.perf_counter() - started
        own_totals = totals[len(counts) :]
        record = self.record(taken, waited, *own_totals) if taken else None
        return record, totals[: len(counts)]

    def record(self, taken: StepTaken, wait: float, loss: float, *sums: float) -> StepRecord:
        """The entry of a step, from its sums over all ranks and the seconds that they took."""
        self.check(loss, taken)
        progress, result, took = taken.progress, taken.result, taken.spent + wait
        return StepRecord(
            step=progress.step,
            stage=self.stage.objective,
            epoch=progress.epoch + progress.consumed / self.batches.plan.order.samples,
            loss=loss,
            lr=taken.lr,
            grad_norm=None if result.grad_norm is None else float(result.grad_norm),
            captions_per_s=taken.captions / took,
            step_s=took,
            data_s=taken.waited,
            skipped=progress.skipped,
            lost=taken.lost,
            seconds={**result.seconds, "wait": wait},
            figures=self.objective.figures(sums, self.group.ranks.world),
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step of the stage."""
        per_epoch = self.batches.plan.steps
        return rate(self.stage.schedule, self.stage.optimizer.lr, step, per_epoch, self.steps)

    def check(self, loss: float, taken: StepTaken) -> None:
        """Stop at a loss of all ranks that is not finite, unless the loss scaler skipped it."""
        if taken.result.skipped or math.isfinite(loss):
            return
        parts = zip(taken.result.parts, taken.batches, strict=True)
        keys = [key for part, batch in parts if not part.isfinite() for key in batch.keys]
        if not keys:
            raise OtherRankError("another rank had the samples")
        raise TrainingError(
            f"step {taken.progress.step}: the loss is {loss} for samples {', '.join(keys)}; "
            f"look at them, or lower the learning rate; {self.saved()}"
        )

    def tolerate(self, lost: list[ShardError], progress: TrainingProgress) -> tuple[list[str], int]:
        """The samples and shards that a step lacks, over all ranks, and the number of samples.

        Ranks read different samples: they must agree before the step, or some wait for ever.

        Raises:
            ShardError: on the first rank, if the config allows fewer; the state is saved.
            OtherRankError: on the others.
        """
        mine = [(isinstance(error, ShardUnavailableError), str(error)) for error in lost]
        every = [pair for pairs in self.group.gather(mine) for pair in pairs]
        samples = [line for whole, line in every if not whole]
        # Each begins with the name of its shard; the rest may differ between ranks.
        shards = {line.partition(": ")[0]: line for whole, line in every if whole}
        new = [line for name, line in shards.items() if name not in self.lost_shards]
        self.lost_shards.update(shards)
        data, damaged = self.config.data, progress.lost + len(samples)
        if damaged > data.max_bad_samples:
            line = samples[data.max_bad_samples - progress.lost]
            self.give_up(progress, line, f"data.max_bad_samples={damaged} or more")
        if len(self.lost_shards) > data.max_bad_shards:
            self.give_up(progress, new[-1], f"data.max_bad_shards={len(self.lost_shards)}")
        return [*new, *samples], len(samples)

    def give_up(self, progress: TrainingProgress, line: str, option: str) -> NoReturn:
        """Save, and stop at data that can't be read."""
        if progress.step:
            self.save(progress, self.engine.weights(), best=False)
        if not self.group.first:
            raise OtherRankError("the first rank reports what can't be read")
        raise ShardError(
            f"step {progress.step + 1}: {line}; restore it, or train without it by adding "
            f"--set {option}; {self.saved()}"
        )

    def advance(self, progress: TrainingProgress, skipped: bool, lost: int) -> TrainingProgress:
        plan = self.batches.plan
        return replace(
            progress,
            step=progress.step + 1,
            stage_step=progress.stage_step + 1,
            consumed=min(progress.consumed + plan.images, plan.order.samples),
            skipped=progress.skipped + skipped,
            lost=progress.lost + lost,
        )

    def end_epoch(self, progress: TrainingProgress, bar: Progress) -> TrainingProgress:
        """Evaluate where it is due, and save."""
        weights, best = self.engine.weights(), False
        unscored, progress = progress, progress.next_epoch()
        if self.config.validation.due(progress.epoch, self.stage.epochs):
            # The epoch must survive a kill during its evaluation.
            self.save(unscored, weights, best=False)
            found = self.validator.score(weights, progress.step)
            progress, best = update_best(progress, found.name, found.value)
            self.metrics_log.write(
                {"step": progress.step, "epoch": progress.epoch, **found.to_json()}
            )
            if found.captions:
                self.metrics_log.show(progress.step, found.captions)
            before = None if best else progress.best[found.name]
            bar.say(f"epoch {progress.epoch}: validation {describe(found, before)}")
        self.save(progress, weights, best=best)
        return progress

    def save_between(self, progress: TrainingProgress) -> None:
        """Save inside an epoch if the config asks for it; its end is saved in any case."""
        every = self.config.checkpoint.every_steps
        inside = progress.consumed < self.batches.plan.order.samples
        if every and progress.step % every == 0 and inside:
            self.save(progress, self.engine.weights(), best=False)

    def save(self, progress: TrainingProgress, weights: dict[str, Tensor], *, best: bool) -> None:
        """Write a checkpoint with its portable export, unless a weight is not finite."""
        nonfinite = [name for name, weight in weights.items() if not weight.isfinite().all()]
        if nonfinite and self.group.first:
            raise TrainingError(
                f"step {progress.step}: {len(nonfinite)} weights hold values that are not finite, "
                f"the first is {nonfinite[0]}; lower the learning rate; {self.saved()}"
            )
        if nonfinite:
            raise OtherRankError("the first rank reports the weights")

        def export(folder: Path) -> None:
            self.validator.export(folder, weights)

        name = self.validator.best_name if best else None
        self.checkpoints.save(progress, self.engine, export, best=name)

    def stop_if(self, asked: bool, progress: TrainingProgress) -> None:
        """Save and stop if a rank was asked to."""
        if asked:
            self.save(progress, self.engine.weights(), best=False)
            raise Stopped(f"stopped at step {progress.step}; {self.saved()}")

    def saved(self) -> str:
        """What a resumed run continues from."""
        last = find_checkpoint(Path(self.config.run), LAST)
        if last is None:
            return "nothing is saved yet"
        return f"{last} is complete. Continue with --resume auto"


def has_ended(stage: TrainingStage, progress: TrainingProgress) -> bool:
    """Whether a stage has had its epochs, or has run out of patience."""
    return progress.epoch >= stage.epochs or bool(
        stage.patience and progress.waited >= stage.patience
    )


def describe(found: ValidationResult, best: float | None) -> str:
    """A validation's line; ``best`` is the score of an earlier model that is better."""
    if found.value is None:
        return f"{found.name}: {ONE_IMAGE}; the latest model counts as best, {found.remark}"
    remark = "" if best is None else f" (best {best:.1f})"
    return f"{found.name} {found.value:.1f}{remark}, {found.remark}"


def update_best(
    progress: TrainingProgress, metric: str, score: float | None
) -> tuple[TrainingProgress, bool]:
    """The progress after an evaluation, and whether its score is the best of the metric so far.

    A score that is undefined, None, tells nothing: the later model is the best one, and patience
    does not run out.
    """
    if score is None:
        return replace(progress, waited=0), True
    before = progress.best.get(metric)
    if before is None or score > before:
        return replace(progress, best={**progress.best, metric: score}, waited=0), True
    return replace(progress, waited=progress.waited + 1), False
