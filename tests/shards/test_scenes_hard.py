"""The hard corpus: what makes it hard, and that it is as deterministic as the plain one."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capdist.metrics.grounding import lemma
from shards.scenes import SceneSource
from shards.scenes.catalogue import HARD
from shards.scenes.crowd import CENTRE_BIAS, PLANS, sample_crowd
from shards.scenes.detector import HARD as DETECTOR
from shards.scenes.draw import draw_picture
from shards.scenes.grammar import Caption, make_captions
from shards.scenes.variants import shape
from shards.scenes.words import BASE_OF, KIND_OF, NOUNS
from shards.scenes.world import SIDE, Entity, Scene, visible_shares
from shards.schema import Sample, encode
from shards.verify import verify
from shards.writer import write

SIZES = {"train": 60, "val": 3, "test": 3}
CaptionedScenes = list[tuple[Scene, list[Caption]]]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    source = SceneSource(hard=True, **SIZES)
    return list(source.load("train", source.splits()["train"]))


@pytest.fixture(scope="module")
def captioned_scenes() -> CaptionedScenes:
    return [
        (scene, make_captions(scene, np.random.default_rng((number, 1)), PLANS))
        for number in range(200)
        for scene in [sample_crowd(np.random.default_rng((number, 0)))]
    ]


def digest(source: SceneSource) -> str:
    """Of the first samples of all splits, without what corpora once lacked or Pillow changes."""
    total = hashlib.sha256()
    for split, ids in source.splits().items():
        for sample in source.load(split, ids[:3]):
            for suffix, data in encode(replace(sample, picture=None, relations=None)).items():
                total.update(suffix.encode() + data)
    return total.hexdigest()


def test_the_plain_corpus_is_as_it_was_before_the_hard_one() -> None:
    assert digest(SceneSource()).startswith("6f69b985c491d3e24b29")


def test_the_hard_corpus_depends_on_nothing_but_its_seed() -> None:
    assert digest(SceneSource(hard=True)).startswith("eda6f94493109b0dda89")
    assert digest(SceneSource(hard=True, **SIZES)) == digest(SceneSource(hard=True))
    assert digest(SceneSource(hard=True, seed=2)) != digest(SceneSource(hard=True))


def test_hard_shards_have_a_name_and_features_of_their_own(tmp_path: Path) -> None:
    source = SceneSource(train=3, val=2, test=1, hard=True)
    manifest = write(source, tmp_path, workers=1)
    assert (manifest.name, len(manifest.class_names)) == ("scenes-hard", 97)
    assert manifest.features.name != SceneSource().features.name
    assert source.fingerprint() != SceneSource(train=3, val=2, test=1).fingerprint()
    assert verify(manifest, workers=1) == []


def test_kinds_are_about_a_hundred_in_groups_that_look_alike() -> None:
    assert len(set(HARD.kinds)) == 96
    for group in HARD.groups:
        assert {BASE_OF.get(kind, kind) for kind in group} == {group[0]}
        assert len({shape(kind) for kind in group}) == 4
    nouns = [word for kind in HARD.kinds for pair in NOUNS[kind] for word in dict.fromkeys(pair)]
    assert len(nouns) == len(set(nouns))
    # Grounding scores compare lemmas.
    assert all({lemma(word) for word in NOUNS[kind][0]} == {kind} for kind in HARD.kinds)


def test_kinds_are_long_tailed(captioned_scenes: CaptionedScenes) -> None:
    counts = Counter(entity.kind for scene, _ in captioned_scenes for entity in scene.entities)
    ranked = sorted((counts[kind] for kind in HARD.kinds), reverse=True)
    assert sum(ranked[:20]) > 0.5 * sum(ranked)
    assert 0 < np.median(ranked) < ranked[0] / 5


def test_scenes_are_crowded_with_small_and_hidden_objects(
    captioned_scenes: CaptionedScenes,
) -> None:
    shares, hidden = [], []
    for scene, _ in captioned_scenes:
        kinds = [entity.kind for entity in scene.entities]
        boxes = np.array([box for _, box in scene.objects()])
        assert 6 <= len(set(kinds)) == len(kinds) <= 8
        assert len(boxes) <= 10
        assert boxes.min() >= 0
        assert boxes.max() <= SIDE
        assert min(visible_shares(scene.entities)) >= 0.3
        shares += (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / SIDE**2).tolist()
        hidden += [share < 0.9 for share in visible_shares(scene.entities)]
    assert np.median(shares) < 0.025
    assert np.mean(hidden) > 0.1


def test_half_of_the_scenes_have_a_rival_of_the_same_group_and_colour(
    captioned_scenes: CaptionedScenes,
) -> None:
    def rivals(a: Entity, b: Entity) -> bool:
        return b.kind in HARD.rivals(a.kind) and a.colour == b.colour

    found = [
        any(rivals(a, b) for a in scene.entities for b in scene.entities)
        for scene, _ in captioned_scenes
    ]
    assert 0.35 < np.mean(found) < 0.7


def test_captions_mention_one_or_two_large_or_central_entities(
    captioned_scenes: CaptionedScenes,
) -> None:
    told: list[float] = []
    for scene, captions in captioned_scenes:
        saliency = {each.kind: each.saliency(CENTRE_BIAS) for each in scene.entities}
        ranked = sorted(saliency, key=lambda kind: -saliency[kind])
        for caption in captions:
            names = [phrase.class_name for phrase in caption.phrases]
            assert 1 <= len(names) <= 2
            assert set(names) <= set(ranked[:2])
            told.append(len(names))
            heads = {phrase.head for phrase in caption.phrases}
            assert heads == {i for i, word in enumerate(caption.tokens) if word in KIND_OF}
    assert np.mean(told) < 1.6


def test_features_do_not_say_where_a_box_lies(samples: list[Sample]) -> None:
    """Ridge regression from features to box centres: far worse than on the plain corpus."""

    def explained(samples: list[Sample]) -> float:
        X = np.vstack([sample.regions for sample in samples]).astype(np.float64)
        y = np.vstack([sample.boxes[:, :2] + sample.boxes[:, 2:] for sample in samples])
        y -= y.mean(axis=0)
        half = len(X) // 2
        gram = X[:half].T @ X[:half] + 10 * np.eye(X.shape[1])
        error = X[half:] @ np.linalg.solve(gram, X[:half].T @ y[:half]) - y[half:]
        return float(1 - (error**2).sum() / (y[half:] ** 2).sum())

    plain = SceneSource(train=60)
    assert explained(list(plain.load("train", plain.splits()["train"]))) > 0.5
    assert explained(samples) < 0.1


def test_whole_class_vectors_are_kept(samples: list[Sample]) -> None:
    for sample in samples[:10]:
        assert sample.classes is not None
        assert sample.classes.shape == (36, 97)
        np.testing.assert_allclose(sample.classes["prob"].sum(1, np.float64), 1, atol=0.01)
        assert (np.sort(sample.classes["id"]) == np.arange(97)).all()


def test_detector_confuses_a_kind_mostly_with_its_group() -> None:
    vectors = DETECTOR.weights.kinds
    distance = ((vectors[:, None] - vectors) ** 2).sum(axis=2) + 9 * np.eye(96)
    assert np.mean(distance.argmin(axis=1) // 4 == np.arange(96) // 4) > 0.9


def test_pictures_of_variants_differ_from_those_of_their_group() -> None:
    boxes = ((20, 20, 120, 120),)
    for group in HARD.groups:
        entities = [Entity(kind, "red", "large", boxes, 0) for kind in group]
        assert len({draw_picture(Scene("grass", (entity,))) for entity in entities}) == 4
