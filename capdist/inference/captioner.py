"""Captions of new images, from shards or feature files, by one model or an ensemble."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from capdist.data.encoded_sample import SampleEncoder
from capdist.data.rank_plan import Ranks
from capdist.decoding.constraints import Constraints
from capdist.decoding.generate import Caption, caption_images
from capdist.inference.ensembles import joined_model, read_members
from capdist.inference.exported_model import ExportedModel
from capdist.inference.feature_check import NOTHING_ACCEPTED, FeatureCheck
from capdist.inference.feature_images import FeatureImages, open_features
from capdist.inference.image_concepts import ImageConcepts, open_image_concepts
from capdist.models.base import CaptionModel
from shards.atomic import atomic_write
from shards.class_vectors import CLASSES_KEPT, ClassVectors
from shards.feature_spec import FeatureSpec
from shards.image_ids import id_order, image_number, parse_image_id
from shards.json_types import ImageId
from shards.manifest import Manifest
from shards.progress import Progress
from shards.reading import BY_FORMAT, Reading
from shards.schema import Sample
from shards.tokenisers import CaptionText

_WORDS = TypeAdapter(dict[str, list[list[str]]])


def read_words(path: Path) -> dict[str, list[list[str]]]:
    """Sets of words by image, from a JSON file.

    Raises:
        ConfigError: if it has another form.
    """
    try:
        return _WORDS.validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f'{path}: {place}: {first["msg"]}; expected {{"image id": [["word", ...], ...]}}'
        ) from error


@dataclass(frozen=True)
class ForcedWords:
    """Words that the captions of given images must contain: one of each set."""

    where: str = ""
    words: dict[ImageId, list[list[str]]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None) -> ForcedWords:
        """Read a JSON file ``{"image id": [["dog", "puppy"], ["ball"]], ...}``.

        Raises:
            ConfigError: if it has another form.
        """
        words = read_words(path) if path else {}
        return cls(str(path), {parse_image_id(image): sets for image, sets in words.items()})

    def by_number(self, images: Collection[ImageId]) -> dict[int, list[list[str]]]:
        """The words by image number, for images that are captioned.

        Raises:
            ConfigError: naming an image that is not.
        """
        numbers = {parse_image_id(str(image)): image_number(image) for image in images}
        for image in self.words:
            if image not in numbers:
                raise ConfigError(f"{self.where}: image {image} is not captioned here; remove it")
        return {numbers[image]: sets for image, sets in self.words.items()}


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
    check: FeatureCheck = NOTHING_ACCEPTED

    @classmethod
    def open(
        cls,
        runs: Sequence[Path],
        overrides: Sequence[str] = (),
        forced: Path | None = None,
        concepts_from: str | None = None,
        *,
        accept_features: bool = False,
    ) -> Captioner:
        """The best checkpoints of runs; the first one's config decodes, with ``overrides``.

        ``forced`` is a file of words that captions must contain: see `ForcedWords`.
        ``accept_features`` says whether the user accepts features with other statistics than those
        of training.

        Raises:
            ConfigError: if one is missing, they differ in vocabulary or features, or no caption
                can have the words that are asked for.
        """
        check = FeatureCheck(accept_features, tuple(runs))
        members = read_members(runs, check)
        first = members[0]
        decoding, words = first.decoding(overrides), ForcedWords.load(forced)
        numbered = {image_number(image): sets for image, sets in words.words.items()}
        Constraints.of(decoding, first.vocab, numbered)
        return cls(members, decoding, words, tuple(runs), concepts_from, check)

    @property
    def first(self) -> ExportedModel:
        """The first member; all have its vocabulary and its features."""
        return self.members[0]

    @property
    def model(self) -> CaptionModel[Any]:
        """The model, or the ensemble of all members."""
        return joined_model(self.members)

    @property
    def new_features(self) -> FeatureSpec:
        """The features that images need which are in no shards.

        Raises:
            ConfigError: if the models read several feature sets, which only shards have.
        """
        if self.first.further_features:
            names = ", ".join(self.first.config.model.features)
            raise ConfigError(
                f"{self.runs[0]}: reads feature sets {names}, and new images have one; build "
                "shards of them that have all, and give these with --shards"
            )
        return self.first.features

    def caption(
        self, batches: Iterator[Batch], images: Sequence[ImageId]
    ) -> dict[ImageId, list[Caption]]:
        """Captions of every image, best first, with a progress bar."""
        forced, ids = self.forced.by_number(images), {image_number(i): i for i in images}
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, vocab, found = self.model.to(device), self.first.vocab, {}
        decode = partial(caption_images, model, batches, vocab, self.decoding, device)
        with Progress(len(images), title="captioning", unit="image") as progress:
            for number, captions in decode(forced):
                found[ids[number]] = captions
                progress.advance()
        return found

    def of_shards(self, folder: str, split: str) -> dict[ImageId, list[Caption]]:
        """Captions of a split.

        Raises:
            ShardError: if the shards lack what a model reads.
            ConfigError: if their features are of another extractor.
        """
        config = self.first.config
        manifest = Manifest.load(folder, config.data.copies).reading(config.model.features)
        for member in self.members:
            member.check_features(manifest, self.check)
            member.check_members(manifest, split)
        data, vocab = self.first.config.data, self.first.vocab
        batches = evaluation_batches(manifest, split, data, self.decoding.batch, vocab, Ranks())
        images = list(references(manifest, split).ids.values())
        return self.caption(chain.from_iterable(batches.epoch(0)), images)

    def of_features(
        self, files: str, reading: Reading = BY_FORMAT, max_bad: int = 0
    ) -> dict[ImageId, list[Caption]]:
        """Captions of all images of feature files, in a format that shards are built from.

        Args:
            files: a path or a glob.
            reading: what their formats leave open.
            max_bad: largest number of images that can't be read; they are named and left out.

        Raises:
            ShardError: if the files are of no known format, or more images can't be read.
            ConfigError: if the features are of another extractor, or have no classes, or nothing
                predicts the concepts that a model needs.
        """
        trained = self.new_features
        source = open_features(files, trained, reading)
        concepts = self.image_concepts()
        images = FeatureImages.check(files, source, trained, self.check, max_bad)
        count = images.source.class_count
        for member in self.members:
            if "classes" in member.model.needs and not images.classes:
                raise ConfigError(
                    f"{files}: feature files have no classes, which model "
                    f"{member.config.model.name!r} needs; extract features with cls_prob"
                )
            if "classes" in member.model.needs and count not in (
                0,
                member.classes,
                member.classes - 1,  # with the background
            ):
                raise ConfigError(
                    f"{files}: {count} classes, but the model was trained with {member.classes}; "
                    "use features of the same extractor"
                )
        vectors = self._class_vectors(count)

        def read(ids: Sequence[ImageId]) -> list[Sample]:
            return [replace(s, classes=vectors(s.classes)) for s in images.samples(list(ids))]

        size, all_ids = self.decoding.batch, images.image_ids
        parts = [all_ids[start : start + size] for start in range(0, len(all_ids), size)]
        return self.caption(self.batches(map(read, parts), concepts), all_ids)

    def batches(
        self, parts: Iterable[Sequence[Sample]], concepts: ImageConcepts | None
    ) -> Iterator[Batch]:
        """A batch of each part of new images, with their concepts if a member reads some."""
        encoder = SampleEncoder(
            self.first.vocab,
            1,
            self.first.config.data.max_concepts,
            max(member.classes for member in self.members),
        )
        collate = Collate(encoder)
        for samples in parts:
            if concepts:
                found = zip(samples, concepts(samples), strict=True)
                samples = [replace(sample, concepts=pairs) for sample, pairs in found]
            yield collate(samples)

    def image_concepts(self) -> ImageConcepts | None:
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

    def _class_vectors(self, count: int) -> ClassVectors:
        """Classes as in the shards of the first model that reads them, of files with ``count``."""
        reader = next((m for m in self.members if "classes" in m.model.needs), self.first)
        background = count > 0 and count == reader.classes - 1
        return ClassVectors(background, reader.classes_kept or CLASSES_KEPT)


def write_captions(
    path: Path, found: Mapping[ImageId, list[Caption]], n_best: int, text: CaptionText
) -> None:
    """Write COCO results, sorted by image id; with ``n_best`` > 1 each entry lists its n best."""
    entries: list[dict[str, Any]] = []
    for image in sorted(found, key=id_order):
        captions = [
            {"caption": text.join(caption.words), "score": caption.score}
            for caption in found[image][:n_best]
        ]
        entry = {"image_id": image, "caption": captions[0]["caption"]}
        entries.append({**entry, "n_best": captions} if n_best > 1 else entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write((json.dumps(entries, ensure_ascii=False, indent=0) + "\n").encode())
