"""Captions of photographs: their features come from the extractor that the model was trained on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.config.decoding import DecodingConfig
from capdist.decoding.constraints import ForcedWords
from capdist.decoding.generate import Caption, caption_images
from capdist.inference.captioner import Captioner, read_words
from capdist.inference.image_concepts import ImageConcepts
from capdist.inference.looks import attended
from shards.extractors import PictureFeatures
from shards.formats import RegionFeatures
from shards.jobs import check_features
from shards.json_types import ImageId
from shards.picture_batches import PreparedPicture, extract, features_of
from shards.pictures import PictureError
from shards.progress import Progress
from shards.schema import Sample

#: A path, or a picture in memory.
Photograph: TypeAlias = str | Path | Image
#: Sets of words; a caption must have one word of each.
WordSets: TypeAlias = Sequence[Sequence[str]]


@dataclass(frozen=True)
class ScoredCaption:
    """A caption, and the sum of its tokens' log-probabilities."""

    caption: str
    score: float


@dataclass(frozen=True, eq=False)
class PhotographCaption:
    """What a model says about a photograph.

    Args:
        caption: the best one.
        score: the sum of its tokens' log-probabilities.
        alternatives: the other hypotheses of the beam, best first.
        words: of the best caption, L of them.
        attention: (L, R) the weight of every region before each word; (L, 0) if the model does not
            attend to regions.
        boxes: (R, 4) of the regions: x1, y1, x2, y2 as shares of width and height.
        maps: all attentions, (L, R) or (L, A), by the names of `all_attention`, such as
            "regions/local".
        concepts: that the model read, A of them.
    """

    caption: str
    score: float
    alternatives: tuple[ScoredCaption, ...]
    words: tuple[str, ...]
    attention: NDArray[np.float32]
    boxes: NDArray[np.float32]
    maps: dict[str, NDArray[np.float32]]
    concepts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What the server answers and the page of `capdist caption --html` shows."""
        return {
            "caption": self.caption,
            "score": round(self.score, 4),
            "words": self.words,
            "alternatives": [
                {"caption": other.caption, "score": round(other.score, 4)}
                for other in self.alternatives
            ],
            "boxes": _rounded(self.boxes),
            "concepts": self.concepts,
            "attention": {name: _rounded(weights) for name, weights in self.maps.items()},
        }


@dataclass(frozen=True)
class Decoded:
    """Captions of photographs by name, best first; what they attended to; what is wrong.

    ``seen`` has the results of those photographs whose attention was requested.
    """

    captions: dict[ImageId, list[Caption]] = field(default_factory=dict)
    seen: dict[str, PhotographCaption] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PhotographCaptioner:
    """Captions photographs with trained runs; `capdist.load` opens them.

    Called with a path or a picture of Pillow's, it returns a `PhotographCaption`; called with
    several, a list in their order. ``forced`` are sets of words of which each caption must have
    one.
    """

    captioner: Captioner

    @classmethod
    def load(cls, runs: Sequence[Path], beam: int | None = None) -> PhotographCaptioner:
        """The best checkpoints of runs; several decode as an ensemble.

        Raises:
            ConfigError: if a run has none, they do not fit each other, or it is not known what
                made their features or concepts.
            ShardError: if the extractor can't be loaded.
        """
        overrides = [] if beam is None else [f"decoding.beam={beam}"]
        return cls(Captioner.open(runs, overrides)).prepared()

    def prepared(self) -> PhotographCaptioner:
        """The same captioner, with everything loaded; raises as `load` does."""
        _ = self.features, self.concepts
        return self

    @cached_property
    def features(self) -> PictureFeatures:
        """The extractor of the training features."""
        extractor = self.captioner.new_features.extractor
        if extractor is None:
            raise ConfigError(
                f"{self.captioner.runs[0]}: trained on features of an unknown extractor; build its "
                "shards again with --backbone, which names it, and train on them"
            )
        return PictureFeatures.reopen(extractor)

    @cached_property
    def concepts(self) -> ImageConcepts | None:
        """What predicts concepts; None if the model reads none."""
        return self.captioner.image_concepts()

    @overload  # a text is one path, though it is a sequence of texts, too
    def __call__(  # type: ignore[overload-overlap]
        self, photographs: Photograph, *, forced: WordSets = ()
    ) -> PhotographCaption: ...
    @overload
    def __call__(
        self, photographs: Sequence[Photograph], *, forced: WordSets = ()
    ) -> list[PhotographCaption]: ...
    def __call__(
        self, photographs: Photograph | Sequence[Photograph], *, forced: WordSets = ()
    ) -> PhotographCaption | list[PhotographCaption]:
        """Captions of one or several photographs.

        Raises:
            PictureError: naming the first file that is not a picture that can be read.
            ConfigError: if no caption can have the forced words.
        """
        if isinstance(photographs, str | Path | Image):
            return self([photographs], forced=forced)[0]
        named = {
            str(number): Path(given) if isinstance(given, str) else given
            for number, given in enumerate(photographs)
        }
        words = dict.fromkeys(named, forced) if forced else {}
        decoded = self.decode(named, words, attention=True, progress=False)
        if decoded.bad:
            raise PictureError(decoded.bad[0])
        return [decoded.seen[name] for name in named]

    def decode(
        self,
        photographs: Mapping[str, Path | Image],
        forced: Mapping[str, WordSets] | None = None,
        *,
        attention: bool = False,
        progress: bool = True,
    ) -> Decoded:
        """Captions of photographs; those that can't be read are left out.

        Args:
            photographs: paths or pictures by name.
            forced: words by name.
            attention: whether to find what the best captions attended to.
            progress: whether to show a progress bar.

        Raises:
            ConfigError: if no caption can have the forced words.
        """
        decoded, names = Decoded(), list(photographs)
        numbers = {name: number for number, name in enumerate(names)}
        words = {
            numbers[name]: [list(one) for one in sets] for name, sets in (forced or {}).items()
        }
        parts = self._parts(photographs, numbers, decoded.bad)
        with Progress(len(names), title="captioning", unit="image", enabled=progress) as bar:
            for batch, captions in self._batches(parts, self.captioner.decoding, words):
                decoded.captions.update({names[n]: found for n, found in captions.items()})
                if attention:
                    decoded.seen.update({names[n]: f for n, f in self._seen(batch, captions)})
                bar.advance(len(captions))
        return decoded

    def caption_batch(
        self, prepared: Sequence[PreparedPicture], decoding: DecodingConfig
    ) -> list[PhotographCaption]:
        """Captions of photographs that are decoded together, by other settings than the run's.

        Raises:
            ConfigError: if no caption can satisfy the settings.
        """
        made = extract(self.features, prepared)
        samples = [self._sample(number, str(number), one) for number, one in enumerate(made)]
        ((batch, captions),) = self._batches([samples], decoding, graphs=False)
        return [found for _, found in self._seen(batch, captions)]

    def _parts(
        self, photographs: Mapping[str, Path | Image], numbers: Mapping[str, int], bad: list[str]
    ) -> Iterator[list[Sample]]:
        """The samples of each batch; adds what is wrong with others to ``bad``."""
        for part in features_of(self.features, photographs, self.captioner.decoding.batch):
            bad.extend(found.problem for found in part if found.features is None)
            good = [(found.name, found.features) for found in part if found.features]
            if good:
                yield [self._sample(numbers[name], name, features) for name, features in good]

    def _sample(self, number: int, name: str, features: RegionFeatures) -> Sample:
        assert features.boxes is not None
        for member in self.captioner.members:
            if "classes" in member.model.needs and features.classes is None:
                raise ConfigError(
                    f"model {member.config.model.name!r} reads classes of regions, which backbone "
                    f"{self.features.spec.backbone!r} has none of; choose another run"
                )
        sample = Sample(
            key=f"{number:012d}",
            image_id=number,
            width=features.width,
            height=features.height,
            split="",
            captions=(),
            tokens=(),
            regions=np.ascontiguousarray(features.regions, np.float32),
            boxes=features.boxes,
            classes=features.classes,
        )
        check_features(f"photograph {name}", sample, self.features.spec.dim)
        return sample

    def _batches(
        self,
        parts: Iterable[Sequence[Sample]],
        decoding: DecodingConfig,
        forced: ForcedWords | None = None,
        *,
        graphs: bool = True,
    ) -> Iterator[tuple[Batch, dict[int, list[Caption]]]]:
        """A batch of each part, with the captions of its images by number."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        decoding_now: list[Batch] = []

        def remembered() -> Iterator[Batch]:
            for batch in self.captioner.batches(parts, self.concepts):
                decoding_now.append(batch)
                yield batch

        captions: dict[int, list[Caption]] = {}
        for number, found in caption_images(
            self.captioner.model.to(device),
            remembered(),
            self.captioner.first.vocab,
            decoding,
            device,
            forced,
            graphs=graphs,
        ):
            captions[number] = found
            if len(captions) == len(decoding_now[0].keys):
                yield decoding_now.pop(), captions
                captions = {}

    def _seen(
        self, batch: Batch, captions: Mapping[int, Sequence[Caption]]
    ) -> Iterator[tuple[int, PhotographCaption]]:
        """The result of each image of a batch, by number."""
        vocab, join = self.captioner.first.vocab, self.captioner.first.text.join
        seen = attended(self.captioner.model, vocab, batch, captions)
        for row, (number, found) in enumerate(zip(batch.image_ids.tolist(), seen, strict=True)):
            best, *others = [
                ScoredCaption(join(caption.words), caption.score) for caption in captions[number]
            ]
            concepts = batch.concepts[row, batch.concept_mask[row]].tolist()
            yield (
                number,
                PhotographCaption(
                    caption=best.caption,
                    score=best.score,
                    alternatives=tuple(others),
                    words=tuple(captions[number][0].words),
                    attention=found.regions.numpy(),
                    boxes=batch.boxes[row, batch.region_mask[row]].numpy(),
                    maps={name: weights.numpy() for name, weights in found.maps.items()},
                    concepts=tuple(vocab.words[concept] for concept in concepts),
                ),
            )


def _rounded(numbers: NDArray[np.float32]) -> list[list[float]]:
    return numbers.astype(np.float64).round(5).tolist()


def read_forced(path: Path | None, photographs: Collection[str]) -> dict[str, list[list[str]]]:
    """The words that captions of photographs must contain, from a JSON file, by path.

    Raises:
        ConfigError: if it has another form, or names a photograph that is not captioned.
    """
    words = read_words(path) if path else {}
    for name in sorted(words.keys() - set(photographs)):
        raise ConfigError(f"{path}: {name} is not captioned here; remove it")
    return words
