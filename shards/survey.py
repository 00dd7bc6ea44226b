"""The first pass over features: what is bad, how far they reach, how they are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from shards.concepts import pool
from shards.fingerprint import Moments
from shards.formats import Annotation
from shards.jobs import check_fit
from shards.joined_features import JoinedFeatures
from shards.parallel import run
from shards.schema import Array, Sample, ShardError
from shards.storage import to_float16, to_int8

_CHUNK = 64


@dataclass(frozen=True, eq=False)
class Loader:
    """Makes samples of annotated images; picklable.

    With ``scale``, or with ``float16``, regions are as they are stored; else as they were read.
    """

    features: JoinedFeatures
    float16: bool
    scale: tuple[float, ...] = ()

    def __call__(self, image: Annotation) -> Sample:
        """The sample of an image.

        Raises:
            ShardError: naming file, place, image and what makes it unfit.
        """
        found = self.features.read(image.image_id)
        assert found.boxes is not None
        sample = Sample(
            key=f"{image.image_id:012d}",
            image_id=image.image_id,
            width=image.width or found.width,
            height=image.height or found.height,
            split=image.split,
            captions=image.captions,
            tokens=image.tokens,
            regions=self._stored(found.regions),
            boxes=found.boxes,
            classes=found.classes,
            grounding=image.grounding,
        )
        check_fit(f"{found.place} ({image.file_name})", sample, self.features.dim)
        return sample

    def _stored(self, regions: Array) -> Array:
        if self.float16:
            return to_float16(regions)
        return to_int8(regions, self.scale) if self.scale else regions


@dataclass(frozen=True, eq=False)
class Survey:
    """What was found in images.

    ``bad`` says of each unfit image, by id, what is wrong; ``pooled`` are `concepts.pool` of the
    others where asked for; ``peaks`` (F,) the largest absolute values; ``moments`` those of each
    part of the features.
    """

    bad: dict[int, str]
    pooled: dict[int, Array]
    peaks: Array
    moments: dict[int, Moments]


def survey(
    load: Loader, images: Sequence[Annotation], *, pooling: bool, workers: int | None
) -> Survey:
    """Look at every image, in worker processes."""
    chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    work = partial(_look, load, pooling)
    return _merge(run(work, chunks, workers, "looking at features", "chunk"), load.features.dim)


def _look(load: Loader, pooling: bool, images: Sequence[Annotation]) -> Survey:
    return _merge([_look_at(load, pooling, image) for image in images], load.features.dim)


def _look_at(load: Loader, pooling: bool, image: Annotation) -> Survey:
    name = image.image_id
    try:
        regions = load(image).regions
    except ShardError as error:
        return Survey({name: str(error)}, {}, np.zeros(load.features.dim, np.float32), {})
    pooled = {name: pool(regions)} if pooling else {}
    moments = {load.features.part(name): Moments.of(regions)}
    return Survey({}, pooled, np.abs(regions).max(axis=0).astype(np.float32), moments)


def _merge(found: list[Survey], dim: int) -> Survey:
    """All of them as one."""
    whole = Survey({}, {}, np.zeros(dim, np.float32), {})
    for one in found:
        whole.bad.update(one.bad)
        whole.pooled.update(one.pooled)
        np.maximum(whole.peaks, one.peaks, out=whole.peaks)
        for part, moments in one.moments.items():
            known = whole.moments.get(part)
            whole.moments[part] = known + moments if known else moments
    return whole


def refuse_mixed(features: JoinedFeatures, moments: dict[int, Moments]) -> None:
    """Refuse features that several extractors made.

    Raises:
        ShardError: naming the file or folder that differs from the one with most images.
    """
    most = max(moments, key=lambda part: moments[part].images)
    for part, found in moments.items():
        difference = found.fingerprint().difference(moments[most].fingerprint())
        if difference:
            raise ShardError(
                f"{features.parts[part].paths[0]}: features {difference} than those in "
                f"{features.parts[most].paths[0]}; all must come from one extractor with the same "
                "settings"
            )
