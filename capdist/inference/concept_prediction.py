"""Concept detectors in use: the concepts of whole folders of shards."""

from __future__ import annotations

import hashlib
import shlex
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from capdist.batch import Batch
from capdist.config.base import ConfigError, read_json_as
from capdist.config.detector import DetectorConfig
from capdist.config.run_config import Config
from capdist.data.collate import Collate
from capdist.data.dataset import evaluation_batches
from capdist.data.encoded_sample import SampleEncoder
from capdist.data.rank_plan import Ranks
from capdist.distributed.process_group import ProcessGroup
from capdist.inference.exported_model import DETECTOR, WORDS, read_weights
from capdist.inference.feature_check import NOTHING_ACCEPTED, FeatureCheck
from capdist.inference.run_folder import (
    BEST_DETECTOR,
    find_checkpoint,
    read_progress,
    read_saved_model,
    saved_config,
)
from capdist.losses.concepts import absence_nll, noisy_or
from capdist.models.concept_detector import CrossFitted
from capdist.vocab import Vocabulary
from shards.concept_files import CONCEPTS, ConceptFile, ConceptSet, write_concept_file
from shards.concepts import Concepts, top_concepts
from shards.feature_spec import FeatureSpec
from shards.manifest import Manifest
from shards.progress import tracked
from shards.schema import Sample
from shards.shard import Shard

#: The validation score that chooses the best detectors: average precision.
METRIC = "AP"
#: Digits of a probability that are kept: the last bits depend on the machine.
DIGITS = 4


def fold_of(key: str, folds: int) -> int:
    """The fold of a training image: a function of its key alone."""
    return zlib.crc32(key.encode()) % folds


def new_detectors(sizes: DetectorConfig, features: int, words: int) -> CrossFitted:
    return CrossFitted(features, words, sizes.hidden, sizes.dropout, sizes.folds)


def detector_sizes(config: Config) -> DetectorConfig:
    """The sizes of the detectors of a run that trains some."""
    stage = next(stage for stage in config.stages if "concepts" in stage.provides)
    return DetectorConfig.model_validate(stage.model_dump(include=set(DetectorConfig.model_fields)))


@dataclass(frozen=True)
class Detector:
    """The best detectors of a run; ``digest`` is that of their weights."""

    model: CrossFitted
    config: Config
    sizes: DetectorConfig
    words: tuple[str, ...]
    features: FeatureSpec
    vocab: Vocabulary
    digest: str
    best_ap: float | None

    @classmethod
    def open(cls, run: Path) -> Detector:
        """The best detectors of a run folder.

        Raises:
            ConfigError: if it has none.
        """
        folder = find_checkpoint(run, BEST_DETECTOR)
        if folder is None:
            raise ConfigError(
                f"{run}: no concept detector; train one with a stage of objective 'mil', or apply "
                "a build's predictor with: python -m shards concepts "
                f"--run {shlex.quote(str(run))} --shards DIR"
            )
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> Detector:
        """The detectors of a checkpoint."""
        config = saved_config(folder)
        sizes = detector_sizes(config)
        vocab = Vocabulary.load(folder / "vocab.json")
        words = read_json_as(tuple[str, ...], folder / WORDS)
        features = FeatureSpec.from_json(read_saved_model(folder)["features"])
        model = new_detectors(sizes, features.dim, len(words))
        model.load_state_dict(read_weights(folder, vocab, DETECTOR))
        digest = hashlib.sha256((folder / DETECTOR).read_bytes()).hexdigest()[:16]
        best_ap = read_progress(folder).best.get(METRIC)
        return cls(model.eval(), config, sizes, words, features, vocab, digest, best_ap)

    def check(self, sizes: DetectorConfig, place: str) -> None:
        """Refuse to resume with detectors of other sizes; ``place`` names the stage.

        Raises:
            ConfigError: naming the sizes of those that are there.
        """
        same = ("words", "folds", "hidden")
        if any(getattr(sizes, name) != getattr(self.sizes, name) for name in same):
            raise ConfigError(
                f"{place} is not that of the detector in {self.config.run}, which has "
                + ", ".join(f"{name} {getattr(self.sizes, name)}" for name in same)
                + "; resume with its config, or choose another folder with --set run=FOLDER"
            )

    def write(
        self,
        manifest: Manifest,
        root: Path,
        kept: int,
        group: ProcessGroup,
        check: FeatureCheck = NOTHING_ACCEPTED,
    ) -> None:
        """Write the concepts of all samples into a folder, every rank those of its shards.

        A folder that has this detector's concepts already is left as it is.

        Raises:
            ConfigError: if the features are of another extractor.
        """
        check.shards((self.features,), manifest, "the detector")
        # One rank decides: another might already see what the first has written since.
        if group.gather(self.has_written(manifest, root, kept))[0]:
            return
        root.mkdir(parents=True, exist_ok=True)
        model = self.model.to(group.device)
        mine = manifest.shards[group.ranks.rank :: group.ranks.world]
        shards = tracked(
            mine, len(mine), title="predicting concepts", unit="shard", enabled=group.first
        )
        written = group.agree(
            lambda: {s.name: self._write_shard(model, manifest, s, root, kept) for s in shards}
        )
        files = {name: file for part in group.gather(written) for name, file in part.items()}
        if group.first:
            ordered = {shard.name: files[shard.name] for shard in manifest.shards}
            ConceptSet(root, self.digest, self.made_by(manifest), kept, ordered).save()
        group.barrier()

    def has_written(self, manifest: Manifest, root: Path, kept: int) -> bool:
        """Whether a folder has this detector's concepts for these shards."""
        if not (root / CONCEPTS).is_file():
            return False
        found = ConceptSet.load(root)
        tars = {entry.tar_sha256 for entry in found.files.values()}
        wanted = set(manifest.sha256_by_shard.values())
        return (found.detector, found.kept, tars) == (self.digest, kept, wanted)

    def made_by(self, manifest: Manifest) -> dict[str, object]:
        """The origin and the quality of the concepts, for people."""
        return {
            "run": self.config.run,
            "shards": manifest.location,
            "words": len(self.words),
            "folds": self.sizes.folds,
            "val_ap": self.best_ap,
        }

    def predict(self, samples: Sequence[Sample]) -> list[Concepts]:
        """The concepts of images that the detectors were not trained on, best first."""
        collate = Collate(SampleEncoder(self.vocab, max_words=1, max_concepts=1))
        scores = self._scores(self.model, collate(samples), split="").round(DIGITS)
        return top_concepts(scores, self.words, self.sizes.kept)

    def _write_shard(
        self, model: CrossFitted, manifest: Manifest, shard: Shard, root: Path, kept: int
    ) -> ConceptFile:
        concepts: dict[str, Concepts] = {}
        for batch in self._batches(manifest, shard):
            scores = self._scores(model, batch, shard.split).round(DIGITS)
            concepts |= zip(batch.keys, top_concepts(scores, self.words, kept), strict=True)
        return write_concept_file(root, shard.name, shard.sha256, concepts)

    def _batches(self, manifest: Manifest, shard: Shard) -> Iterator[Batch]:
        size = self.config.decoding.batch
        data = self.config.data.model_copy(update={"reader": "mapped"})
        batches = evaluation_batches(manifest, shard.split, data, size, self.vocab, Ranks())
        number = manifest.split(shard.split).index(shard)
        places = [(number, sample) for sample in range(shard.samples)]
        for start in range(0, shard.samples, size):
            yield batches.of(places[start : start + size])

    def _scores(self, model: CrossFitted, batch: Batch, split: str) -> NDArray[np.float64]:
        """P (B, W) of unseen images by the whole detector, of others by that of their fold."""
        device = next(model.parameters()).device
        with torch.inference_mode():
            p = [noisy_or(absence_nll(*logits)) for logits in model(batch.to(device))]
        every = torch.stack(p).double().cpu().numpy()
        folds = len(model.held_out)
        which = [1 + fold_of(key, folds) if split == "train" else 0 for key in batch.keys]
        scores: NDArray[np.float64] = every[which, np.arange(len(which))]
        return scores
