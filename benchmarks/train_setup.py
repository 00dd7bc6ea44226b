"""What every program of the training benchmark gets: a rank, its batches, a model, captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks.corpus import Corpus
from benchmarks.load_corpus import VOCAB
from benchmarks.reward import make_reward
from benchmarks.train_corpus import LONGEST
from benchmarks.train_sampling import Sample, with_lengths
from capdist.batch import Batch
from capdist.config.run_config import Config, parse_config
from capdist.data.batches import Batches
from capdist.data.dataset import training_batches
from capdist.decoding.sampling import sample_captions
from capdist.distributed.process_group import ProcessGroup
from capdist.models.base import CaptionModel, Dims, build
from capdist.objectives import sampled_captions
from capdist.objectives.base import Objective, objective_of
from capdist.objectives.self_critical import SelfCritical, SelfCriticalStage
from capdist.vocab import PAD, WordIds
from capdist.workers.base import Pending
from shards.manifest import Manifest

SEED, LR = 1, 1e-4
#: The programs that are ours by DeepSpeed with one of its ZeRO stages.
ZERO = ("ZeRO 0", "ZeRO 1", "ZeRO 2", "ZeRO 3")
#: The programs that are ours in bf16.
BF16 = ("torch, bf16", "deepspeed, bf16")
#: The program that is ours by torch, but sums gradients after the backward pass only.
NO_OVERLAP = "no overlap"


@dataclass(frozen=True)
class Task:
    """A training program on ``ranks`` ranks, with ``images`` images for each in every step.

    ``section`` is the model's section of a config.
    """

    program: str
    ranks: int
    section: dict[str, Any]
    stage: str
    images: int
    shards: Path

    @property
    def config(self) -> Config:
        """As a run's; DeepSpeed is the engine of the programs named after it and its stages."""
        _, zero, number = self.program.partition("ZeRO ")
        stage = {
            "objective": self.stage,
            "epochs": 1000,
            "batch": {"images": self.images * self.ranks, "micro": self.images},
            "optimizer": {"lr": LR},
        }
        described = {
            "description": "measured",
            "run": str(self.shards / "run"),
            "engine": "deepspeed" if zero or "deepspeed" in self.program else "torch",
            "data": {"shards": str(self.shards), "workers": 1},
            "model": self.section,
            "stages": [stage],
            "deepspeed": {
                "zero_optimization": {"stage": int(number or 1)},
                "bf16": {"enabled": self.program in BF16},
            },
        }
        return parse_config(described, "bench.py train")


@dataclass(frozen=True)
class Setup:
    """A task on one rank."""

    task: Task
    group: ProcessGroup

    @property
    def manifest(self) -> Manifest:
        return Manifest.load(str(self.task.shards))

    def model(self) -> CaptionModel[Any]:
        """Always with the same weights."""
        torch.manual_seed(SEED)
        manifest = self.manifest
        dims = Dims(manifest.features.dim, len(VOCAB), len(manifest.class_names))
        return build(self.task.config.model, dims)

    def batches(self) -> Batches:
        config = self.task.config
        batch = config.stages[0].batch
        references = WordIds(VOCAB, ()) if config.stages[0].reads_references else None
        ranks = self.group.ranks
        return training_batches(
            self.manifest, config.data, batch, VOCAB, ranks, SEED, reference_ids=references
        )

    def endless(self) -> Iterator[Batch]:
        """The rank's batches of all epochs, on its device."""
        batches, epoch = self.batches(), 0
        while True:
            for (batch,) in batches.epoch(epoch):
                yield batch.to(self.group.device)
            epoch += 1

    def objective(self, sample: Sample = sample_captions) -> Objective[Any]:
        """That of the stage; rewards are computed here, of captions that ``sample`` draws."""
        stage, model = self.task.config.stages[0], self.model()
        if self.task.stage == "xe":
            return objective_of(stage)(model, stage)
        cast(Any, sampled_captions).sample_captions = with_lengths(sample)
        reward = make_reward(self._captions())

        def submit(packed: Any, references: Any) -> Pending:
            pending = Pending(lambda: None)
            pending.compute(reward, packed, references)
            return pending

        return SelfCritical(model, cast(SelfCriticalStage, stage), LONGEST, SEED, submit)

    def _captions(self) -> Corpus:
        references: dict[int, list[list[int]]] = {}
        for (batch,) in self.batches().epoch(0):
            for image, captions in zip(batch.image_ids.tolist(), batch.targets, strict=True):
                references[image] = [caption[caption != PAD].tolist() for caption in captions]
        return Corpus(references, np.zeros((0, 2), np.int64))
