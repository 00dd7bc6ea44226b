"""The embedded corpus: drawn scenes, made in seconds, free of licences, with known truth.

A scene is a pure function of (seed, split, number): neither the set's size nor the order in
which scenes are made matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shards.feature_spec import FeatureSpec
from shards.scenes.concepts import spot
from shards.scenes.detector import CLASS_NAMES, REGIONS, WIDTH, detect
from shards.scenes.draw import picture
from shards.scenes.grammar import captions, raw
from shards.scenes.layout import draw_scene
from shards.scenes.world import SIDE
from shards.schema import Sample, ShardError

__all__ = ["SceneSource"]

#: Changes whenever the scenes of a seed do.
VERSION = 1
SPLITS = ("train", "val", "test")
#: Image ids of the n-th split start at n times this.
STRIDE = 1_000_000


@dataclass(frozen=True)
class SceneSource:
    """The drawn scenes of a seed as a `shards.writer.Source`, with these many images a split."""

    seed: int = 1
    train: int = 2000
    val: int = 250
    test: int = 250

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ShardError(f"scenes: seed is {self.seed}, expected 0 or more")
        for split in SPLITS:
            if not 0 <= (count := getattr(self, split)) < STRIDE:
                raise ShardError(f"scenes: {split} is {count} images, expected 0 to {STRIDE - 1}")

    @property
    def name(self) -> str:
        """The data set's name."""
        return "scenes"

    @property
    def features(self) -> FeatureSpec:
        """36 regions an image of the simulated detector."""
        return FeatureSpec("scenes-detector-v1", WIDTH, REGIONS)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The background and the 24 kinds."""
        return CLASS_NAMES

    def fingerprint(self) -> str:
        """Version and seed: with a sample's id they determine it."""
        return f"scenes-v{VERSION}-seed{self.seed}"

    def splits(self) -> dict[str, Sequence[int]]:
        """Image ids of each split."""
        starts = {split: 1 + STRIDE * number for number, split in enumerate(SPLITS)}
        return {
            split: range(start, start + getattr(self, split)) for split, start in starts.items()
        }

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        """The samples of these image ids."""
        for image_id in ids:
            yield self._sample(split, image_id)

    def _sample(self, split: str, image_id: int) -> Sample:
        # One generator for each part, so that noise in one says nothing about the others.
        world, language, vision, tagging = (
            np.random.default_rng((self.seed, image_id, part)) for part in range(4)
        )
        scene = draw_scene(world)
        told = captions(scene, language)
        seen = detect(scene, vision)
        return Sample(
            key=f"{image_id:012d}",
            image_id=image_id,
            width=SIDE,
            height=SIDE,
            split=split,
            captions=tuple(raw(caption.tokens) for caption in told),
            tokens=tuple(tuple(caption.tokens) for caption in told),
            regions=seen.regions,
            boxes=seen.boxes,
            classes=seen.classes,
            concepts=spot(scene, tagging),
            grounding=tuple(phrase for caption in told for phrase in caption.phrases),
            picture=picture(scene),
        )
