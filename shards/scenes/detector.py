"""A simulated region detector: boxes, features and class probabilities of a scene.

Legend: R = 36 regions, F = 128 feature width, Z latent width, N objects.

A region's latent vector describes the content of its box: kinds, as vectors that are close to each
other within a confusable group, colours, the backdrop, and the box itself. The feature is the
output of a fixed random network for the noisy latent. Regions that fit no object well are noisier.
Latents and weights are rounded to multiples of 2⁻¹⁰, so that their products are summed without
rounding error: features do not depend on a machine's order of summation.
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
MAX_PAIRS = 5
CLASS_NAMES = ("background", *KINDS)
#: Likeliest classes kept per region.
CLASSES_KEPT = 8

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
    """``boxes`` (R, 4) float32, ``regions`` (R, F) float16, ``classes`` (R, 8) of CLASS_DTYPE.

    The region with the lowest background probability comes first.
    """

    boxes: Array
    regions: Array
    classes: Array


def detect(scene: Scene, rng: np.random.Generator) -> Detections:
    """The detections of a scene, with noise from ``rng``."""
    objects = scene.objects()
    true_boxes = np.array([normalised(box) for _, box in objects])
    boxes = _propose_boxes(rng, true_boxes)
    overlap = _overlap(boxes, true_boxes) * np.sqrt(visible_shares(scene.entities))
    clean = np.stack([KIND_VECTORS[KINDS.index(entity.kind)] for entity, _ in objects])
    noisy = clean + rng.normal(0, OBJECT_NOISE, clean.shape)
    noise_scale = 1 + POOR_FIT_NOISE * (1 - overlap.max(axis=1, keepdims=True))
    kinds = overlap @ noisy
    kinds += rng.normal(0, REGION_NOISE, kinds.shape) * noise_scale
    appearance = _appearance(scene, overlap, rng, noise_scale)
    latent = np.hstack([kinds, appearance, _encode_boxes(boxes)])
    probabilities = _class_probabilities(kinds, overlap)
    order = np.argsort(probabilities[:, 0], kind="stable")
    return Detections(
        boxes[order].astype(np.float32),
        _features(latent, rng)[order].astype(np.float16),
        _top_classes(probabilities)[order],
    )


def _propose_boxes(rng: np.random.Generator, true_boxes: Array) -> Array:
    """R boxes: two tight, one loose and one partial per object; around pairs; the rest random."""
    single = [_jittered(rng, true_boxes, spread) for spread in (0.08, 0.08, 0.24)]
    proposals = np.vstack([*single, _half_boxes(rng, true_boxes), _pair_boxes(rng, true_boxes)])
    corners = rng.uniform(0, 0.75, (REGIONS - len(proposals), 2))
    sizes = rng.uniform(0.15, 0.6, corners.shape)
    random_boxes = np.hstack([corners, corners + sizes])
    return np.asarray(np.clip(np.vstack([proposals, random_boxes]), 0, 1))


def _jittered(rng: np.random.Generator, true_boxes: Array, spread: float) -> Array:
    """The boxes, with each edge moved by up to ``spread`` of their width or height."""
    sides = np.tile(true_boxes[:, 2:] - true_boxes[:, :2], 2)
    return np.asarray(true_boxes + rng.uniform(-spread, spread, true_boxes.shape) * sides)


def _half_boxes(rng: np.random.Generator, true_boxes: Array) -> Array:
    """The boxes, with one of their four sides moved inwards by 45 %."""
    halves, rows = np.array(true_boxes), np.arange(len(true_boxes))
    side = rng.integers(0, 4, len(true_boxes))
    width_height = (true_boxes[:, 2:] - true_boxes[:, :2])[rows, side % 2]
    halves[rows, side] += np.where(side < 2, 0.45, -0.45) * width_height
    return halves


def _pair_boxes(rng: np.random.Generator, true_boxes: Array) -> Array:
    """Boxes around two objects each, for up to MAX_PAIRS pairs."""
    pairs = np.stack(np.triu_indices(len(true_boxes), 1), axis=1)
    pairs = rng.permutation(pairs)[:MAX_PAIRS]
    low, high = true_boxes[pairs, :2].min(axis=1), true_boxes[pairs, 2:].max(axis=1)
    return np.hstack([low, high])


def _overlap(boxes: Array, true_boxes: Array) -> Array:
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


def _features(latent: Array, rng: np.random.Generator) -> Array:
    """Features (R, F) of magnitude 1 from latents (R, Z)."""
    hidden = _rounded(latent) @ WEIGHTS_1
    hidden = _rounded(hidden / (1 + np.abs(hidden)))
    features = hidden @ WEIGHTS_2
    return np.asarray(features + rng.normal(0, FEATURE_NOISE, features.shape))


def _class_probabilities(kinds: Array, overlap: Array) -> Array:
    """(R, 25): higher for classes whose vector is closer to the noisy one."""
    normed = kinds / np.maximum(overlap.sum(axis=1, keepdims=True), 0.3)
    squared_distance = ((normed[:, None] - KIND_VECTORS) ** 2).sum(axis=2)
    odds = (0.3 / (0.3 + squared_distance)) ** 6
    odds /= odds.sum(axis=1, keepdims=True)
    background = 1 - np.clip(1.2 * overlap.max(axis=1, keepdims=True), 0.03, 0.97)
    return np.hstack([background, (1 - background) * odds])


def _top_classes(probabilities: Array) -> Array:
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :CLASSES_KEPT]
    classes = np.empty(order.shape, CLASS_DTYPE)
    classes["id"] = order
    classes["prob"] = np.take_along_axis(probabilities, order, axis=1)
    return classes


def _rounded(values: Array) -> Array:
    return np.asarray(np.round(values * 1024) / 1024)


def _kind_vectors(rng: np.random.Generator) -> Array:
    groups = _unit_length(rng.normal(size=(len(CONFUSABLE), 1, KIND_WIDTH)))
    offsets = _unit_length(rng.normal(size=(len(CONFUSABLE), len(CONFUSABLE[0]), KIND_WIDTH)))
    return _rounded((groups + KIND_DISTANCE * offsets).reshape(len(KINDS), KIND_WIDTH))


def _unit_length(vectors: Array) -> Array:
    return np.asarray(vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True)))


# The detector's weights: the same for all seeds of the scenes.
_weights_rng = np.random.default_rng(20190810)
KIND_VECTORS = _kind_vectors(_weights_rng)
_LATENT = KIND_WIDTH + len(COLOURS) + len(BACKDROPS) + 1 + 4 * len(CENTRES)
WEIGHTS_1 = _rounded(_weights_rng.normal(0, 0.7, (_LATENT, WIDTH)))
WEIGHTS_2 = _rounded(_weights_rng.normal(0, 2 / np.sqrt(WIDTH), (WIDTH, WIDTH)))
