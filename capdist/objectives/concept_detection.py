"""The stage ``mil``: concept detectors by multiple-instance learning, cross-fitted.

All detectors learn side by side, in the same steps and with one optimizer; an image of fold f adds
nothing to the loss of the detector that must not see it. So there is one model, one checkpoint
and one cursor, as in every other stage.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capdist.batch import Batch
from capdist.config.run_config import Config
from capdist.config.stage import MilStage
from capdist.data.dataset import captioned, evaluation_batches
from capdist.distributed.process_group import ProcessGroup
from capdist.inference.exported_model import DETECTOR, WORDS, write_export
from capdist.losses.concepts import absence_nll, noisy_or, noisy_or_cross_entropy
from capdist.metrics.average_precision import mean_average_precision
from capdist.models.concept_detector import CrossFitted
from capdist.objectives.base import Objective
from capdist.vocab import Vocabulary
from shards.concepts import commonest_words
from shards.manifest import Manifest
from shards.schema import ShardError

#: Numbers (N,) of the words that an image's captions have, by image id.
Said = Mapping[int, NDArray[np.int64]]


def fold_of(key: str, folds: int) -> int:
    """The fold of a training image: a function of its key alone."""
    return zlib.crc32(key.encode()) % folds


def said(captions: Mapping[int, Iterable[Sequence[str]]], words: Sequence[str]) -> Said:
    """Which of ``words`` each image's captions have."""
    number = {word: n for n, word in enumerate(words)}
    return {
        image: np.array(sorted({number[w] for w in chain(*of_image) if w in number}), np.int64)
        for image, of_image in captions.items()
    }


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Images with the words of their captions, and the detectors that learn from them.

    ``said`` (B, W) and ``learns`` (B, 1 + folds) are 1 for them and 0 for others.
    """

    said: Tensor
    learns: Tensor


class ConceptDetection(Objective):
    """Binary cross entropy of noisy-OR, summed over words, of every detector and what it may see.

    Args:
        model: the detectors.
        words: how many.
        said: of the training images, from their whole captions.
    """

    model: CrossFitted

    def __init__(self, model: CrossFitted, words: int, said: Said) -> None:
        super().__init__()
        self.model = model
        self.words = words
        self.said = said

    def begin_epoch(self, epoch: int) -> None:
        """Dropout is on."""
        self.train()

    def prepare(self, batches: Sequence[Batch], step: int, device: torch.device) -> list[Batch]:
        """The batches with their labels."""
        return [self.label(batch) for batch in batches]

    def label(self, batch: Batch) -> LabelledBatch:
        """A batch that stands in for images that a rank lacks is nobody's."""
        folds = len(self.model.held_out)
        found = torch.zeros(len(batch.regions), self.words)
        learns = torch.zeros(len(batch.regions), 1 + folds)
        for row, (key, image) in enumerate(zip(batch.keys, batch.image_ids.tolist(), strict=False)):
            found[row, self.said[image]] = 1
            learns[row] = 1
            learns[row, 1 + fold_of(key, folds)] = 0
        return LabelledBatch(**vars(batch), said=found, learns=learns)

    def weight(self, batch: Batch) -> int:
        """Pairs of an image and a detector that learns from it."""
        assert isinstance(batch, LabelledBatch)
        return int(batch.learns.sum())

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss."""
        assert isinstance(batch, LabelledBatch)
        losses = [
            (learns * noisy_or_cross_entropy(absence_nll(*logits), batch.said)).sum()
            for logits, learns in zip(self.model(batch), batch.learns.unbind(1), strict=True)
        ]
        return torch.stack(losses).sum()


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision × 100 of a split's words: the mean over words, and that over images."""

    ap: float
    ap_image: float

    name: ClassVar[str] = "AP"

    @property
    def value(self) -> float:
        """What the best detector is chosen by."""
        return self.ap

    @property
    def remark(self) -> str:
        """The other figure."""
        return f"{self.ap_image:.1f} over images"

    def to_json(self) -> dict[str, float]:
        """As the metrics log keeps it."""
        return {f"val_{name}": value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Detection:
    """What all parts of the stage share; ``words`` are those that are detected."""

    config: Config
    stage: MilStage
    manifest: Manifest
    words: tuple[str, ...]

    @classmethod
    def of(cls, config: Config, stage: MilStage, manifest: Manifest) -> Detection:
        """The stage with the commonest content words of the training captions.

        Raises:
            ShardError: if there are too few images for the folds.
        """
        captions = captioned(manifest, "train").tokens
        if len(captions) < 2 * stage.folds:
            raise ShardError(
                f"{manifest.place}: {len(captions)} training images are too few for {stage.folds} "
                f"folds, expected {2 * stage.folds} or more; set stages.0.folds"
            )
        return cls(config, stage, manifest, commonest_words(captions.values(), stage.words))

    def new_model(self) -> CrossFitted:
        """Fresh detectors: the same on every rank, whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return new_detectors(self.stage, self.manifest.features.dim, len(self.words))

    def objective(self, model: CrossFitted) -> ConceptDetection:
        """What the stage minimises."""
        captions = captioned(self.manifest, "train").tokens
        return ConceptDetection(model, len(self.words), said(captions, self.words))


def new_detectors(stage: MilStage, features: int, words: int) -> CrossFitted:
    """Detectors of the stage's sizes."""
    return CrossFitted(features, words, stage.hidden, stage.dropout, stage.folds)


class DetectorValidator:
    """Ranks the validation images by each word, every rank computing its share.

    What is judged is the detector that learned from all training images: it has seen none of
    these.
    """

    measure: ClassVar[str] = "best_ap"
    kept_as: ClassVar[str] = "detector"

    def __init__(self, detection: Detection, job: ProcessGroup, vocab: Vocabulary) -> None:
        self.detection = detection
        self.job = job
        self.vocab = vocab
        self.model = detection.new_model().to(job.device).eval()
        config, manifest = detection.config, detection.manifest
        split = config.validation.split
        self.batches = evaluation_batches(
            manifest, split, config.data, config.decoding.batch, vocab, job.ranks
        )
        self.said = said(captioned(manifest, split).tokens, detection.words)

    def score(self, weights: dict[str, Tensor], step: int) -> AveragePrecision:
        """Average precision; the same on all ranks, which call it together."""
        self.model.load_state_dict(weights)
        parts = self.job.gather(self.job.agree(lambda: dict(self.probabilities())))
        found = {image: p for part in parts for image, p in part.items()}
        scores = np.stack(list(found.values()))
        truth = np.zeros_like(scores)
        for row, image in enumerate(found):
            truth[row, self.said[image]] = 1
        each = mean_average_precision(scores.T, truth.T), mean_average_precision(scores, truth)
        return AveragePrecision(*(100 * value for value in each))

    def probabilities(self) -> Iterable[tuple[int, NDArray[np.float32]]]:
        """Id and p (W,) of this rank's images."""
        for batch in chain.from_iterable(self.batches.epoch(0)):
            with torch.inference_mode():
                p = noisy_or(absence_nll(*self.model.whole(batch.to(self.job.device))))
            if batch.keys:
                yield from zip(batch.image_ids.tolist(), p.cpu().numpy(), strict=True)

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write what `concepts.read_detector` reads."""
        config, manifest = self.detection.config, self.detection.manifest
        write_export(folder, weights, config, self.vocab, manifest, DETECTOR)
        words = json.dumps(self.detection.words, ensure_ascii=False, indent=0)
        (folder / WORDS).write_text(words, encoding="utf-8")
