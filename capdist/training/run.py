"""A run: from a configuration and a folder of shards to a trained model in a run folder.

config.json vocab.json versions.json    what was run, and with which versions
metrics.jsonl tensorboard/              every step and every evaluation
captions/                               the captions of every evaluation
concepts/                               concepts of the shards, if a stage detects them
checkpoints/                            see `checkpoint.py`
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from capdist.config.base import ConfigError
from capdist.config.run_config import Config, zero_stage
from capdist.data.batches import Batches
from capdist.data.dataset import check_needs, training_batches
from capdist.data.mixture import describe, load_shards
from capdist.data.training_captions import TrainingCaptions
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.factory import make_engine
from capdist.inference.feature_check import FeatureCheck
from capdist.inference.run_folder import (
    BEST,
    LAST,
    STAGE_START,
    TrainingProgress,
    find_checkpoint,
    read_progress,
    saved_config,
    written_by,
)
from capdist.metrics.coco import ONE_IMAGE, probe
from capdist.models.base import CaptionModel, Dims, build
from capdist.objectives.base import StageContext, objective_of
from capdist.reporting.metrics_log import MetricsLog
from capdist.reporting.report.files import REPORT, RunFiles
from capdist.reporting.report.page import write_report
from capdist.signals import StopSignal
from capdist.tracking.background import BackgroundTracker
from capdist.tracking.base import find_tracker
from capdist.tracking.run_tracking import open_tracker
from capdist.training.checkpoint import Checkpoints
from capdist.training.external_validation import ExternallyValidatedTrainer, follower_scores
from capdist.training.initial import InitialModel, initial_folder, kept_vocabulary
from capdist.training.preflight import Preflight
from capdist.training.provenance import copy_predictor, write_provenance
from capdist.training.run_lock import run_lock
from capdist.training.trainer import Stopped, Trainer, has_ended
from capdist.vocab import Vocabulary
from shards.manifest import Manifest


def train(config: Config, where: str, *, resume: bool) -> bool:
    """Run all stages; ``where`` names the config's file in messages.

    Returns:
        Whether all stages are done; False if a signal stopped the run, whose state is saved.

    Raises:
        RendezvousError: if the ranks do not find each other.
        ConfigError: if the config, the run folder or a checkpoint does not fit.
        ShardError: if the shards do not.
        TrainingError: if training can't continue.
        CheckpointError: if the state can't be saved.
        OtherRankError: if one of these was raised on another rank.
    """
    stop, group = StopSignal(), ProcessGroup.join(config.timeout_s)
    try:
        with run_lock(Path(config.run), group):
            run = Run.prepare(config, where, group, stop, resume=resume)
            run.train()
        return True
    except Stopped as stopped:
        if group.first:
            print(stopped, flush=True)
        group.barrier()  # a launcher may end the others when the first one exits with a status
        return False
    finally:
        group.leave()


@dataclass(frozen=True)
class Run:
    """What all stages of a run share; ``model`` is freshly initialised, and never trained.

    ``initial`` is the other run's model that a new run begins from; None: it begins afresh, or has
    begun before.
    """

    config: Config
    where: str
    group: ProcessGroup
    stop: StopSignal
    manifest: Manifest
    captions: TrainingCaptions
    model: CaptionModel[Any]
    initial: InitialModel | None = None

    @property
    def vocab(self) -> Vocabulary:
        return self.captions.vocab

    @property
    def folder(self) -> Path:
        return Path(self.config.run)

    @classmethod
    def prepare(
        cls, config: Config, where: str, group: ProcessGroup, stop: StopSignal, *, resume: bool
    ) -> Run:
        """Check everything that can be wrong before anything trains, and print what will run."""
        run = group.agree(lambda: cls.check(config, where, group, stop, resume=resume))
        if group.first:
            run.announce()
            run.keep_initial()
            if run.is_over:
                print(f"{config.run}: trained to the end already; config.json stays as it is")
            else:
                write_provenance(config, run.vocab, run.manifest)
            if "concepts" in run.model.needs - config.provides:
                copy_predictor(run.folder, run.manifest)
        group.barrier()
        if not find_checkpoint(run.folder, LAST):
            start = initial_folder(config)
            Checkpoints(run.folder, group).set_name(STAGE_START, start.name if start else None)
        return replace(run, initial=None)

    @classmethod
    def check(
        cls, config: Config, where: str, group: ProcessGroup, stop: StopSignal, *, resume: bool
    ) -> Run:
        """The run, if config, shards and run folder fit each other.

        Raises:
            ConfigError, ShardError: if they do not.
        """
        if config.tracking is not None:
            find_tracker(config.tracking, f"{where}: tracking")
        manifest = load_shards(config.data, config.model.features)
        manifest.split(config.validation.split)
        captions = TrainingCaptions.read(manifest, config.data)
        last = _check_folder(config, resume=resume)
        recorded = (Path(config.run),) if group.first else ()
        check = FeatureCheck(config.data.accept_features, recorded)
        initial = None
        if kept := kept_vocabulary(config, last) if resume else None:
            captions = replace(captions, vocab=kept)
        elif initial := InitialModel.open(config, where, manifest, captions.vocab, check):
            captions = replace(captions, vocab=initial.vocab)
        captions.check_words(where)
        if any(stage.trains_captions for stage in config.stages):
            captions.check_ends(where)
        vocab = captions.vocab
        model = _initialise(config, manifest, vocab, where)
        if initial:
            initial.weights(model.state_dict())
        run = cls(config, where, group, stop, manifest, captions, model, initial)
        for split in ("train", config.validation.split):
            check_needs(
                manifest,
                split,
                model.needs - config.provides if split == "train" else frozenset(),
                config.model.name,
                lacking=model.may_lack_sets,
            )
        preflight = Preflight(config, where, group.ranks.world, manifest, vocab, model, check)
        preflight.stages(run.context)
        for number in range(len(config.stages)):
            run.batches(number)
        if last:
            preflight.checkpoint(last)
        return run

    def context(self, number: int, *, resumed: bool = False) -> StageContext:
        """What the objective of a stage is checked against, and built from."""
        return StageContext(
            self.config,
            f"{self.where}: stages.{number}",
            self.manifest,
            self.vocab,
            self.group,
            self.model,
            find_checkpoint(self.folder, STAGE_START),
            resumed,
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train, so that another config would not be what was run."""
        last = find_checkpoint(self.folder, LAST)
        if last is None:
            return False
        progress = read_progress(last)
        left = len(self.config.stages) - 1 - progress.stage
        return left <= 0 and has_ended(self.config.stages[-1], progress)

    def keep_initial(self) -> None:
        """Copy what a new run takes over from another one into its folder, and print it."""
        if self.initial:
            fresh = self.model.state_dict()
            for line in self.initial.report(fresh):
                print(line, flush=True)
            self.initial.write(self.config, self.manifest, self.initial.weights(fresh))

    def announce(self) -> None:
        """Print what will be trained, and which scores will be absent and why."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        train = sum(shard.samples for shard in self.manifest.split("train"))
        print(
            f"{self.where}: {self.config.model.name}, {count / 1e6:.2f} M parameters; "
            f"{self.manifest.name}, {train} training images, {len(self.vocab)} words; "
            f"{self.config.engine}, {self.group.ranks.world} rank(s) on {self.group.device.type}"
        )
        for line in describe(self.manifest, self.config.data.shards):
            print(line)
        for line in self.captions.lines():
            print(line)
        split = self.config.validation.split
        if sum(shard.samples for shard in self.manifest.split(split)) == 1:
            print(f"warning: CIDEr of split {split}: {ONE_IMAGE}; the latest model counts as best")
        for number, stage in enumerate(self.config.stages):
            if line := objective_of(stage).describe(stage, self.context(number)):
                print(f"stages.{number}: {line}")
        for metric, reason in probe(self.manifest.text).items():
            print(f"{metric} will be absent: {reason}", flush=True)

    def train(self) -> None:
        """Train from the last checkpoint on, or from the beginning."""
        last = find_checkpoint(self.folder, LAST)
        progress = read_progress(last) if last else TrainingProgress()
        tracker = self.group.agree(self.open_tracker)
        Checkpoints(self.folder, self.group).mark(finished=False)
        with MetricsLog(self.folder, enabled=self.group.first, tracker=tracker) as metrics_log:
            metrics_log.truncate_after(progress.step, evaluated=progress.consumed == 0)
            # Also for a rank that the checkpoint has no generator of: not what rank 1 began with.
            torch.manual_seed(self.config.seed + self.group.ranks.rank + 1000 * progress.step)
            run = self
            for number in range(len(self.config.stages)):
                if number >= progress.stage:
                    progress = run.stage(number, progress, metrics_log)
                run = run.with_provided(number)
            metrics_log.scores({f"best_val/{name}": best for name, best in progress.best.items()})
        Checkpoints(self.folder, self.group).mark(finished=True)
        if self.group.first:
            self.conclude(progress)

    def open_tracker(self) -> BackgroundTracker | None:
        """The run in the service that the config names, on the first rank."""
        if self.config.tracking is None or not self.group.first:
            return None
        config = self.config.model_dump(mode="json", exclude={"schema_"})
        return open_tracker(self.config.tracking, self.folder, config)

    def with_provided(self, number: int) -> Run:
        """The run whose later stages read what a stage predicted, if it did."""
        stage = self.config.stages[number]
        if not stage.provides:
            return self
        return replace(self, manifest=objective_of(stage).provide(stage, self.context(number)))

    def conclude(self, progress: TrainingProgress) -> None:
        """Print the result, and what to do with it."""
        stage = self.config.stages[-1]
        metric = objective_of(stage).metric
        best, folder = progress.best.get(metric), shlex.quote(self.config.run)
        score = f"best validation {metric} {best:.1f}" if best is not None else f"no {metric}"
        print(f"trained {progress.step} steps; {score}")
        if stage.trains_captions:
            print(f"model: {find_checkpoint(self.folder, BEST)}")
            print(f"scores: capdist evaluate --run {folder}", flush=True)
        else:
            print(f"{', '.join(sorted(stage.provides))}: {self.folder / 'concepts'}")
            print(f"to the shards: python -m shards concepts --run {folder}", flush=True)
        page = self.folder / REPORT
        write_report([RunFiles(self.folder, self.folder, known=self.manifest)], page)
        print(f"report: {page}", flush=True)

    def stage(
        self, number: int, progress: TrainingProgress, metrics_log: MetricsLog
    ) -> TrainingProgress:
        """Train one stage, from the best model of the one before or from where it stopped."""
        checkpoints = Checkpoints(self.folder, self.group)
        last, best = (find_checkpoint(self.folder, name) for name in (LAST, BEST))
        begins = progress.stage < number
        if begins:
            progress = TrainingProgress(
                stage=number, step=progress.step, skipped=progress.skipped, best=progress.best
            )
            start = best or initial_folder(self.config)
            checkpoints.set_name(STAGE_START, start.name if start else None)
        stage, resumed = self.config.stages[number], progress.stage_step > 0
        context = self.context(number, resumed=resumed)
        with objective_of(stage).build(stage, context) as (objective, validator):
            previous = None if begins else last
            elastic = previous is not None and self.is_elastic(previous)
            engine = self.group.agree(
                lambda: make_engine(objective, self.config, stage, self.group, elastic=elastic)
            )
            if previous:
                checkpoints.load(previous, engine)
            external = self.config.validation.by == "follower" and stage.trains_captions
            trainer = (ExternallyValidatedTrainer if external else Trainer)(
                self.config,
                stage,
                objective,
                engine,
                self.batches(number),
                validator,
                checkpoints,
                metrics_log,
                self.stop,
                self.group,
            )
            return trainer.run(progress)

    def is_elastic(self, checkpoint: Path) -> bool:
        """Whether other ranks, or another ZeRO stage, have split the state of a checkpoint."""
        stages = [zero_stage(c.deepspeed) for c in (saved_config(checkpoint), self.config)]
        return written_by(checkpoint) != self.group.ranks.world or stages[0] != stages[1]

    def batches(self, number: int) -> Batches:
        """The training split as a stage reads it on this rank."""
        stage = self.config.stages[number]
        reads = stage.reads | (self.model.supervision if stage.supervises else frozenset())
        return training_batches(
            self.manifest,
            self.config.data,
            stage.batch,
            self.vocab,
            self.group.ranks,
            self.config.seed,
            grounding="grounding" in reads,
            reference_ids=self.captions.reference_ids if stage.reads_references else None,
        )


def _initialise(
    config: Config, manifest: Manifest, vocab: Vocabulary, where: str
) -> CaptionModel[Any]:
    """A freshly initialised model: the same on every rank, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        classes, predicates = len(manifest.class_names), len(manifest.predicates)
        first, *further = (found.spec.dim for found in manifest.chosen_sets)
        dims = Dims(first, len(vocab), classes, predicates, tuple(further))
        return build(config.model, dims, where)


def _check_folder(config: Config, *, resume: bool) -> Path | None:
    """The last checkpoint of a run folder that may be trained in, if it has one.

    Raises:
        ConfigError: if another run has been there.
    """
    last = find_checkpoint(Path(config.run), LAST)
    if last and not resume:
        raise ConfigError(
            f"{config.run}: holds a run; continue it with --resume auto, or choose another folder "
            "with --set run=FOLDER"
        )
    scores = follower_scores(config)
    if config.validation.by == "follower" and not last and scores.exists():
        raise ConfigError(
            f"{scores}: scores of another training; remove the file, or choose another folder with "
            "--set run=FOLDER"
        )
    return last
