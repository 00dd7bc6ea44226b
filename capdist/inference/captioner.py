"""Captions of new images, from shards or feature files, by one model or an ensemble."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from capdist.batch import Batch
from capdist.config.base import ConfigError, read_json
from capdist.config.decoding import DecodingConfig
from capdist.data.collate import Collate
from capdist.data.dataset import evaluation_batches, references
from capdist.data.rank_plan import Ranks
from capdist.decoding.constraints import Constraints
from capdist.decoding.ensemble import Ensemble
from capdist.decoding.generate import Caption, caption_images
from capdist.inference.exported_model import ExportedModel, read_run
from capdist.inference.feature_images import FeatureImages
from capdist.inference.image_concepts import ImageConcepts, open_image_concepts
from capdist.models.base import CaptionModel
from capdist.reporting.progress import Progress
from shards.atomic import atomic_write
from shards.manifest import Manifest
from shards.tokenisers import CaptionText


@dataclass(frozen=True)
class ForcedWords:
    """Words that the captions of given images must contain: one of each set."""

    where: str = ""
    words: dict[int, list[list[str]]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None) -> ForcedWords:
        """Read a JSON file ``{"image id": [["dog", "puppy"], ["ball"]], ...}``.

        Raises:
            ConfigError: if it has another form.
        """
        if path is None:
            return cls()
        try:
            return cls(
                str(path), TypeAdapter(dict[int, list[list[str]]]).validate_python(read_json(path))
            )
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f'{path}: {place}: {first["msg"]}; expected {{"image id": [["word", ...], ...]}}'
            ) from error

    def check(self, images: Collection[int]) -> None:
        """Refuse words for images that are not captioned.

        Raises:
            ConfigError: naming the first.
        """
        for image in sorted(self.words.keys() - set(images)):
            raise ConfigError(f"{self.where}: image {image} is not captioned here; remove it")


@dataclass(frozen=True)
class Captioner:
    """One trained model, or several that average their probabilities.

    ``runs`` are the models' folders; ``concepts_from`` is the folder whose detector or predictor
    finds the concepts of new images, None the first run's.
    """

    members: tuple[ExportedModel, ...]
    decoding: DecodingConfig
    forced: ForcedWords
    runs: tuple[Path, ...]
    concepts_from: str | None = None

    @classmethod
    def open(
        cls,
        runs: Sequence[Path],
        overrides: Sequence[str] = (),
        forced: Path | None = None,
        concepts_from: str | None = None,
    ) -> Captioner:
        """The best checkpoints of runs; the first one's config decodes, with ``overrides``.

        ``forced`` is a file of words that captions must contain: see `ForcedWords`.

        Raises:
            ConfigError: if one is missing, they differ in vocabulary or features, or no caption
                can have the words that are asked for.
        """
        members = tuple(read_run(run) for run in runs)
        first = members[0]
        for run, other in zip(runs, members, strict=True):
            if other.vocab.hash != first.vocab.hash or not first.features.same_extractor(
                other.features
            ):
                raise ConfigError(
                    f"{run}: its vocabulary or its features are not those of {runs[0]}; decode "
                    "only models together that have both in common"
                )
        decoding, words = first.decoding(overrides), ForcedWords.load(forced)
        Constraints.of(decoding, first.vocab, words.words)
        return cls(members, decoding, words, tuple(runs), concepts_from)

    @property
    def first(self) -> ExportedModel:
        """The first member; all have its vocabulary and its features."""
        return self.members[0]

    @property
    def model(self) -> CaptionModel[Any]:
        """The model, or the ensemble of all members."""
        models = [member.model for member in self.members]
        return models[0] if len(models) == 1 else Ensemble(models).eval()

    def caption(self, batches: Iterator[Batch], images: Sequence[int]) -> dict[int, list[Caption]]:
        """Captions of every image, best first, with a progress bar."""
        self.forced.check(images)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, vocab, found = self.model.to(device), self.first.vocab, {}
        decode = partial(caption_images, model, batches, vocab, self.decoding, device)
        with Progress(len(images), title="captioning", unit="image") as progress:
            for image, captions in decode(self.forced.words):
                found[image] = captions
                progress.advance(1)
        return found

    def of_shards(self, folder: str, split: str) -> dict[int, list[Caption]]:
        """Captions of a split.

        Raises:
            ShardError: if the shards lack what a model reads.
            ConfigError: if their features are of another extractor.
        """
        manifest = Manifest.load(folder, self.first.config.data.copies)
        for member in self.members:
            member.check_features(manifest)
            member.check_members(manifest, split)
        data, vocab = self.first.config.data, self.first.vocab
        batches = evaluation_batches(manifest, split, data, self.decoding.batch, vocab, Ranks())
        images = list(references(manifest, split).raw)
        return self.caption(chain.from_iterable(batches.epoch(0)), images)

    def of_features(self, files: str, max_bad: int = 0) -> dict[int, list[Caption]]:
        """Captions of all images of feature files, in a format that shards are built from.

        At most ``max_bad`` images that can't be read are named and left out.

        Raises:
            ShardError: if the files are of no known format, or more images can't be read.
            ConfigError: if the features are of another extractor, or have no classes, or nothing
                predicts the concepts that a model needs.
        """
        concepts = self._image_concepts()
        images = FeatureImages.open(files, self.first.features, max_bad)
        for member in self.members:
            if "classes" in member.model.needs and not images.classes:
                raise ConfigError(
                    f"{files}: feature files have no classes, which model "
                    f"{member.config.model.name!r} needs; extract features with cls_prob"
                )
        collate = Collate(
            self.first.vocab,
            1,
            self.first.config.data.max_concepts,
            max(member.classes for member in self.members),
        )

        def batches() -> Iterator[Batch]:
            size = self.decoding.batch
            for start in range(0, len(images.image_ids), size):
                samples = images.samples(images.image_ids[start : start + size])
                if concepts:
                    found = zip(samples, concepts(samples), strict=True)
                    samples = [replace(sample, concepts=pairs) for sample, pairs in found]
                yield collate(samples)

        return self.caption(batches(), images.image_ids)

    def _image_concepts(self) -> ImageConcepts | None:
        """What predicts the concepts of new images; None if no member reads any.

        Raises:
            ConfigError: if there is no predictor, or the members need different ones.
        """
        pairs = zip(self.runs, self.members, strict=True)
        readers = [(run, member) for run, member in pairs if "concepts" in member.model.needs]
        for run, member in readers[1:]:
            if member.concepts != readers[0][1].concepts:
                raise ConfigError(
                    f"{run}: trained on other concepts than {readers[0][0]}; decode only models "
                    "together that have them in common"
                )
        return open_image_concepts(*readers[0], self.concepts_from) if readers else None


def write_captions(
    path: Path, found: dict[int, list[Caption]], n_best: int, text: CaptionText
) -> None:
    """Write COCO results, sorted by image id; with ``n_best`` > 1 each entry lists its n best."""
    entries: list[dict[str, Any]] = []
    for image in sorted(found):
        captions = [
            {"caption": text.join(caption.words), "score": caption.score}
            for caption in found[image][:n_best]
        ]
        entry = {"image_id": image, "caption": captions[0]["caption"]}
        entries.append({**entry, "n_best": captions} if n_best > 1 else entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write((json.dumps(entries, ensure_ascii=False, indent=0) + "\n").encode())
