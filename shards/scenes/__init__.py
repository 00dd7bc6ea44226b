"""The embedded corpus: synthetic scenes, made in seconds, without licences, with ground truth.

A scene is a pure function of (seed, split, number): it depends neither on the size of the set nor
on the order in which scenes are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shards.feature_spec import FeatureSpec
from shards.scenes.concepts import detect_concepts
from shards.scenes.detector import REGIONS, WIDTH
from shards.scenes.difficulty import HARD, PLAIN, Difficulty
from shards.scenes.draw import draw_picture
from shards.scenes.grammar import make_captions, to_sentence
from shards.scenes.predicates import PREDICATES, detect_relations
from shards.scenes.world import SIDE, Scene
from shards.schema import Sample, ShardError

__all__ = ["SceneSource"]

#: Raised whenever the scenes of a seed change.
VERSION = 2
SPLITS = ("train", "val", "test")
#: Image ids of the n-th split start after n times this.
IDS_PER_SPLIT = 1_000_000


@dataclass(frozen=True)
class SceneSource:
    """The scenes of a seed as a `shards.jobs.SampleSource`.

    Args:
        seed: of the random scenes.
        train, val, test: images of each split.
        hard: whether to make the hard corpus instead of the plain one.
    """

    seed: int = 1
    train: int = 2000
    val: int = 250
    test: int = 250
    hard: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ShardError(f"scenes: seed is {self.seed}, expected 0 or more")
        for split in SPLITS:
            if not 0 <= (count := getattr(self, split)) < IDS_PER_SPLIT:
                raise ShardError(
                    f"scenes: {split} is {count} images, expected 0 to {IDS_PER_SPLIT - 1}"
                )

    @property
    def difficulty(self) -> Difficulty:
        """What distinguishes the corpora."""
        return HARD if self.hard else PLAIN

    @property
    def name(self) -> str:
        return self.difficulty.name

    @property
    def features(self) -> FeatureSpec:
        """36 regions per image, from the simulated detector."""
        return FeatureSpec(self.difficulty.detector.name, WIDTH, REGIONS)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The background and the kinds: 24, or 96 of the hard corpus."""
        return self.difficulty.detector.catalogue.class_names

    @property
    def predicates(self) -> tuple[str, ...]:
        """Of the relations between regions."""
        return PREDICATES

    def fingerprint(self) -> str:
        """Version and seed, which determine each sample with its id."""
        return f"{self.name}-v{VERSION}-seed{self.seed}"

    def splits(self) -> dict[str, Sequence[int]]:
        starts = {split: 1 + IDS_PER_SPLIT * number for number, split in enumerate(SPLITS)}
        return {
            split: range(start, start + getattr(self, split)) for split, start in starts.items()
        }

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for image_id in ids:
            yield self._sample(split, image_id)

    def scene(self, image_id: int) -> Scene:
        """What is in the picture of an image."""
        return self.difficulty.sample_scene(np.random.default_rng((self.seed, image_id, 0)))

    def _sample(self, split: str, image_id: int) -> Sample:
        # One generator for each part, so that their noise is independent; the scene has number 0.
        language, vision, tagging, relating = (
            np.random.default_rng((self.seed, image_id, part)) for part in range(1, 5)
        )
        difficulty = self.difficulty
        scene = self.scene(image_id)
        captions = make_captions(scene, language, difficulty.plans)
        detections = difficulty.detector.detect(scene, vision)
        return Sample(
            key=f"{image_id:012d}",
            image_id=image_id,
            width=SIDE,
            height=SIDE,
            split=split,
            captions=tuple(to_sentence(caption.tokens) for caption in captions),
            tokens=tuple(tuple(caption.tokens) for caption in captions),
            regions=detections.regions,
            boxes=detections.boxes,
            classes=detections.classes,
            concepts=detect_concepts(scene, tagging, difficulty.detector.catalogue),
            grounding=tuple(phrase for caption in captions for phrase in caption.phrases),
            picture=draw_picture(scene),
            relations=detect_relations(scene, detections.boxes, relating),
        )
