"""The contract of all registered formats; a new format is tested as soon as its module exists.

Its test files are written by a function of its name in tests/support/format_files.py.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.build import BuildConfig, build
from shards.class_vectors import ClassVectors
from shards.formats import (
    CAPTION_FORMATS,
    FEATURE_FORMATS,
    Annotation,
    FeatureSource,
    detect_format,
)
from shards.joined_features import JoinedFeatures
from shards.manifest import Manifest
from shards.schema import Sample, ShardError, decode
from shards.tar import read_tar
from tests.support.format_files import (
    CAPTION_FILES,
    FEATURE_FILES,
    HEIGHT,
    IDS,
    WIDTH,
    WrittenFeatures,
    coco_captions,
    probabilities,
    regions,
)


@pytest.fixture(params=sorted(FEATURE_FORMATS))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def files(name: str, tmp_path: Path) -> WrittenFeatures:
    return FEATURE_FILES[name](tmp_path)


@pytest.fixture
def source(name: str, files: WrittenFeatures) -> FeatureSource:
    found, format_ = detect_format(FEATURE_FORMATS, files.path)
    assert found == name
    return format_(files.path)


def read_samples(manifest: Manifest) -> dict[int, Sample]:
    samples = [
        decode(entry.key, members)
        for shard in manifest.shards
        for entry, members in read_tar(manifest.tar_path(shard))
    ]
    return {sample.image_id: sample for sample in samples}


def test_features_are_read_as_written(source: FeatureSource, files: WrittenFeatures) -> None:
    assert set(source.image_ids) <= set(IDS)
    assert len(source.image_ids) == len(set(source.image_ids)) > 0
    assert source.bad == []
    joined = JoinedFeatures([files.path], dict.fromkeys(IDS, (WIDTH, HEIGHT)))
    for image_id in source.image_ids:
        features = joined.read(image_id)
        np.testing.assert_array_equal(features.regions, regions(image_id))
        np.testing.assert_allclose(features.boxes, files.normalised_boxes(image_id), atol=1e-7)
        assert (features.classes is not None) == files.classes
        named = ClassVectors(background=False, kept=1)(features.classes)
        if named is not None:
            likeliest = probabilities(image_id)[:, 1:].argmax(axis=1)
            np.testing.assert_array_equal(named["id"][:, 0], likeliest)
            best = probabilities(image_id)[:, 1:].max(axis=1)
            np.testing.assert_allclose(named["prob"][:, 0], best, rtol=1e-3)


def test_pickled_copy_reads_the_same(source: FeatureSource) -> None:
    first = source.image_ids[0]
    before = source.read(first).regions
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read(first).regions, before)


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_shards_hold_the_features(
    source: FeatureSource, files: WrittenFeatures, tmp_path: Path, storage: str
) -> None:
    captions, _ = coco_captions(tmp_path, ids=source.image_ids)
    config = BuildConfig(str(captions), str(files.path), concepts=0, storage=storage)
    manifest = build(config, tmp_path / "out", samples_per_shard=2, workers=1)
    features = manifest.features
    for image_id, sample in read_samples(manifest).items():
        expected = regions(image_id)
        if storage == "fp16":
            np.testing.assert_array_equal(sample.regions, expected.astype(np.float16))
        else:
            steps = np.array(features.scale) / 2 * (1 + 1e-5)
            assert (np.abs(features.dequantize(sample.regions) - expected) <= steps).all()
        np.testing.assert_allclose(sample.boxes, files.normalised_boxes(image_id), atol=1e-7)
    assert set(read_samples(Manifest.load(tmp_path / "out"))) == set(source.image_ids)


def test_stopped_build_continues_to_the_same_bytes(
    source: FeatureSource, files: WrittenFeatures, tmp_path: Path
) -> None:
    captions, _ = coco_captions(tmp_path, ids=source.image_ids)
    config = BuildConfig(str(captions), str(files.path), concepts=0)
    build(config, tmp_path / "out", samples_per_shard=2, workers=1)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out/manifest.json").unlink()
    (tmp_path / "out/train-00000.tar").unlink()
    build(config, tmp_path / "out", samples_per_shard=2, workers=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == expected


def read_all(path: Path, format_: type[FeatureSource]) -> None:
    source = format_(path)
    if source.bad:
        raise ShardError(source.bad[0])
    for image_id in source.image_ids:
        source.read(image_id)


def test_truncated_feature_file_is_named(name: str, files: WrittenFeatures) -> None:
    path = files.path
    file = max(path.iterdir(), key=lambda f: f.stat().st_size) if path.is_dir() else path
    file.write_bytes(file.read_bytes()[: -file.stat().st_size // 3])
    with pytest.raises(ShardError) as error:
        read_all(path, FEATURE_FORMATS[name])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(params=sorted(CAPTION_FORMATS))
def caption_format(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def with_rounded_boxes(image: Annotation) -> Annotation:
    """Boxes are float32 quotients of pixels."""
    phrases = image.grounding and tuple(
        replace(p, boxes=tuple(tuple(round(x, 6) for x in box) for box in p.boxes))
        for p in image.grounding
    )
    return replace(image, grounding=phrases)


def test_annotations_are_read_as_written(caption_format: str, tmp_path: Path) -> None:
    path, expected = CAPTION_FILES[caption_format](tmp_path)
    found, format_ = detect_format(CAPTION_FORMATS, path)
    assert found == caption_format
    assert [with_rounded_boxes(image) for image in format_(path).annotations()] == expected


def test_truncated_caption_file_is_named(caption_format: str, tmp_path: Path) -> None:
    path, _ = CAPTION_FILES[caption_format](tmp_path)
    files = list(path.rglob("*.xml")) if path.is_dir() else [path]
    files[0].write_bytes(files[0].read_bytes()[: -files[0].stat().st_size // 3])
    with pytest.raises(ShardError, match=files[0].name):
        CAPTION_FORMATS[caption_format](path).annotations()
