import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from shards.scenes import SceneSource
from shards.scenes.layout import sample_scene
from shards.scenes.predicates import PREDICATES, detect_relations
from shards.scenes.relations import relation
from shards.scenes.world import KINDS, normalised
from shards.schema import Sample, ShardError, encode
from shards.writer import write


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    source = SceneSource(train=160)
    return list(source.load("train", source.splits()["train"]))


def members(source: SceneSource, split: str, count: int) -> list[dict[str, bytes]]:
    return [encode(sample) for sample in source.load(split, source.splits()[split][:count])]


def test_same_seed_gives_the_same_bytes() -> None:
    assert members(SceneSource(), "val", 5) == members(SceneSource(), "val", 5)


def test_other_seed_gives_other_scenes() -> None:
    first, second = (members(SceneSource(seed=seed), "val", 5) for seed in (1, 2))
    assert SceneSource(seed=1).fingerprint() != SceneSource(seed=2).fingerprint()
    for one, other in zip(first, second, strict=True):
        assert all(one[suffix] != other[suffix] for suffix in one)


def test_scene_does_not_depend_on_the_size_of_the_set() -> None:
    small, large = SceneSource(train=7, val=3, test=3), SceneSource(train=4000, val=500)
    for split in ("train", "val", "test"):
        assert members(small, split, 3) == members(large, split, 3)


def test_scene_does_not_depend_on_earlier_loads() -> None:
    source = SceneSource()
    ids = source.splits()["train"]
    several, one = list(source.load("train", ids[2:5])), next(source.load("train", ids[4:5]))
    assert encode(several[2]) == encode(one)


def test_ids_and_keys_are_unique_over_all_splits() -> None:
    source = SceneSource(train=30, val=20, test=10)
    loaded = [s for split, ids in source.splits().items() for s in source.load(split, ids)]
    assert len(loaded) == len({sample.image_id for sample in loaded}) == 60
    assert all(sample.key == f"{sample.image_id:012d}" for sample in loaded)


def test_boxes_and_regions_have_valid_shape_and_range(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.boxes.shape == (36, 4)
        assert sample.regions.shape == (36, 128)
        assert np.isfinite(sample.regions).all()
        assert sample.boxes.min() >= 0
        assert sample.boxes.max() <= 1
        assert (sample.boxes[:, :2] < sample.boxes[:, 2:]).all()


def test_class_probabilities_descend_and_sum_to_at_most_one(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.classes is not None
        prob = sample.classes["prob"].astype(np.float64)
        assert sample.classes.shape == (36, 8)
        assert (np.diff(prob, axis=1) <= 0).all()
        assert (prob.sum(axis=1) <= 1.005).all()
        assert all(len(set(row)) == 8 for row in sample.classes["id"])


def test_every_class_is_the_likeliest_of_some_region(samples: list[Sample]) -> None:
    first = np.concatenate([s.classes["id"][:, 0] for s in samples if s.classes is not None])
    assert set(first) == set(range(25))
    assert SceneSource().class_names == ("background", *KINDS)


def test_detector_is_often_right_and_often_wrong(samples: list[Sample]) -> None:
    """Likeliest class of the region that fits an object best."""
    correct = []
    for sample in samples:
        assert sample.grounding is not None
        assert sample.classes is not None
        for phrase in sample.grounding:
            for box in phrase.boxes:
                region = int(np.abs(sample.boxes - np.array(box)).sum(axis=1).argmin())
                predicted = SceneSource().class_names[sample.classes["id"][region, 0]]
                correct.append(predicted == phrase.class_name)
    assert 0.5 < np.mean(correct) < 0.95


def test_kind_is_linearly_predictable_from_features(samples: list[Sample]) -> None:
    """Ridge regression from the best region's feature to the kind is far better than chance."""
    features, kinds = [], []
    for sample in samples:
        for phrase in sample.grounding or ():
            region = int(np.abs(sample.boxes - np.array(phrase.boxes[0])).sum(axis=1).argmin())
            features.append(sample.regions[region].astype(np.float64))
            kinds.append(KINDS.index(phrase.class_name))
    X, y = np.array(features), np.array(kinds)
    half = len(X) // 2
    weights = np.linalg.solve(
        X[:half].T @ X[:half] + np.eye(128), X[:half].T @ np.eye(24)[y[:half]]
    )
    accuracy = ((X[half:] @ weights).argmax(axis=1) == y[half:]).mean()
    assert 6 / 24 < accuracy < 0.95


def test_concepts_are_ranked_and_mostly_true(samples: list[Sample]) -> None:
    true, false = [], []
    for sample in samples:
        assert sample.concepts is not None
        words, scores = zip(*sample.concepts, strict=True)
        assert 12 <= len(words) == len(set(words)) <= 20
        assert list(scores) == sorted(scores, reverse=True)
        assert min(scores) > 0
        assert max(scores) <= 1
        caption_words = {token for caption in sample.tokens for token in caption}
        for word, score in sample.concepts:
            (true if word in caption_words else false).append(score)
    assert np.mean(true) > 0.5 > np.mean(false)
    assert max(false) > np.median(true)


def test_pictures_are_not_blank(samples: list[Sample]) -> None:
    for sample in samples[:30]:
        assert sample.picture is not None
        with Image.open(io.BytesIO(sample.picture)) as image:
            assert image.size == (sample.width, sample.height)
            assert len(image.convert("RGB").getcolors(160 * 160) or ()) > 10


def test_source_is_picklable_and_can_be_written(tmp_path) -> None:
    source = pickle.loads(pickle.dumps(SceneSource(train=5, val=2, test=1)))
    manifest = write(source, tmp_path / "scenes", samples_per_shard=3, workers=1)
    assert [shard.samples for shard in manifest.shards] == [3, 2, 2, 1]
    features = replace(manifest.features, fingerprint=source.features.fingerprint)
    assert features == source.features
    assert len(manifest.class_names) == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seed": -1}, "seed is -1"), ({"val": -5}, "val is -5"), ({"train": 10**6}, "train is")],
)
def test_invalid_arguments_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        SceneSource(**arguments)


def test_relations_are_mostly_true_and_sometimes_wrong() -> None:
    right = wrong = 0
    for number in range(40):
        rng = np.random.default_rng(number)
        scene = sample_scene(rng)
        boxes = np.array([normalised(box) for _, box in scene.objects()])
        entities = [entity for entity, _ in scene.objects()]
        for subject, other, predicate in detect_relations(scene, boxes, rng).tolist():
            assert subject != other
            a, b = entities[subject], entities[other]
            true = a is not b and relation(a, b) == PREDICATES[predicate - 1]
            right, wrong = right + true, wrong + (not true)
    assert 0.5 < right / (right + wrong) < 0.9
