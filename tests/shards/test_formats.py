"""Single formats, in addition to the contract: invalid files and special cases."""

import base64
import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.formats import CAPTION_FORMATS, FEATURE_FORMATS, detect_format
from shards.formats.bottom_up_tsv import BottomUpTsv
from shards.formats.boxes import normalise_boxes
from shards.formats.coco_captions import CocoCaptions
from shards.formats.cocobu import Cocobu
from shards.formats.flickr30k_entities import Flickr30kEntities
from shards.formats.npz_dir import NpzDir
from shards.joined_features import JoinedFeatures
from shards.schema import Array, ShardError
from tests.support.format_files import (
    DIM,
    FEATURE_FILES,
    IDS,
    cocobu,
    flickr30k_entities,
    hdf5,
    karpathy,
    lmdb,
    regions,
    tsv_line,
    write_json,
)


def base64_floats(count: int) -> bytes:
    return base64.b64encode(np.ones(count, np.float32).tobytes())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": b"AAAA*"}, "features are not base64"),
        ({"features": b"AAA"}, "features are not base64"),
        ({"features": base64_floats(11)}, "features: 11 numbers, expected a multiple of 2 boxes"),
        ({"features": b""}, "features: 0 numbers"),
        ({"boxes": base64_floats(7)}, "boxes: 7 numbers, expected a multiple of 2 boxes"),
        ({"boxes": base64_floats(12)}, r"boxes are \(2, 6\), expected \(2, 4\)"),
        ({"n": b"0"}, "boxes: 8 numbers, expected a multiple of 0 boxes"),
        ({"n": b"two"}, "width, height and number of boxes must be numbers"),
        ({"w": b"100"}, r"box \(0, 0, 640, 480\) exceeds the image of 100 × 480 pixels"),
        ({"more": b"cls"}, "7 columns, expected 6"),
    ],
)
def test_bad_tsv_lines_are_named(tmp_path: Path, changed: dict[str, bytes], message: str) -> None:
    path = tmp_path / "a.tsv"
    good = tsv_line(7)
    path.write_bytes(good + tsv_line(9, **changed))
    message = rf"a.tsv: line 2 \(byte {len(good)}\): image 9: {message}"
    with pytest.raises(ShardError, match=message):
        JoinedFeatures([path]).read(9)
    np.testing.assert_array_equal(JoinedFeatures([path]).read(7).regions, regions(7))


def test_tsv_lines_without_a_new_image_id_are_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(tsv_line(7) + tsv_line(9, id=b"\xff9") + tsv_line(7) + b"\n")
    source = BottomUpTsv(path)
    assert source.image_ids == [7]
    assert [line.partition(": ")[2].partition(" (")[0] for line in source.bad] == [
        "line 2",
        "line 3",
        "line 4",
    ]
    assert "image id '\ufffd9', expected 1 to 255 characters that can be printed" in source.bad[0]
    assert "image 7 is also in line 1" in source.bad[1]


def test_tsv_lines_can_end_with_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(tsv_line(7).replace(b"\n", b"\r\n") + tsv_line(9).removesuffix(b"\n"))
    for image in (7, 9):
        np.testing.assert_array_equal(BottomUpTsv(path).read(image).regions, regions(image))


def test_box_can_exceed_the_image_only_by_rounding() -> None:
    box = [[-0.5, 0, 640.9, 480]]
    np.testing.assert_array_equal(normalise_boxes("x", box, 640, 480), [[0, 0, 1, 1]])
    for wrong in ([-1.1, 0, 1, 1], [0, 0, 641.1, 480], [0, 0, np.nan, 1]):
        with pytest.raises(ShardError, match="exceeds the image"):
            normalise_boxes("x", [wrong], 640, 480)


def test_boxes_in_pixels_need_the_image_size(tmp_path: Path) -> None:
    path = cocobu(tmp_path).path
    with pytest.raises(ShardError, match=r"image 42: boxes in pixels, but neither .* --sizes"):
        JoinedFeatures([path]).read(42)
    assert JoinedFeatures([path], {42: (1280, 960)}).read(42).boxes[0].tolist() == [0, 0, 0.5, 0.5]


def test_grid_features_get_their_cells_as_boxes(tmp_path: Path) -> None:
    folder = tmp_path / "cocotalk_att"
    folder.mkdir()
    grid = np.arange(2 * 3 * DIM, dtype=np.float32).reshape(2, 3, DIM)
    np.savez(folder / "7.npz", feat=grid)
    features = JoinedFeatures([folder]).read(7)
    np.testing.assert_array_equal(features.regions, grid.reshape(6, DIM))
    np.testing.assert_array_equal(features.boxes[4], np.float32([1 / 3, 0.5, 2 / 3, 1]))


def test_missing_box_file_is_named(tmp_path: Path) -> None:
    path = cocobu(tmp_path).path
    (tmp_path / "cocobu_box/42.npy").unlink()
    with pytest.raises(ShardError, match=r"cocobu_box/42.npy: no such file"):
        Cocobu(path).read(42)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"feat": np.ones((2, 3)), "num_boxes": np.array([3])}, "num_boxes is 3, .* 2 rows"),
        (
            {"fc": np.ones(3), "w": np.ones(1)},
            "no features, expected an array features or feat or z or x",
        ),
        ({"feat": np.ones(3)}, r"features are \(3,\), expected"),
        ({"feat": np.ones((0, 3))}, r"features are \(0, 3\), expected"),
        (
            {"feat": np.ones((2, 3)), "cls_prob": np.ones((3, 5))},
            "classes of 3 regions",
        ),
        ({"feat": np.array([None])}, "damaged, or not an npy or npz file"),
    ],
)
def test_invalid_archives_are_named(tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    np.savez(tmp_path / "7.npz", **arrays)
    np.savez(tmp_path / "9.npz", feat=np.ones((1, 3)))
    with pytest.raises(ShardError, match=message):
        JoinedFeatures([tmp_path]).read(7)


def test_single_array_of_an_archive_is_the_features(tmp_path: Path) -> None:
    np.savez(tmp_path / "COCO_val2014_000000000042.npz", whatever=regions(42))
    source = NpzDir(tmp_path)
    np.testing.assert_array_equal(source.read(42).regions, regions(42))


@pytest.mark.parametrize(("package", "write"), [("h5py", hdf5), ("lmdb", lmdb)])
def test_missing_package_is_named(
    package: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path).path
    imported = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        ShardError, match=rf"need {package}; install it with: pip install 'capdist\[formats\]'"
    ):
        JoinedFeatures([path])


def test_unknown_and_ambiguous_formats_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ShardError, match=r"a.txt: unknown format, expected .*bottom_up_tsv"):
        detect_format(FEATURE_FORMATS, tmp_path / "a.txt")
    both = write_json(tmp_path / "a.json", {"filename": 0, "file_name": 0})
    with pytest.raises(ShardError, match=r"a.json: matches formats coco_captions and karpathy"):
        detect_format(CAPTION_FORMATS, both)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "captions.json",
            {"images": []},
            "expected exactly one of the words train, val, test in the name .* rename it",
        ),
        ("train_val.json", {"images": []}, "expected exactly one of the words train, val, test"),
        ("captions_latest.json", {"images": []}, "exactly one of the words train, val, test"),
        (
            "val.json",
            {"images": [{"file_name": "a", "id": 3, "width": "x"}]},
            "number 0: field 'width' is 'x', expected type int",
        ),
        (
            "val.json",
            {"images": [], "annotations": [{"image_id": 7, "caption": "A dog"}]},
            "caption of image 7, which images.. does not list",
        ),
    ],
)
def test_invalid_coco_files_are_named(
    tmp_path: Path, name: str, data: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShardError, match=message):
        CocoCaptions(write_json(tmp_path / name, data)).annotations()


def test_coco_test_images_have_no_captions(tmp_path: Path) -> None:
    images = [{"file_name": "a.jpg", "id": 3, "width": 5, "height": 4}]
    path = write_json(tmp_path / "image_info_test2014.json", {"images": images})
    (image,) = CocoCaptions(path).annotations()
    assert (image.split, image.captions, image.width, image.height) == ("test", (), 5, 4)


def test_entities_splits_can_come_from_a_karpathy_file(tmp_path: Path) -> None:
    path, _ = flickr30k_entities(tmp_path)
    for split in ("train", "val", "test"):
        (path / f"{split}.txt").unlink()
    with pytest.raises(ShardError, match=r"no splits; put train.txt, val.txt and test.txt"):
        Flickr30kEntities(path).annotations()
    karpathy(path)
    images = Flickr30kEntities(path).annotations()
    splits = ["train", "train", "val", "test", "train", "train"]
    assert [(image.image_id, image.split) for image in images] == list(
        zip(IDS, splits, strict=True)
    )


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Sentences/42.txt", "[/EN#1/people A man runs .", "unbalanced brackets"),
        ("Sentences/42.txt", "A man] runs .", "unbalanced brackets"),
        ("Annotations/42.xml", "<annotation></annotation>", "42.xml: not a valid annotation"),
        ("train.txt", "42\nforty/1\n", "line 2: image 'forty/1', expected the name of a file"),
        ("train.txt", "43\n", "43.txt: no such file, though split train lists image 43"),
    ],
)
def test_invalid_entities_files_are_named(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    path, _ = flickr30k_entities(tmp_path)
    (path / file).write_text(text)
    with pytest.raises(ShardError, match=message):
        Flickr30kEntities(path).annotations()


def test_image_in_two_files_is_bad_and_read_from_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(tsv_line(7))
    (tmp_path / "b.tsv").write_bytes(tsv_line(9) + tsv_line(7, features=b"?"))
    features = JoinedFeatures([tmp_path / "a.tsv", tmp_path / "b.tsv"])
    assert features.bad == [f"{tmp_path / 'b.tsv'}: image 7 is also in {tmp_path / 'a.tsv'}"]
    np.testing.assert_array_equal(features.read(7).regions, regions(7))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_val2014", "val"),
        ("medieval_train", "train"),
        ("coco.test", "test"),
        ("2014-Validation", "val"),
        ("latest_captions_train-2", "train"),
    ],
)
def test_split_of_a_coco_file_is_a_word_of_its_name(name: str, split: str, tmp_path: Path) -> None:
    images = [{"file_name": "a.jpg", "id": 3, "width": 5, "height": 4}]
    path = write_json(tmp_path / f"{name}.json", {"images": images})
    assert CocoCaptions(path).annotations()[0].split == split


def test_every_format_has_a_writer_of_test_files() -> None:
    assert set(FEATURE_FILES) == set(FEATURE_FORMATS)
