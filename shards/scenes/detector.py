"""A simulated region detector: boxes, features and class probabilities of a scene.

Legend: R = 36 regions, F = 128 feature width, Z latent width, N objects.

A region's latent vector describes the content of its box: kinds, as vectors that are close to each
other within a confusable group, colours, the backdrop, and (in the plain corpus) the box itself.
The feature is the output of a fixed random network for the noisy latent. Regions that fit no object
well are noisier. Latents and weights are rounded to multiples of 2⁻¹⁰, so that their products are
summed without rounding error: features do not depend on a machine's order of summation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shards.scenes import catalogue
from shards.scenes.catalogue import Catalogue
from shards.scenes.proposals import REGIONS, Proposals
from shards.scenes.world import BACKDROPS, COLOURS, Scene, normalised, visible_shares
from shards.schema import CLASS_DTYPE, Array

__all__ = ["HARD", "PLAIN", "REGIONS", "WIDTH", "Detector"]

WIDTH = 128
KIND_WIDTH = 24
#: Distance of a kind's vector from its group's, which has length 1.
KIND_DISTANCE = 0.5
#: Standard deviations of the noise on an object's kind, on a region's latent, on a feature.
OBJECT_NOISE = 0.15
REGION_NOISE = 0.1
FEATURE_NOISE = 0.05
#: Additional noise of a region that covers no object.
POOR_FIT_NOISE = 2.0
#: Centres of the triangular functions that encode a coordinate in [0, 1].
CENTRES = np.arange(9) / 8


@dataclass(frozen=True, eq=False)
class Detections:
    """``boxes`` (R, 4) float32, ``regions`` (R, F) float16, ``classes`` (R, T) of CLASS_DTYPE.

    The region with the lowest background probability comes first.
    """

    boxes: Array
    regions: Array
    classes: Array


@dataclass(frozen=True)
class Weights:
    """``kinds`` (kinds, KIND_WIDTH), their vectors; ``first`` (Z, F) and ``second`` (F, F)."""

    kinds: Array
    first: Array
    second: Array


@dataclass(frozen=True)
class Detector:
    """A detector of one corpus.

    Args:
        name: of the features' extractor.
        catalogue: the kinds that it tells apart.
        classes_kept: T, likeliest classes kept per region.
        proposals: its boxes.
        place_code: whether a region's feature describes its box.
    """

    name: str
    catalogue: Catalogue
    classes_kept: int
    proposals: Proposals
    place_code: bool = True

    def detect(self, scene: Scene, rng: np.random.Generator) -> Detections:
        """The detections of a scene, with noise from ``rng``."""
        objects = scene.objects()
        true_boxes = np.array([normalised(box) for _, box in objects])
        boxes = self.proposals.boxes(rng, true_boxes)
        overlap = root_iou(boxes, true_boxes) * np.sqrt(visible_shares(scene.entities))
        kinds = [self.catalogue.kinds.index(entity.kind) for entity, _ in objects]
        clean = self.weights.kinds[kinds]
        noisy = clean + rng.normal(0, OBJECT_NOISE, clean.shape)
        noise_scale = 1 + POOR_FIT_NOISE * (1 - overlap.max(axis=1, keepdims=True))
        content = overlap @ noisy
        content += rng.normal(0, REGION_NOISE, content.shape) * noise_scale
        latent = [content, _appearance(scene, overlap, rng, noise_scale)]
        if self.place_code:
            latent.append(_encode_boxes(boxes))
        probabilities = self._class_probabilities(content, overlap)
        order = np.argsort(probabilities[:, 0], kind="stable")
        return Detections(
            boxes[order].astype(np.float32),
            self._features(np.hstack(latent), rng)[order].astype(np.float16),
            self._top_classes(probabilities)[order],
        )

    @cached_property
    def weights(self) -> Weights:
        """The detector's weights: the same for all seeds of the scenes."""
        rng = np.random.default_rng(20190810)
        kinds = _kind_vectors(rng, self.catalogue)
        latent = KIND_WIDTH + len(COLOURS) + len(BACKDROPS) + 1
        latent += 4 * len(CENTRES) if self.place_code else 0
        first = _rounded(rng.normal(0, 0.7, (latent, WIDTH)))
        return Weights(kinds, first, _rounded(rng.normal(0, 2 / np.sqrt(WIDTH), (WIDTH, WIDTH))))

    def _features(self, latent: Array, rng: np.random.Generator) -> Array:
        """Features (R, F) of magnitude 1 from latents (R, Z)."""
        hidden = _rounded(latent) @ self.weights.first
        hidden = _rounded(hidden / (1 + np.abs(hidden)))
        features = hidden @ self.weights.second
        return np.asarray(features + rng.normal(0, FEATURE_NOISE, features.shape))

    def _class_probabilities(self, content: Array, overlap: Array) -> Array:
        """(R, 1 + kinds): higher for classes whose vector is closer to the noisy one."""
        normed = content / np.maximum(overlap.sum(axis=1, keepdims=True), 0.3)
        squared_distance = ((normed[:, None] - self.weights.kinds) ** 2).sum(axis=2)
        odds = (0.3 / (0.3 + squared_distance)) ** 6
        odds /= odds.sum(axis=1, keepdims=True)
        background = 1 - np.clip(1.2 * overlap.max(axis=1, keepdims=True), 0.03, 0.97)
        return np.hstack([background, (1 - background) * odds])

    def _top_classes(self, probabilities: Array) -> Array:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.classes_kept]
        classes = np.empty(order.shape, CLASS_DTYPE)
        classes["id"] = order
        classes["prob"] = np.take_along_axis(probabilities, order, axis=1)
        return classes


PLAIN = Detector("scenes-detector-v1", catalogue.PLAIN, classes_kept=8, proposals=Proposals())
#: Its features do not say where a box lies; it gives whole class vectors.
HARD = Detector(
    "scenes-hard-detector-v1",
    catalogue.HARD,
    classes_kept=len(catalogue.HARD.class_names),
    proposals=Proposals(spreads=(0.1, 0.45), cut=0.6, pairs=0, random_sides=(0.06, 0.3)),
    place_code=False,
)


def root_iou(boxes: Array, true_boxes: Array) -> Array:
    """(R, N): the square root of each box's intersection over union with each object."""
    low = np.maximum(boxes[:, None, :2], true_boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], true_boxes[None, :, 2:])
    intersection = np.prod(np.maximum(high - low, 0), axis=2)
    areas, true_areas = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, true_boxes))
    return np.asarray(np.sqrt(intersection / (areas[:, None] + true_areas - intersection)))


def _appearance(
    scene: Scene, overlap: Array, rng: np.random.Generator, noise_scale: Array
) -> Array:
    """(R, colours + backdrops + 1): a region's colours, its backdrop, its best overlap."""
    colours = np.stack(
        [np.eye(len(COLOURS))[COLOURS.index(entity.colour)] for entity, _ in scene.objects()]
    )
    backdrop = np.eye(len(BACKDROPS))[BACKDROPS.index(scene.backdrop)]
    best = overlap.max(axis=1, keepdims=True)
    clean = np.hstack([overlap @ colours, (1 - best) * backdrop, best])
    return np.asarray(clean + rng.normal(0, 1.5 * REGION_NOISE, clean.shape) * noise_scale)


def _encode_boxes(boxes: Array) -> Array:
    """(R, 36): centre x, y, width and height, each as nine triangular functions over [0, 1]."""
    (x1, y1, x2, y2) = boxes.T
    numbers = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
    encoded = np.maximum(0, 1 - 4 * np.abs(numbers[:, :, None] - CENTRES))
    return np.asarray(encoded.reshape(len(boxes), -1))


def _rounded(values: Array) -> Array:
    return np.asarray(np.round(values * 1024) / 1024)


def _kind_vectors(rng: np.random.Generator, kinds: Catalogue) -> Array:
    """(kinds, KIND_WIDTH): each near the vector of its group."""
    shape = len(kinds.groups), len(kinds.groups[0]), KIND_WIDTH
    groups = _unit_length(rng.normal(size=(shape[0], 1, KIND_WIDTH)))
    offsets = _unit_length(rng.normal(size=shape))
    return _rounded((groups + KIND_DISTANCE * offsets).reshape(len(kinds.kinds), KIND_WIDTH))


def _unit_length(vectors: Array) -> Array:
    return np.asarray(vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True)))
