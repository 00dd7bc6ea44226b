"""Captions of photographs: their features come from the extractor that the model was trained on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from capdist.config.base import ConfigError
from capdist.decoding.generate import Caption, caption_images
from capdist.inference.captioner import Captioner, read_words
from capdist.inference.image_concepts import ImageConcepts
from shards.extractors import PictureFeatures
from shards.jobs import check_trainable
from shards.json_types import ImageId
from shards.picture_batches import Extracted, features_of
from shards.pictures import PictureError
from shards.progress import Progress
from shards.schema import Array, Sample

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
    """

    caption: str
    score: float
    alternatives: tuple[ScoredCaption, ...]
    words: tuple[str, ...]
    attention: NDArray[np.float32]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class Decoded:
    """Captions of photographs by name, best first; the boxes of their regions; what is wrong."""

    captions: dict[ImageId, list[Caption]] = field(default_factory=dict)
    boxes: dict[str, Array] = field(default_factory=dict)
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
        extractor = self.captioner.first.features.extractor
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
        return [self._result(decoded, name) for name in named]

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
            attention: whether captions have the regions' weights.
            progress: whether to show a progress bar.

        Raises:
            ConfigError: if no caption can have the forced words.
        """
        decoded, names = Decoded(), list(photographs)
        numbers = {name: number for number, name in enumerate(names)}
        words = {
            numbers[name]: [list(one) for one in sets] for name, sets in (forced or {}).items()
        }
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with Progress(len(names), title="captioning", unit="image", enabled=progress) as bar:
            for number, captions in caption_images(
                self.captioner.model.to(device),
                self.captioner.batches(self._parts(photographs, numbers, decoded), self.concepts),
                self.captioner.first.vocab,
                self.captioner.decoding,
                device,
                words,
                attention=attention,
            ):
                decoded.captions[names[number]] = captions
                bar.advance()
        return decoded

    def _parts(
        self,
        photographs: Mapping[str, Path | Image],
        numbers: Mapping[str, int],
        decoded: Decoded,
    ) -> Iterator[list[Sample]]:
        """The samples of each batch; adds boxes and bad pictures to ``decoded``."""
        for part in features_of(self.features, photographs, self.captioner.decoding.batch):
            samples = []
            for found in part:
                if found.features is None:
                    decoded.bad.append(found.problem)
                    continue
                sample = self._sample(numbers[found.name], found)
                decoded.boxes[found.name] = sample.boxes
                samples.append(sample)
            if samples:
                yield samples

    def _sample(self, number: int, found: Extracted) -> Sample:
        features = found.features
        assert features is not None
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
        check_trainable(f"photograph {found.name}", sample, self.features.spec.dim)
        return sample

    def _result(self, decoded: Decoded, name: str) -> PhotographCaption:
        best, *others = [
            (caption, ScoredCaption(self.captioner.first.text.join(caption.words), caption.score))
            for caption in decoded.captions[name]
        ]
        words = best[0].words
        weights = np.array(best[0].attention, np.float32).reshape(len(words), -1)
        return PhotographCaption(
            best[1].caption,
            best[1].score,
            tuple(scored for _, scored in others),
            tuple(words),
            weights[:, : len(decoded.boxes[name])],
            decoded.boxes[name],
        )


def read_forced(path: Path | None, photographs: Collection[str]) -> dict[str, list[list[str]]]:
    """The words that captions of photographs must contain, from a JSON file, by path.

    Raises:
        ConfigError: if it has another form, or names a photograph that is not captioned.
    """
    words = read_words(path) if path else {}
    for name in sorted(words.keys() - set(photographs)):
        raise ConfigError(f"{path}: {name} is not captioned here; remove it")
    return words
