"""The concepts of a build: learned from its training captions, or by a saved predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shards import concepts
from shards.concept_predictor import ConceptPredictor, parse_predictor
from shards.fingerprint import Fingerprint
from shards.formats import Annotation
from shards.json_types import ImageId
from shards.schema import Array


@dataclass(frozen=True)
class BuildConcepts:
    """Concepts by image id, and the file of the predictor that made them."""

    by_image: dict[ImageId, concepts.Concepts]
    predictor: bytes | None


def apply_predictor(
    where: str, data: bytes, pooled: Mapping[ImageId, Array], features: Fingerprint
) -> BuildConcepts:
    """The concepts that a saved predictor finds in all images.

    Args:
        where: names the predictor's file.
        data: the file.
        pooled: features by image id, by `concepts.pool_regions`.
        features: statistics of all features.

    Raises:
        ShardError: if it was fitted on features of another width or extractor.
    """
    predictor = parse_predictor(where, data)
    if not pooled:
        return BuildConcepts({}, data)
    print(f"concepts: by the predictor of {where}, {len(predictor.words)} words")
    found = predictor.of_pooled(np.stack(list(pooled.values())))
    predictor.check("--features", features)
    return BuildConcepts(dict(zip(pooled, found, strict=True)), data)


def learn_concepts(
    images: Sequence[Annotation],
    pooled_by_id: Mapping[ImageId, Array],
    features: Fingerprint,
    count: int,
    kept: int,
) -> BuildConcepts:
    """Concepts as `shards.concepts` describes; prints their precision.

    Args:
        images: all images of the build.
        pooled_by_id: features by image id, by `concepts.pool_regions`.
        features: statistics of all features.
        count: number of words.
        kept: concepts per image.

    Raises:
        ShardError: if there are too few training images.
    """
    train = [image for image in images if image.split == "train"]
    others = [image for image in images if image.split != "train"]
    concepts.check_enough(len(train))
    captions = concepts.captions_with_words(image.tokens for image in train)
    words = concepts.commonest_words(captions, count)
    Y = _word_targets(train, words)
    pooled = np.stack([pooled_by_id[image.image_id] for image in [*train, *others]])
    X, X_others = pooled[: len(train)], pooled[len(train) :]
    scores = concepts.cross_fit(X, Y)
    print(_precision_line("train, cross-fitted", scores, Y))
    model = concepts.fit(X, Y)
    if others:
        scores = np.concatenate([scores, model(X_others)])
        val = np.array([image.split == "val" for image in others])
        Y_val = _word_targets(others, words)[val]
        print(_precision_line(f"val, λ {model.penalty:g}", model(X_others[val]), Y_val))
    found = concepts.top_concepts(scores, words, kept)
    ids = [image.image_id for image in [*train, *others]]
    predictor = ConceptPredictor(model, words, kept, features)
    return BuildConcepts(dict(zip(ids, found, strict=True)), predictor.to_bytes())


def _word_targets(images: Sequence[Annotation], words: Sequence[str]) -> Array:
    tokens = ({token for tokens in image.tokens for token in tokens} for image in images)
    return concepts.word_targets(tokens, words)


def _precision_line(name: str, scores: Array, Y: Array) -> str:
    by_image = concepts.mean_average_precision(scores, Y)
    by_word = concepts.mean_average_precision(scores.T, Y.T)
    return (
        f"concepts ({name}): mean average precision {by_image:.3f} over {Y.shape[0]} images, "
        f"{by_word:.3f} over {Y.shape[1]} words"
    )
