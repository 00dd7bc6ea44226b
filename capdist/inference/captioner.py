"""Captions of new images, from shards or feature files, by one model or an ensemble."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from capdist.batch import Batch
from capdist.config.base import ConfigError, read_json
from capdist.config.decoding import DecodingConfig
from capdist.data.collate import Collate
from capdist.data.dataset import check_needs, evaluation_batches, references
from capdist.data.rank_plan import Ranks
from capdist.decoding.ensemble import Ensemble
from capdist.decoding.generate import Caption, caption_images
from capdist.inference.exported_model import ExportedModel, read_run
from capdist.models.base import CaptionModel
from capdist.reporting.progress import Progress
from shards.atomic import atomic_write
from shards.fingerprint import Moments
from shards.formats import RegionFeatures, find_files
from shards.jobs import check_trainable
from shards.joined_features import JoinedFeatures
from shards.manifest import Manifest
from shards.schema import Sample
from shards.tokenisers import CaptionText

#: Images of feature files whose features are compared with those that a model was trained on.
_COMPARED = 256


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
    """One trained model, or several that average their probabilities."""

    members: tuple[ExportedModel, ...]
    decoding: DecodingConfig
    forced: ForcedWords

    @classmethod
    def open(cls, runs: Sequence[Path], beam: int | None, forced: Path | None = None) -> Captioner:
        """The best checkpoints of runs; the first one's config decodes, except for ``beam``.

        ``forced`` is a file of words that captions must contain: see `ForcedWords`.

        Raises:
            ConfigError: if one is missing, or they differ in vocabulary or features.
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
        return cls(members, first.decoding(beam), ForcedWords.load(forced))

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
            check_needs(manifest, split, member.model.needs, member.config.model.name)
        data, vocab = self.first.config.data, self.first.vocab
        batches = evaluation_batches(manifest, split, data, self.decoding.batch, vocab, Ranks())
        images = list(references(manifest, split).raw)
        return self.caption(chain.from_iterable(batches.epoch(0)), images)

    def of_features(self, files: str) -> dict[int, list[Caption]]:
        """Captions of all images of feature files, in a format that shards are built from.

        Raises:
            ShardError: if the files are of no known format, or an image's features do not fit.
            ConfigError: if the features have another width, or a model reads more than features.
        """
        found = find_files(files)
        source = JoinedFeatures(found)
        bare = source.read(source.image_ids[0]).classes is None
        for member in self.members:
            if lacking := member.model.needs - (set() if bare else {"classes"}):
                raise ConfigError(
                    f"{files}: feature files have no {', '.join(sorted(lacking))}, which model "
                    f"{member.config.model.name!r} needs; build shards and use --shards"
                )
        trained = self.first.features
        if source.dim != trained.dim:
            raise ConfigError(
                f"{files}: features of width {source.dim}, but the model was trained on "
                f"{trained.name!r} of width {trained.dim}; use features of the same extractor"
            )
        compared = source.image_ids[:: -(-len(source.image_ids) // _COMPARED)]

        def sample(image: int) -> Sample:
            return _sample(image, source.read(image), trained.dim)

        moments = Moments.total([Moments.of(sample(image).regions) for image in compared])
        if difference := trained.fingerprint.difference(moments.fingerprint()):
            raise ConfigError(
                f"{files}: features {difference} than those that the model was trained on; use "
                f"features of the same extractor, {trained.name!r}, with the same settings"
            )

        def batches() -> Iterator[Batch]:
            classes = max(member.classes for member in self.members)
            collate, size = Collate(self.first.vocab, 1, 1, classes), self.decoding.batch
            for start in range(0, len(source.image_ids), size):
                ids = source.image_ids[start : start + size]
                yield collate([sample(image) for image in ids])

        return self.caption(batches(), source.image_ids)


def _sample(image: int, read: RegionFeatures, dim: int) -> Sample:
    """The sample of one image, whatever numbers its file has.

    Raises:
        ShardError: if its features have another width, or values that are not finite.
    """
    assert read.boxes is not None
    sample = Sample(
        key=f"{image:012d}",
        image_id=image,
        width=read.width,
        height=read.height,
        split="",
        captions=(),
        tokens=(),
        regions=np.ascontiguousarray(read.regions, np.float32),
        boxes=read.boxes,
        classes=read.classes,
    )
    check_trainable(read.position, sample, dim)
    return sample


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
