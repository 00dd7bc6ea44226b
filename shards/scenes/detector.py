"""What a simulated region detector sees of a scene: boxes, features, class probabilities.

Legend: R = 36 regions, F = 128 feature width, Z latent width, N objects.

A region's latent describes what its box covers: kinds as vectors that lie close together within
a confusable group, colours, the backdrop, and where the box is. The feature is a fixed random
network's output for the noisy latent. Regions that fit no object well are noisier. Latents
and weights are rounded to multiples of 2⁻¹⁰, so that their products add up without rounding
error: features do not depend on a machine's order of summation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shards.scenes.world import (
    BACKDROPS,
    COLOURS,
    CONFUSABLE,
    KINDS,
    Scene,
    normalised,
    visible_shares,
)
from shards.schema import CLASS_DTYPE, Array

REGIONS = 36
WIDTH = 128
MOST_PAIRS = 5
CLASS_NAMES = ("background", *KINDS)
#: Likeliest classes kept of each region.
KEPT = 8

KIND_WIDTH = 24
#: Distance of a kind's vector from its group's, whose length is 1.
APART = 0.5
#: Standard deviations of the noise on an object's kind, on a region's latent, on a feature.
OBJECT_NOISE = 0.15
REGION_NOISE = 0.1
FEATURE_NOISE = 0.05
#: How much noisier a region is that covers no object well.
POOR = 2.0
#: Centres of the bumps that tell a coordinate in 0..1.
BUMPS = np.arange(9) / 8


@dataclass(frozen=True, eq=False)
class Detections:
    """``boxes`` (R, 4) float32, ``regions`` (R, F) float16, ``classes`` (R, 8) of CLASS_DTYPE.

    The region that is most surely an object comes first.
    """

    boxes: Array
    regions: Array
    classes: Array


def detect(scene: Scene, rng: np.random.Generator) -> Detections:
    """The detections of a scene; their noise comes from ``rng``."""
    objects = scene.objects()
    truth = np.array([normalised(box) for _, box in objects])
    boxes = _proposals(rng, truth)
    cover = _cover(boxes, truth) * np.sqrt(visible_shares(scene.entities))
    clean = np.stack([KIND_VECTORS[KINDS.index(entity.kind)] for entity, _ in objects])
    seen = clean + rng.normal(0, OBJECT_NOISE, clean.shape)
    poor = 1 + POOR * (1 - cover.max(axis=1, keepdims=True))
    kinds = cover @ seen
    kinds += rng.normal(0, REGION_NOISE, kinds.shape) * poor
    latent = np.hstack([kinds, _looks(scene, cover, rng, poor), _places(boxes)])
    probabilities = _class_probabilities(kinds, cover)
    order = np.argsort(probabilities[:, 0], kind="stable")
    return Detections(
        boxes[order].astype(np.float32),
        _features(latent, rng)[order].astype(np.float16),
        _likeliest(probabilities)[order],
    )


def _proposals(rng: np.random.Generator, truth: Array) -> Array:
    """R boxes: two tight, one loose and one partial per object; around pairs; the rest anywhere."""
    own = [_jittered(rng, truth, spread) for spread in (0.08, 0.08, 0.24)]
    known = np.vstack([*own, _halves(rng, truth), _pairs(rng, truth)])
    corners = rng.uniform(0, 0.75, (REGIONS - len(known), 2))
    sizes = rng.uniform(0.15, 0.6, corners.shape)
    return np.asarray(np.clip(np.vstack([known, np.hstack([corners, corners + sizes])]), 0, 1))


def _jittered(rng: np.random.Generator, truth: Array, spread: float) -> Array:
    """Boxes whose edges are off by up to ``spread`` of their width or height."""
    sides = np.tile(truth[:, 2:] - truth[:, :2], 2)
    return np.asarray(truth + rng.uniform(-spread, spread, truth.shape) * sides)


def _halves(rng: np.random.Generator, truth: Array) -> Array:
    """The boxes, cut at one of their four sides."""
    halves = np.array(truth)
    cut = rng.integers(0, 4, len(truth))
    width_height = (truth[:, 2:] - truth[:, :2])[np.arange(len(truth)), cut % 2]
    halves[np.arange(len(truth)), cut] += np.where(cut < 2, 0.45, -0.45) * width_height
    return halves


def _pairs(rng: np.random.Generator, truth: Array) -> Array:
    """Boxes around two objects each, for up to MOST_PAIRS pairs."""
    pairs = np.stack(np.triu_indices(len(truth), 1), axis=1)
    pairs = rng.permutation(pairs)[:MOST_PAIRS]
    low, high = truth[pairs, :2].min(axis=1), truth[pairs, 2:].max(axis=1)
    return np.hstack([low, high])


def _cover(boxes: Array, truth: Array) -> Array:
    """(R, N): the square root of each box's intersection over union with each object."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas, true_areas = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, truth))
    return np.asarray(np.sqrt(shared / (areas[:, None] + true_areas - shared)))


def _looks(scene: Scene, cover: Array, rng: np.random.Generator, poor: Array) -> Array:
    """(R, colours + backdrops + 1): a region's colours, its backdrop, how well it fits."""
    colours = np.stack(
        [np.eye(len(COLOURS))[COLOURS.index(entity.colour)] for entity, _ in scene.objects()]
    )
    backdrop = np.eye(len(BACKDROPS))[BACKDROPS.index(scene.backdrop)]
    best = cover.max(axis=1, keepdims=True)
    looks = np.hstack([cover @ colours, (1 - best) * backdrop, best])
    return np.asarray(looks + rng.normal(0, 1.5 * REGION_NOISE, looks.shape) * poor)


def _places(boxes: Array) -> Array:
    """(R, 36): centre x, y, width and height, each as nine triangular bumps over 0..1."""
    (x1, y1, x2, y2) = boxes.T
    numbers = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
    bumps = np.maximum(0, 1 - 4 * np.abs(numbers[:, :, None] - BUMPS))
    return np.asarray(bumps.reshape(len(boxes), -1))


def _features(latent: Array, rng: np.random.Generator) -> Array:
    """(R, Z) latents to (R, F) features of the order of 1."""
    hidden = _rounded(latent) @ WEIGHTS_1
    hidden = _rounded(hidden / (1 + np.abs(hidden)))
    features = hidden @ WEIGHTS_2
    return np.asarray(features + rng.normal(0, FEATURE_NOISE, features.shape))


def _class_probabilities(kinds: Array, cover: Array) -> Array:
    """(R, 25): the nearer a class's vector to the noisy one, the likelier."""
    shown = kinds / np.maximum(cover.sum(axis=1, keepdims=True), 0.3)
    away = ((shown[:, None] - KIND_VECTORS) ** 2).sum(axis=2)
    odds = (0.3 / (0.3 + away)) ** 6
    odds /= odds.sum(axis=1, keepdims=True)
    background = 1 - np.clip(1.2 * cover.max(axis=1, keepdims=True), 0.03, 0.97)
    return np.hstack([background, (1 - background) * odds])


def _likeliest(probabilities: Array) -> Array:
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :KEPT]
    classes = np.empty(order.shape, CLASS_DTYPE)
    classes["id"] = order
    classes["prob"] = np.take_along_axis(probabilities, order, axis=1)
    return classes


def _rounded(values: Array) -> Array:
    return np.asarray(np.round(values * 1024) / 1024)


def _kind_vectors(rng: np.random.Generator) -> Array:
    groups = _unit(rng.normal(size=(len(CONFUSABLE), 1, KIND_WIDTH)))
    own = _unit(rng.normal(size=(len(CONFUSABLE), len(CONFUSABLE[0]), KIND_WIDTH)))
    return _rounded((groups + APART * own).reshape(len(KINDS), KIND_WIDTH))


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True)))


# The detector itself: the same for every data set, whatever its seed.
_weights = np.random.default_rng(20190810)
KIND_VECTORS = _kind_vectors(_weights)
_LATENT = KIND_WIDTH + len(COLOURS) + len(BACKDROPS) + 1 + 4 * len(BUMPS)
WEIGHTS_1 = _rounded(_weights.normal(0, 0.7, (_LATENT, WIDTH)))
WEIGHTS_2 = _rounded(_weights.normal(0, 2 / np.sqrt(WIDTH), (WIDTH, WIDTH)))
