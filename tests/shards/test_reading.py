"""What arrays of features may mean is stated, not guessed: axes, boxes, class names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.build import BuildConfig, build
from shards.formats import RegionFeatures
from shards.formats.layout import arrange
from shards.joined_features import JoinedFeatures
from shards.reading import Reading
from shards.schema import Array, Sample, ShardError, decode
from shards.tar import read_tar
from shards.verify import verify
from shards.writer import write as write_shards
from tests.support.format_files import coco_captions
from tests.support.shards import GroundedSource

IDS = range(1, 7)


def write(folder: Path, **arrays: Any) -> str:
    """The same arrays for every image, or those of a function of its id."""
    path = folder / "features"
    path.mkdir(exist_ok=True)
    for image in IDS:
        np.savez(
            path / f"{image}.npz",
            **{name: a(image) if callable(a) else a for name, a in arrays.items()},
        )
    return str(path)


def numbers(*shape: int) -> Array:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def samples(folder: Path, features: str, **options: Any) -> list[Sample]:
    captions, _ = coco_captions(folder, ids=IDS)
    config = BuildConfig(str(captions), features, concepts=0, **options)
    manifest = build(config, folder / "out", workers=1)
    return [
        decode(entry.key, members)
        for shard in manifest.shards
        for entry, members in read_tar(manifest.root / shard.name)
    ]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": numbers(16, 9)}, r"features are \(16, 9\), .* --layout regions-first .*features-fi"),
        (
            {"feat": numbers(16, 7, 7)},
            r"\(16, 7, 7\), and either axis .* --layout grid .*features-",
        ),
        ({"x": lambda i: numbers(4, 9 + i)}, r"features are \(4, 10\) or \(4, .*--layout"),
        (
            {"feat": numbers(16, 36), "boxes": np.ones((36, 4))},
            r"are \(16, 36\), but there are 36 boxes; .* --layout features-first",
        ),
    ],
)
def test_width_that_may_be_the_first_axis_is_refused(
    arrays: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ShardError, match=message):
        samples(tmp_path, write(tmp_path, **arrays))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": numbers(9, 16)},
        {"x": lambda i: numbers(20 + i, 16)},
        {"feat": numbers(3, 3, 16)},
        {"feat": numbers(36, 16), "boxes": np.tile([0, 0, 9, 9], (36, 1))},
        {"feat": numbers(36, 16), "num_boxes": np.array([30])},
    ],
)
def test_layout_that_is_clear_need_not_be_stated(arrays: Mapping[str, Any], tmp_path: Path) -> None:
    assert samples(tmp_path, write(tmp_path, **arrays))[0].regions.shape[1] == 16


@pytest.mark.parametrize(
    ("layout", "stored", "expected"),
    [
        ("features-first", numbers(16, 9), numbers(16, 9).T),
        ("regions-first", numbers(16, 9), numbers(16, 9)),
        ("features-first", numbers(5, 2, 3), numbers(5, 2, 3).reshape(5, 6).T),
        ("grid", numbers(5, 2, 3), numbers(5, 2, 3).reshape(10, 3)),
    ],
)
def test_stated_layout_is_read(layout: str, stored: Array, expected: Array, tmp_path: Path) -> None:
    features = write(tmp_path, x=stored)
    for sample in samples(tmp_path, features, reading=Reading(layout)):
        np.testing.assert_array_equal(sample.regions, expected.astype(np.float16))


def test_grid_with_the_width_first_gets_its_cells_as_boxes() -> None:
    features = arrange("x", RegionFeatures(numbers(5, 2, 3), arranged=False), "features-first")
    np.testing.assert_array_equal(features.boxes, np.float32(
        [[c / 3, r / 2, (c + 1) / 3, (r + 1) / 2] for r in range(2) for c in range(3)]
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "shape"), [("grid", (4, 5)), ("regions-first", (2, 4, 5)), (None, (5,))]
)
def test_layout_with_other_axes_is_refused(layout: str | None, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShardError, match=r"x: features are .*, expected \("):
        arrange("x", RegionFeatures(np.ones(shape), arranged=False), layout)


SHARES = np.array([[0, 0.25, 1, 1], [0.5, 0, 0.75, 0.5]], np.float32)


@pytest.mark.parametrize("boxes", [SHARES, SHARES * np.float32(1.05)], ids=["inside", "beyond"])
def test_boxes_within_one_pixel_are_refused_unless_they_are_stated_to_be_shares(
    boxes: Array, tmp_path: Path
) -> None:
    features = write(tmp_path, features=numbers(2, 3), boxes=boxes)
    message = r"features: all boxes are within one pixel, .* give --boxes relative"
    with pytest.raises(ShardError, match=message):
        samples(tmp_path, features)
    for sample in samples(tmp_path, features, reading=Reading(None, True, clip_boxes=True)):
        np.testing.assert_array_equal(sample.boxes, boxes.clip(0, 1))


def test_one_image_with_boxes_within_one_pixel_is_bad(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 64, 48], [1, 2, 3, 4]])
    features = write(tmp_path, features=numbers(2, 3), boxes=lambda i: SHARES if i == 2 else boxes)
    assert len(samples(tmp_path, features, max_bad=1)) == len(IDS) - 1


def test_boxes_a_little_over_the_edge_are_clipped_and_counted_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = np.array([[-5, 0, 645, 482], [0, 0, 640.5, 480]], np.float32)
    features = write(tmp_path, features=numbers(2, 3), boxes=boxes)
    with pytest.raises(ShardError, match=r"exceeds the image of 640 × 480 .*; give --clip-boxes"):
        samples(tmp_path, features)
    for sample in samples(tmp_path, features, reading=Reading(clip_boxes=True)):
        np.testing.assert_array_equal(sample.boxes, [[0, 0, 1, 1]] * 2)
    assert "clipped 6 boxes of 6 images to the edges" in capsys.readouterr().out


def test_box_far_over_the_edge_is_not_clipped(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 720, 480], [0, 0, 640, 480]], np.float32)
    features = write(tmp_path, features=numbers(2, 3), boxes=boxes)
    with pytest.raises(ShardError, match=r"box \(0, 0, 720, 480\) exceeds the image"):
        samples(tmp_path, features, reading=Reading(clip_boxes=True))


def test_shares_over_the_edge_are_clipped_on_request(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 1.02, 1], [0, 0, 0.5, 0.5]], np.float32)
    features = write(tmp_path, features=numbers(2, 3), boxes=boxes)
    with pytest.raises(ShardError, match=r"boxes exceed \[0, 1\]"):
        samples(tmp_path, features, reading=Reading(relative_boxes=True))
    clipped = samples(tmp_path, features, reading=Reading(None, True, True))
    np.testing.assert_array_equal(clipped[0].boxes[0], [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("dog cat", "2 class names, but there are 3 classes; name every class"),
        ("__background__ dog cat ball", r".* first of them '__background__', .* remove that name"),
        ("background dog cat", r"3 class names for 3 classes, the first of them 'background', so"),
        ("dog cat ball tree", "4 class names, but there are 3 classes besides the background"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(names: str, message: str, tmp_path: Path) -> None:
    features = write(tmp_path, features=numbers(2, 3), cls_prob=np.full((2, 4), 0.25))
    (tmp_path / "names.txt").write_text(names.replace(" ", "\n"))
    with pytest.raises(ShardError, match=f"names.txt: {message}"):
        samples(tmp_path, features, class_names=str(tmp_path / "names.txt"))
    assert not (tmp_path / "out").exists()


def test_class_ids_without_a_name_are_refused_after_the_first_pass(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "block.npz",
        imgid=list(IDS),
        feat=numbers(len(IDS), 4, 5),
        scale=np.ones(5),
        class_id=np.arange(len(IDS) * 4).reshape(-1, 4, 1),
        class_prob=np.ones((len(IDS), 4, 1)),
    )
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    with pytest.raises(ShardError, match="2 class names, but there are 24 classes"):
        samples(tmp_path, str(tmp_path / "block.npz"), class_names=str(tmp_path / "names.txt"))


def verified(tmp_path: Path, names: tuple[str, ...]) -> list[str]:
    """What `verify` says about shards that were written without names and have got these."""
    manifest = write_shards(GroundedSource(class_names=()), tmp_path / "out", workers=1)
    return verify(replace(manifest, class_names=names), workers=1)


def test_verify_finds_class_names_that_do_not_fit(tmp_path: Path) -> None:
    assert verified(tmp_path, ("a", "b", "c", "d")) == []
    assert "class id 2, expected 0 to 1" in verified(tmp_path, ("a", "b"))[0]
    assert verified(tmp_path, ("background", "b", "c", "d")) == []


def test_joined_features_of_one_folder_say_how_many_classes_there_are(tmp_path: Path) -> None:
    features = write(tmp_path, features=numbers(2, 3), cls_prob=np.full((2, 4), 0.25))
    assert JoinedFeatures([Path(features)]).class_count == 3
