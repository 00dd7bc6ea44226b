"""Concepts of a trained detector for whole folders of shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from capdist.batch import Batch
from capdist.config.base import ConfigError, read_json, validate
from capdist.config.run_config import Config
from capdist.config.stage import MilStage
from capdist.data.dataset import evaluation_batches
from capdist.data.rank_plan import Ranks
from capdist.distributed.process_group import ProcessGroup
from capdist.inference.exported_model import DETECTOR, WORDS, read_weights
from capdist.inference.run_folder import find_checkpoint, read_progress
from capdist.losses.concepts import absence_nll, noisy_or
from capdist.models.concept_detector import CrossFitted
from capdist.objectives.concept_detection import DetectorValidator, fold_of, new_detectors
from capdist.vocab import Vocabulary
from shards.concept_files import CONCEPTS, ConceptFile, ConceptSet, write_concept_file
from shards.concepts import Concepts, best
from shards.feature_spec import FeatureSpec
from shards.manifest import Manifest, Shard

#: Digits of a probability that are kept: the last bits depend on the machine.
DIGITS = 4


@dataclass(frozen=True)
class Detector:
    """The best detectors of a run; ``digest`` is that of their weights."""

    model: CrossFitted
    config: Config
    stage: MilStage
    words: tuple[str, ...]
    features: FeatureSpec
    vocab: Vocabulary
    digest: str
    best_ap: float | None

    @classmethod
    def open(cls, run: Path) -> Detector:
        """The best of a run's folder.

        Raises:
            ConfigError: if it has none.
        """
        folder = find_checkpoint(run, DetectorValidator.kept_as)
        if folder is None:
            raise ConfigError(f"{run}: no detector; train one by a stage with objective mil")
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> Detector:
        """The detectors of a checkpoint."""
        described = read_json(folder / "config.json")
        config = validate(Config, described["run"], str(folder / "config.json"))
        stage = config.mil
        assert stage is not None
        vocab, words = Vocabulary.load(folder / "vocab.json"), read_json(folder / WORDS)
        features = FeatureSpec.from_json(described["features"])
        model = new_detectors(stage, features.dim, len(words))
        model.load_state_dict(read_weights(folder, vocab, DETECTOR))
        digest = hashlib.sha256((folder / DETECTOR).read_bytes()).hexdigest()[:16]
        best_ap = read_progress(folder).best_ap
        return cls(model.eval(), config, stage, tuple(words), features, vocab, digest, best_ap)

    def check(self, stage: MilStage | None, option: str) -> None:
        """Refuse to go on training it in a stage of other sizes; ``option`` names the stage.

        Raises:
            ConfigError: naming its sizes.
        """
        same = ("words", "folds", "hidden")
        if stage is None or any(getattr(stage, n) != getattr(self.stage, n) for n in same):
            raise ConfigError(
                f"{option} is not that of the detector in {self.config.run}, which has "
                + ", ".join(f"{name} {getattr(self.stage, name)}" for name in same)
                + "; resume with its config, or choose another folder by --set run=FOLDER"
            )

    def write(self, manifest: Manifest, root: Path, kept: int, job: ProcessGroup) -> None:
        """Write the concepts of all samples into a folder, every rank those of its shards.

        Where it has this detector's concepts already, they are left as they are.

        Raises:
            ConfigError: if the features are of another extractor.
        """
        trained, found = self.features, manifest.features
        if (trained.name, trained.dim) != (found.name, found.dim):
            raise ConfigError(
                f"{manifest.place}: features {found.name!r} of width {found.dim}, but the detector "
                f"was trained on {trained.name!r} of width {trained.dim}; use shards of the same "
                "extractor"
            )
        # One rank looks, for another may see what the first has written since.
        if job.gather(self.has_written(manifest, root, kept))[0]:
            return
        root.mkdir(parents=True, exist_ok=True)
        model = self.model.to(job.device)
        mine = manifest.shards[job.ranks.rank :: job.ranks.world]
        written = {s.name: self._write_shard(model, manifest, s, root, kept) for s in mine}
        files = {name: file for part in job.gather(written) for name, file in part.items()}
        if job.first:
            ordered = {shard.name: files[shard.name] for shard in manifest.shards}
            ConceptSet(root, self.digest, self.made_by(manifest), kept, ordered).save()
        job.barrier()

    def has_written(self, manifest: Manifest, root: Path, kept: int) -> bool:
        """Whether a folder has this detector's concepts for these shards."""
        if not (root / CONCEPTS).is_file():
            return False
        found = ConceptSet.load(root)
        tars = {shard: entry.tar_sha256 for shard, entry in found.files.items()}
        return (found.detector, found.kept, tars) == (self.digest, kept, manifest.tars)

    def made_by(self, manifest: Manifest) -> dict[str, object]:
        """What people may want to know of the concepts."""
        return {
            "run": self.config.run,
            "shards": manifest.place,
            "words": len(self.words),
            "folds": self.stage.folds,
            "val_ap": self.best_ap,
        }

    def _write_shard(
        self, model: CrossFitted, manifest: Manifest, shard: Shard, root: Path, kept: int
    ) -> ConceptFile:
        concepts: dict[str, Concepts] = {}
        for batch in self._batches(manifest, shard):
            scores = self._scores(model, batch, shard.split).round(DIGITS)
            concepts |= zip(batch.keys, best(scores, self.words, kept), strict=True)
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
            said = [noisy_or(absence_nll(*logits)) for logits in model(batch.to(device))]
        every = torch.stack(said).double().cpu().numpy()
        folds = len(model.held_out)
        which = [1 + fold_of(key, folds) if split == "train" else 0 for key in batch.keys]
        scores: NDArray[np.float64] = every[which, np.arange(len(which))]
        return scores
