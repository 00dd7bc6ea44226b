"""A run: from a configuration and a folder of shards to a trained model in a run folder.

config.json vocab.json versions.json    what was run, with what
metrics.jsonl tensorboard/              every step and every evaluation
captions/                               what every evaluation decoded
concepts/                               what its detector says of the shards, if it has one
checkpoints/                            see `checkpoint.py`
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from capdist.config.base import ConfigError
from capdist.config.run_config import Config
from capdist.config.stage import MilStage, Stage, XeStage
from capdist.data.batches import Batches
from capdist.data.dataset import check_needs, count_words, training_batches
from capdist.data.mixture import describe, load_shards
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.base import make_engine
from capdist.inference.concept_prediction import Detector
from capdist.inference.exported_model import read_weights
from capdist.inference.run_folder import (
    TrainingProgress,
    find_checkpoint,
    read_progress,
    written_by,
)
from capdist.inference.validation import CaptionValidator
from capdist.metrics.coco import probe
from capdist.models.base import CaptionModel, Dims, build
from capdist.objectives.base import Objective
from capdist.objectives.concept_detection import Detection, DetectorValidator
from capdist.objectives.cross_entropy import CrossEntropy
from capdist.objectives.rewards import Rewards
from capdist.objectives.self_critical import SelfCritical
from capdist.reporting.metrics_log import MetricsLog
from capdist.signals import StopSignal
from capdist.training.checkpoint import Checkpoints
from capdist.training.external_validation import ExternallyValidatedTrainer, follower_scores
from capdist.training.preflight import Preflight
from capdist.training.provenance import write_down
from capdist.training.run_lock import claimed
from capdist.training.trainer import Stopped, Trainer, Validator
from capdist.vocab import Vocabulary
from shards.concept_files import ConceptSet
from shards.manifest import Manifest


def train(config: Config, where: str, *, resume: bool) -> bool:
    """Run all stages; ``where`` names the config's file in messages.

    Returns:
        Whether all stages are done; not where a signal asked it to stop, and its state is saved.

    Raises:
        RendezvousError: if the ranks do not find each other.
        ConfigError: if the config, the run folder or a checkpoint does not fit.
        ShardError: if the shards do not.
        TrainingError: if training can't go on.
        CheckpointError: if the state can't be saved.
        OtherRankError: if one of these came up on another rank.
    """
    stop, job = StopSignal(), ProcessGroup.join(config.timeout_s)
    try:
        with claimed(Path(config.run), job):
            run = Run.prepare(config, where, job, stop, resume=resume)
            run.go()
        return True
    except Stopped as stopped:
        if job.first:
            print(stopped, flush=True)
        job.barrier()  # a launcher may end the others when the first one ends with a status
        return False
    finally:
        job.leave()


@dataclass(frozen=True)
class Run:
    """What all parts of a run share."""

    config: Config
    where: str
    job: ProcessGroup
    stop: StopSignal
    manifest: Manifest
    vocab: Vocabulary
    checkpoints: Checkpoints

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.config.run)

    @classmethod
    def prepare(
        cls, config: Config, where: str, job: ProcessGroup, stop: StopSignal, *, resume: bool
    ) -> Run:
        """Check everything that can be wrong before anything trains, and say what will run."""
        run = job.agree(lambda: cls.check(config, where, job, stop, resume=resume))
        if job.first:
            run.announce()
            write_down(config, run.vocab, run.manifest)
        job.barrier()
        return run

    @classmethod
    def check(
        cls, config: Config, where: str, job: ProcessGroup, stop: StopSignal, *, resume: bool
    ) -> Run:
        """The run, if config, shards and run folder fit each other.

        Raises:
            ConfigError, ShardError: if they do not.
        """
        manifest = load_shards(config.data)
        manifest.split(config.validation.split)
        vocab = count_words(manifest, config.data.min_count)
        run = cls(config, where, job, stop, manifest, vocab, Checkpoints(Path(config.run), job))
        last = find_checkpoint(run.folder, "last")
        if last and not resume:
            raise ConfigError(
                f"{config.run}: holds a run; go on with it by --resume auto, "
                "or choose another folder by --set run=FOLDER"
            )
        scores = follower_scores(config)
        if config.validation.by == "follower" and not last and scores.exists():
            raise ConfigError(
                f"{scores}: scores of another training; remove the file, or choose another folder "
                "by --set run=FOLDER"
            )
        model = run.new_model()
        made = {"concepts"} if config.mil else set()
        check_needs(manifest, "train", model.needs - made, config.model["name"])
        checks = Preflight(config, where, job.ranks.world, manifest, vocab, model)
        checks.stages()
        for stage in config.stages:
            run.batches(stage)
        if last:
            checks.checkpoint(last)
        return run

    def announce(self) -> None:
        """Say what will be trained, and which scores will be absent and why."""
        count = sum(parameter.numel() for parameter in self.new_model().parameters())
        train = sum(shard.samples for shard in self.manifest.split("train"))
        print(
            f"{self.where}: {self.config.model['name']}, {count / 1e6:.2f} M parameters; "
            f"{self.manifest.name}, {train} training images, {len(self.vocab)} words; "
            f"{self.config.engine}, {self.job.ranks.world} rank(s) on {self.job.device.type}"
        )
        for line in describe(self.manifest, self.config.data.shards):
            print(line)
        if self.config.mil:
            detection = Detection.of(self.config, self.config.mil, self.manifest)
            size = sum(parameter.numel() for parameter in detection.new_model().parameters())
            print(
                f"stages.0: {1 + self.config.mil.folds} detectors of {len(detection.words)} "
                f"concepts, together {size / 1e6:.2f} M parameters"
            )
        for metric, reason in probe().items():
            print(f"{metric} will be absent: {reason}", flush=True)

    def new_model(self) -> CaptionModel[Any]:
        """A freshly initialised model: the same on every rank, whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            manifest = self.manifest
            dims = Dims(manifest.features.dim, len(self.vocab), len(manifest.class_names))
            return build(self.config.model, dims, self.where)

    def go(self) -> None:
        """Train from the last checkpoint on, or from the beginning."""
        last = find_checkpoint(self.folder, "last")
        cursor = read_progress(last) if last else TrainingProgress()
        self.checkpoints.mark(finished=False)
        metrics_log = MetricsLog(self.folder, enabled=self.job.first)
        metrics_log.truncate_after(cursor.step, evaluated=cursor.consumed == 0)
        # Also for a rank that the checkpoint knows nothing of: not what rank 1 began with.
        torch.manual_seed(self.config.seed + self.job.ranks.rank + 1000 * cursor.step)
        run = self
        for number in range(cursor.stage, len(self.config.stages)):
            if number and self.config.mil:
                run = self.with_concepts()
            cursor = run.stage(number, cursor, metrics_log)
        metrics_log.close()
        if cursor.best_cider is None:
            self.with_concepts()
        self.checkpoints.mark(finished=True)
        if self.job.first:
            self.conclude(cursor)

    def with_concepts(self) -> Run:
        """The run with its detector's concepts, predicted now where that was not done before.

        The shards stay as they are: others may be training on them.
        """
        folder = self.folder / "concepts"
        detector = self.job.agree(lambda: Detector.open(self.folder))
        detector.write(self.manifest, folder, detector.stage.kept, self.job)
        manifest = self.job.agree(lambda: self.manifest.with_concepts(ConceptSet.load(folder)))
        return replace(self, manifest=manifest)

    def conclude(self, cursor: TrainingProgress) -> None:
        """Say what came of it, and what to do with it."""
        if cursor.best_cider is None:
            print(f"trained {cursor.step} steps; best validation AP {cursor.best_ap:.1f}")
            print(f"concepts: {self.folder / 'concepts'}")
            print(f"to the shards: python -m shards concepts --run {self.config.run}", flush=True)
            return
        print(f"trained {cursor.step} steps; best validation CIDEr {cursor.best_cider:.1f}")
        print(f"model: {find_checkpoint(self.folder, 'best')}")
        print(f"scores: python launcher/evaluate.py --run {self.config.run}", flush=True)

    def stage(
        self, number: int, cursor: TrainingProgress, metrics_log: MetricsLog
    ) -> TrainingProgress:
        """Train one stage, from the best of the one before or from where it was stopped."""
        last, best = (find_checkpoint(self.folder, name) for name in ("last", "best"))
        begins = cursor.stage < number
        if begins:
            cursor = TrainingProgress(
                stage=number,
                step=cursor.step,
                skipped=cursor.skipped,
                best_cider=cursor.best_cider,
                best_ap=cursor.best_ap,
            )
        stage = self.config.stages[number]
        start = best if begins else None
        with self.parts(stage, start, fresh=not cursor.stage_step) as (objective, validation):
            resumed = last if not begins else None
            elastic = resumed is not None and written_by(resumed) != self.job.ranks.world
            engine = self.job.agree(
                lambda: make_engine(objective, self.config, stage, self.job, elastic=elastic)
            )
            if resumed:
                self.checkpoints.load(resumed, engine)
            followed = self.config.validation.by == "follower" and not isinstance(stage, MilStage)
            trainer = (ExternallyValidatedTrainer if followed else Trainer)(
                self.config,
                stage,
                objective,
                engine,
                self.batches(stage),
                validation,
                self.checkpoints,
                metrics_log,
                self.stop,
                self.job,
            )
            return trainer.run(cursor)

    @contextmanager
    def parts(
        self, stage: Stage, start: Path | None, *, fresh: bool
    ) -> Iterator[tuple[Objective, Validator]]:
        """What a stage minimises, with whoever computes its rewards, and what judges it.

        It begins with the weights of the checkpoint ``start``; ``fresh`` where it begins.
        """
        if isinstance(stage, MilStage):
            detection = Detection.of(self.config, stage, self.manifest)
            judge = DetectorValidator(detection, self.job, self.vocab)
            yield detection.objective(detection.new_model()), judge
            return
        model = self.new_model()
        if start:
            model.load_state_dict(read_weights(start, self.vocab))
        validation = CaptionValidator(
            self.config, self.job, self.manifest, self.vocab, self.new_model()
        )
        if isinstance(stage, XeStage):
            yield CrossEntropy(model, stage), validation
            return
        rewards = self.job.agree(lambda: Rewards.of(self.config, stage, self.manifest, self.vocab))
        if fresh:
            captions = validation.captions(model.state_dict())
            if self.job.first:
                print(rewards.compare(captions), flush=True)
        with self.job.agree(lambda: rewards.pool(self.job)) as pool:
            words, seed = self.config.decoding.max_words, self.config.seed
            yield SelfCritical(model, stage, words, seed, pool.submit), validation

    def batches(self, stage: Stage) -> Batches:
        """The training split for this rank."""
        data, seed = self.config.data, self.config.seed
        grounding = isinstance(stage, XeStage) and stage.grounding is not None
        return training_batches(
            self.manifest,
            data,
            stage.batch,
            self.vocab,
            self.job.ranks,
            seed,
            grounding=grounding,
        )
