"""Concept detectors by multiple-instance learning (Fang et al., CVPR 2015), cross-fitted.

All detectors are trained together, in the same steps and with one optimizer; an image of fold f
adds nothing to the loss of the detector that must not see it. So there is one model and one
checkpoint, as in every other stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.config.detector import DetectorConfig
from capdist.config.stage import TrainingStage
from capdist.data.dataset import captioned, evaluation_batches
from capdist.data.training_captions import read_counts
from capdist.inference.concept_prediction import METRIC, Detector, fold_of, new_detectors
from capdist.inference.exported_model import DETECTOR, WORDS, write_export
from capdist.inference.feature_check import FeatureCheck
from capdist.inference.run_folder import BEST_DETECTOR
from capdist.losses.concepts import absence_nll, noisy_or, noisy_or_cross_entropy
from capdist.models.concept_detector import CrossFitted
from capdist.objectives.base import Objective, StageContext, Validator, register
from capdist.vocab import WordIds
from shards.atomic import write_text
from shards.concept_files import ConceptSet
from shards.concepts import commonest_words, mean_average_precision
from shards.manifest import Manifest
from shards.progress import tracked
from shards.schema import ShardError

#: Indices (N,) of the words that an image's captions mention, by image id.
Mentioned = Mapping[int, NDArray[np.int64]]


def mentioned(captions: Mapping[int, Iterable[Sequence[str]]], words: Sequence[str]) -> Mentioned:
    """Which of ``words`` each image's captions mention."""
    number = {word: n for n, word in enumerate(words)}
    return {
        image: np.array(sorted({number[w] for w in chain(*of_image) if w in number}), np.int64)
        for image, of_image in captions.items()
    }


class ConceptDetectionStage(TrainingStage, DetectorConfig):
    """Concepts by multiple-instance learning (Fang et al. 2015), before captions."""

    provides = frozenset({"concepts"})
    reads_references = True
    trains_captions = False

    objective: Literal["mil"]


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Images with the words of their captions, and the detectors that learn from them.

    ``mentioned`` (B, W) and ``learns`` (B, 1 + folds) are 1 for them and 0 for others.
    """

    mentioned: Tensor
    learns: Tensor


@register("mil")
class ConceptDetection(Objective[ConceptDetectionStage]):
    """Binary cross entropy of noisy-OR, summed over words and detectors.

    Args:
        model: the detectors.
        ids: (W,) the words' ids in the references of batches.
    """

    Config = ConceptDetectionStage
    metric = METRIC
    best_name = BEST_DETECTOR

    model: CrossFitted

    def __init__(self, model: CrossFitted, ids: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.ids = np.array(ids)

    @classmethod
    def preflight(cls, stage: ConceptDetectionStage, context: StageContext) -> None:
        concept_words(stage, context)
        if len(context.manifest.chosen_sets) > 1:
            raise ConfigError(
                f"{context.place}: objective mil: its detectors read one feature set, but "
                "model.features has several; take concepts from another run with capdist concepts"
            )

    @classmethod
    @contextmanager
    def build(
        cls, stage: ConceptDetectionStage, context: StageContext
    ) -> Iterator[tuple[ConceptDetection, Validator]]:
        words = concept_words(stage, context)
        counts = read_counts(context.manifest, context.config.data.copies)
        ids = WordIds(context.vocab, counts.words)
        objective = cls(_fresh(stage, context, words), [ids(word) for word in words])
        yield objective, DetectorValidator(context, words, _fresh(stage, context, words))

    @classmethod
    def describe(cls, stage: ConceptDetectionStage, context: StageContext) -> str:
        words = concept_words(stage, context)
        size = sum(p.numel() for p in _fresh(stage, context, words).parameters())
        return (
            f"{1 + stage.folds} detectors of {len(words)} concepts, together {size / 1e6:.2f} M "
            "parameters"
        )

    @classmethod
    def provide(cls, stage: ConceptDetectionStage, context: StageContext) -> Manifest:
        """The shards with the detector's concepts, which are predicted once and kept.

        The shards themselves stay as they are: other runs may be reading them.
        """
        run, group = Path(context.config.run), context.group
        folder = run / "concepts"
        detector = group.agree(lambda: Detector.open(run))
        # What differs was accepted, and recorded, when the run was resumed.
        check = FeatureCheck(context.config.data.accept_features)
        detector.write(context.manifest, folder, stage.kept, group, check)
        return group.agree(lambda: context.manifest.with_concepts(ConceptSet.load(folder)))

    def begin_epoch(self, epoch: int) -> None:
        self.train()

    def prepare(self, batches: Sequence[Batch], step: int, device: torch.device) -> list[Batch]:
        """The batches with their labels."""
        return [self.label(batch) for batch in batches]

    def label(self, batch: Batch) -> LabelledBatch:
        """No detector learns from a placeholder batch."""
        folds = len(self.model.held_out)
        found = torch.zeros(len(batch.regions), len(self.ids))
        learns = torch.zeros(len(batch.regions), 1 + folds)
        for row, key in enumerate(batch.keys):
            assert batch.references is not None
            found[row] = torch.from_numpy(np.isin(self.ids, batch.references[row]))
            learns[row] = 1
            learns[row, 1 + fold_of(key, folds)] = 0
        given = {field.name: getattr(batch, field.name) for field in fields(Batch)}
        return LabelledBatch(**given, mentioned=found, learns=learns)

    def weight(self, batch: Batch) -> int:
        """Pairs of an image and a detector that learns from it."""
        assert isinstance(batch, LabelledBatch)
        return int(batch.learns.sum())

    def forward(self, batch: Batch) -> Tensor:
        assert isinstance(batch, LabelledBatch)
        losses = [
            (learns * noisy_or_cross_entropy(absence_nll(*logits), batch.mentioned)).sum()
            for logits, learns in zip(self.model(batch), batch.learns.unbind(1), strict=True)
        ]
        return torch.stack(losses).sum()


def concept_words(stage: ConceptDetectionStage, context: StageContext) -> tuple[str, ...]:
    """The words to detect: the commonest content words of the training captions.

    Raises:
        ShardError: if there are too few images for the folds.
    """
    manifest = context.manifest
    counts = read_counts(manifest, context.config.data.copies)
    if counts.images < 2 * stage.folds:
        raise ShardError(
            f"{manifest.location}: {counts.images} training images are too few for {stage.folds} "
            f"folds, expected {2 * stage.folds} or more; set stages.0.folds"
        )
    return commonest_words(counts.count_captions_with(), stage.words)


def _fresh(
    stage: ConceptDetectionStage, context: StageContext, words: Sequence[str]
) -> CrossFitted:
    """Freshly initialised detectors: the same on every rank, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.config.seed)
        return new_detectors(stage, context.manifest.features.dim, len(words))


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision × 100 of a split's words: the mean over words, and that over images."""

    ap: float
    ap_image: float

    name: ClassVar[str] = METRIC
    captions: ClassVar[None] = None

    @property
    def value(self) -> float:
        return self.ap

    @property
    def remark(self) -> str:
        return f"{self.ap_image:.1f} over images"

    def to_json(self) -> dict[str, float]:
        """The entries of the metrics log."""
        return {f"val_{name}": value for name, value in vars(self).items()}


class DetectorValidator:
    """Ranks the validation images by each word, every rank computing its share.

    It scores the detector that learns from all training images, which has seen none of these.
    """

    best_name: ClassVar[str] = BEST_DETECTOR

    def __init__(self, context: StageContext, words: Sequence[str], model: CrossFitted) -> None:
        self.context = context
        self.words = words
        self.model = model.to(context.group.device).eval()
        config, split = context.config, context.config.validation.split
        self.batches = evaluation_batches(
            context.manifest,
            split,
            config.data,
            config.decoding.batch,
            context.vocab,
            context.group.ranks,
        )
        self.mentioned = mentioned(captioned(context.manifest, split).tokens, words)

    def score(self, weights: dict[str, Tensor], step: int) -> AveragePrecision:
        """Average precision; the same on all ranks, which call it together."""
        self.model.load_state_dict(weights)
        group = self.context.group
        parts = group.gather(group.agree(lambda: dict(self.probabilities())))
        found = {image: p for part in parts for image, p in part.items()}
        scores = np.stack(list(found.values()))
        truth = np.zeros_like(scores)
        for row, image in enumerate(found):
            truth[row, self.mentioned[image]] = 1
        each = mean_average_precision(scores.T, truth.T), mean_average_precision(scores, truth)
        return AveragePrecision(*(100 * value for value in each))

    def probabilities(self) -> Iterable[tuple[int, NDArray[np.float32]]]:
        """Id and p (W,) of this rank's images."""
        group = self.context.group
        device = group.device
        steps = tracked(
            self.batches.epoch(0),
            self.batches.plan.steps,
            title="validating",
            unit="batch",
            enabled=group.first,
            inner=True,
        )
        for batch in chain.from_iterable(steps):
            with torch.inference_mode():
                p = noisy_or(absence_nll(*self.model.whole(batch.to(device))))
            if batch.keys:
                yield from zip(batch.image_ids.tolist(), p.cpu().numpy(), strict=True)

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write what `Detector.read` reads."""
        context = self.context
        write_export(folder, weights, context.config, context.vocab, context.manifest, DETECTOR)
        write_text(folder / WORDS, json.dumps(self.words, ensure_ascii=False, indent=0))
