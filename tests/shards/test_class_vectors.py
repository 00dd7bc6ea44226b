"""Classes of real detectors: the background, whole vectors, and ids that formats give."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.build import BuildConfig, build
from shards.class_vectors import ClassVectors
from shards.formats.arrays import ranked_classes
from shards.inspect import find_sample
from shards.manifest import Manifest
from shards.schema import CLASS_DTYPE, Array
from shards.verify import verify
from tests.support.format_files import IDS, coco_captions, npz_dir, probabilities

NAMES = tuple("abcdef")


def build_shards(tmp_path: Path, kept: int | None) -> Manifest:
    captions, _ = coco_captions(tmp_path)
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in NAMES))
    config = BuildConfig(
        str(captions),
        str(npz_dir(tmp_path).path),
        concepts=0,
        class_names=str(tmp_path / "names.txt"),
        classes_kept=kept,
    )
    return build(config, tmp_path / "out", workers=1)


def classes_of(manifest: Manifest, image_id: int) -> Array:
    sample, _ = find_sample(manifest.root, None, f"{image_id:012d}", 0)
    assert sample.classes is not None
    return sample.classes


def scattered(classes: Array, columns: int) -> Array:
    """Probabilities (R, C) from classes."""
    vectors = np.zeros((len(classes), columns))
    np.put_along_axis(vectors, classes["id"].astype(int), classes["prob"], axis=1)
    return vectors


def test_whole_class_vectors_survive_a_build(tmp_path: Path) -> None:
    manifest = build_shards(tmp_path, None)
    assert manifest.class_names == ("background", *NAMES)
    for image_id in IDS:
        vectors = scattered(classes_of(manifest, image_id), 7)
        np.testing.assert_allclose(vectors, probabilities(image_id), rtol=1e-3)


def test_kept_classes_are_the_likeliest_and_may_be_the_background(tmp_path: Path) -> None:
    manifest = build_shards(tmp_path, 2)
    seen = set()
    for image_id in IDS:
        classes = classes_of(manifest, image_id)
        expected = np.sort(probabilities(image_id), axis=1)[:, :-3:-1]
        np.testing.assert_allclose(classes["prob"], expected, rtol=1e-3)
        seen |= set(classes["id"].ravel().tolist())
    assert 0 in seen
    assert verify(manifest, workers=1) == []


def test_ids_of_formats_without_vectors_are_those_of_the_names() -> None:
    classes = np.array([[(2, 0.5), (0, 0.25)]], CLASS_DTYPE)
    kept = ClassVectors(background=False, kept=1)
    assert kept.names(NAMES) == NAMES
    np.testing.assert_array_equal(kept(classes), classes)
    assert kept(None) is None


def test_background_can_be_left_out_for_models_that_do_not_know_it() -> None:
    ranked = ranked_classes(np.array([[0.5, 0.1, 0.4], [0.2, 0.7, 0.1]]))
    classes = ClassVectors(background=False)(ranked)
    assert classes is not None
    np.testing.assert_array_equal(classes["id"], [[1, 0], [0, 1]])
    np.testing.assert_allclose(classes["prob"], [[0.4, 0.1], [0.7, 0.1]], rtol=1e-3)
