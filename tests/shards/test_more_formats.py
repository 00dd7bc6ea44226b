"""Variants of formats that the contract does not write, and their invalid files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shards.formats import CAPTION_FORMATS, FEATURE_FORMATS, detect_format, find_files
from shards.formats.coco_captions import CocoCaptions
from shards.formats.csv_captions import CsvCaptions
from shards.formats.hdf5 import Hdf5
from shards.formats.npz_by_id import NpzById
from shards.formats.vinvl_tsv import VinvlTsv
from shards.joined_features import JoinedFeatures
from shards.schema import Array, ShardError
from tests.support.format_files import (
    DIM,
    HEIGHT,
    WIDTH,
    base64_of,
    pixel_boxes,
    regions,
    tsv_line,
    with_geometry,
    write_json,
)


def write_hdf5(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file[key] = value
    return path


@pytest.mark.parametrize("name", ["42", "000000000042", "COCO_val2014_000000000042"])
def test_hdf5_keys_can_have_padded_and_prefixed_ids_and_sizes(name: str, tmp_path: Path) -> None:
    arrays = {"features": regions(42), "boxes": pixel_boxes(42), "size": [[HEIGHT, WIDTH]]}
    path = write_hdf5(
        tmp_path / "f.hdf5",
        **{f"{name}_{key}": value for key, value in arrays.items()},
        **{f"{name}_mask": np.ones((3, 4)), f"{name}_cls_prob": np.ones(len(regions(42)))},
    )
    features = JoinedFeatures([path]).read(42)
    np.testing.assert_array_equal(features.regions, regions(42))
    assert (features.width, features.height, features.classes) == (WIDTH, HEIGHT, None)
    np.testing.assert_array_equal(features.boxes[0], [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("grid", "box"),
    [
        (np.arange(4 * DIM).reshape(4, DIM), [0.5, 0, 1, 0.5]),
        (np.arange(6 * DIM).reshape(2, 3, DIM), [1 / 3, 0, 2 / 3, 0.5]),
        (np.arange(3 * DIM).reshape(3, DIM), [0, 0, 1, 1]),
    ],
)
def test_hdf5_grids_have_their_cells_as_boxes(
    grid: Array, box: list[float], tmp_path: Path
) -> None:
    path = write_hdf5(tmp_path / "f.hdf5", **{"42_grids": grid.astype(np.float32)})
    features = JoinedFeatures([path]).read(42)
    np.testing.assert_array_equal(features.regions, grid.reshape(-1, DIM))
    np.testing.assert_array_equal(features.boxes[1], np.float32(box))


def test_hdf5_regions_are_preferred_to_the_grid(tmp_path: Path) -> None:
    path = write_hdf5(
        tmp_path / "f.hdf5", **{"42_grids": np.ones((4, DIM)), "42_features": regions(42)}
    )
    source = Hdf5(path)
    assert (source.image_ids, source.bad) == ([42], [])
    np.testing.assert_array_equal(source.read(42).regions, regions(42))


def test_hdf5_keys_of_one_image_are_bad_the_second_time(tmp_path: Path) -> None:
    keys = {"42_features": regions(42), "0042_features": regions(42), "a_features": regions(42)}
    source = Hdf5(write_hdf5(tmp_path / "f.hdf5", **keys))
    assert source.image_ids == [42, "a"]
    assert len(source.bad) == 1
    assert "image 42 is also in " in source.bad[0]


def test_hdf5_without_features_names_a_key(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "f.hdf5", image_id=[1], roi=np.ones((2, 3)))
    with pytest.raises(
        ShardError, match=r"expected keys such as 42_features or 42_grids, got 'image_id', 'roi'"
    ):
        JoinedFeatures([path])
    size = write_hdf5(tmp_path / "g.hdf5", **{"42_features": regions(42), "42_size": [1, 2, 3]})
    with pytest.raises(ShardError, match=r"42_size is \(3,\), expected height and width"):
        Hdf5(size).read(42)


VINVL = {
    "json with geometry": {
        "num_boxes": len(regions(42)),
        "features": base64_of(with_geometry(42)).decode(),
    },
    "list with geometry": [{"feature": base64_of(row).decode()} for row in with_geometry(42)],
    "objects": {
        "image_w": WIDTH,
        "image_h": HEIGHT,
        "objects": [
            {"rect": box.tolist(), "class": "dog", "conf": 0.5, "feature": base64_of(row).decode()}
            for box, row in zip(pixel_boxes(42), regions(42), strict=True)
        ],
    },
}


@pytest.mark.parametrize("record", VINVL.values(), ids=VINVL)
def test_vinvl_features_can_be_json(record: Any, tmp_path: Path) -> None:
    path = tmp_path / "train.feature.tsv"
    path.write_text(f"COCO_val2014_000000000042\t{json.dumps(record)}\n")
    features = JoinedFeatures([path]).read(42)
    np.testing.assert_array_equal(features.regions, regions(42))
    expected = pixel_boxes(42) / np.array([WIDTH, HEIGHT] * 2, np.float32)
    np.testing.assert_allclose(features.boxes, expected, atol=1e-6)


def test_vinvl_features_without_geometry_have_no_boxes(tmp_path: Path) -> None:
    path = tmp_path / "features.tsv"
    wide = np.hstack([regions(42), np.zeros((len(regions(42)), 6), np.float32)])
    path.write_bytes(b"42\t%d\t%s\n" % (len(wide), base64_of(wide)))
    features = VinvlTsv(path).read(42)
    np.testing.assert_array_equal(features.regions, wide)
    assert features.boxes is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"42\ttwo\tAAAA", "number of boxes b'two', expected a number"),
        (b"42\t2\tAAAA", "features: 0.75 numbers, expected a multiple of 2 boxes"),
        (b"42\t{", "not JSON"),
        (b"42\t7", "field 'features' is missing"),
        (b'42\t{"objects": []}', "no objects, expected at least one"),
        (b'42\t{"objects": [{"rect": [1, 2]}]}', "field 'feature' is missing"),
        (b'42\t{"objects": [{"rect": [1, 2], "feature": "AAAA"}]}', "0.75 numbers"),
        (b'42\t{"objects": [{"rect": [[]], "feature": "AAAAAA=="}]}', "a rect that is not x1"),
    ],
)
def test_bad_vinvl_lines_are_named(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(line + b"\n")
    with pytest.raises(ShardError, match=rf"a.tsv: line 1 \(byte 0\): image 42: .*{message}"):
        VinvlTsv(path).read(42)


def test_tsv_formats_are_told_apart_by_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    for line, name in (
        (tsv_line(7), "bottom_up_tsv"),
        (b"42\t1\tAAAA\n", "vinvl_tsv"),
        (b"42\t{}\n", "vinvl_tsv"),
        (b"\t".join([b"42"] * 10), "lxmert_tsv"),
        (b"42\n", "bottom_up_tsv"),
    ):
        path.write_bytes(line)
        assert detect_format(FEATURE_FORMATS, path)[0] == name


@pytest.mark.parametrize(
    ("arrays", "name"),
    [
        ({"7": 1, "9": 1}, "npz_by_id"),
        ({"COCO_val2014_000000000042": 1}, "npz_by_id"),
        ({"features": 1}, "npz_image"),
        ({"arr_0": 1}, "npz_image"),
        ({"feat": 1, "imgid": 1, "scale": 1}, "npz_blocks"),
    ],
)
def test_npz_files_are_told_apart_by_their_arrays(
    arrays: dict[str, int], name: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "7.npz", **arrays)
    assert detect_format(FEATURE_FORMATS, tmp_path / "7.npz")[0] == name


def test_a_single_npz_file_is_an_image(tmp_path: Path) -> None:
    np.savez(tmp_path / "COCO_val2014_000000000042.npz", regions(42))
    source = JoinedFeatures([tmp_path / "COCO_val2014_000000000042.npz"])
    assert source.image_ids == [42]
    np.testing.assert_array_equal(source.read(42).regions, regions(42))
    np.savez(tmp_path / "9.npz", fc=np.ones(3), w=np.ones(1))
    with pytest.raises(ShardError, match=r"expected an array features or .*, got 'fc', 'w'"):
        JoinedFeatures([tmp_path / "9.npz"])
    np.savez(tmp_path / "mine.npz", feat=regions(42))
    assert JoinedFeatures([tmp_path / "mine.npz"]).image_ids == ["mine"]


def test_arrays_of_an_image_are_bad_the_second_time(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"7": regions(7), "07": regions(7), "mine": regions(9)})
    source = NpzById(tmp_path / "a.npz")
    assert source.image_ids == [7, "mine"]
    assert source.bad == [f"{tmp_path / 'a.npz'}: array '07': image 7 is also in '7'"]


def test_coco_images_can_lack_their_sizes(tmp_path: Path) -> None:
    images = [{"id": 3, "file_name": "a.jpg"}, {"id": 4, "file_name": "b.jpg", "width": None}]
    annotations = [{"image_id": 3, "caption": "A dog."}]
    path = write_json(tmp_path / "val.json", {"images": images, "annotations": annotations})
    found = CocoCaptions(path).annotations()
    assert [(image.image_id, image.width, image.height) for image in found] == [
        (3, 0, 0),
        (4, 0, 0),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.csv", "image_name| comment_number| comment\n7.jpg| 0| A dog's T-shirt, wet.\n"),
        ("a.csv", '\ufeffid;caption;split\r\n7;"A dog\'s T-shirt, wet.";restval\r\n'),
        (
            "flickr_train.csv",
            'caption,image\n"A dog\'s T-shirt, wet.",COCO_train2014_000000000007.jpg\n',
        ),
    ],
)
def test_csv_files_of_other_tools_are_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found, format_ = detect_format(CAPTION_FORMATS, tmp_path / name)
    (image,) = format_(tmp_path / name).annotations()
    assert (found, image.image_id, image.split) == ("csv_captions", 7, "train")
    assert image.captions == ("A dog's T-shirt, wet.",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,caption\n7,A dog\n",
            "expected exactly one of the words train, val, test in the name",
        ),
        ("image,split,caption\n,val,A\n", "line 2: no image id; add it"),
        ("image,split,caption\n7,dev,A\n", "line 2: split 'dev', expected one of train"),
        ("image,split,caption\n7,val,A, b\n", "line 2: 4 columns, expected 3 .* quotes"),
        ("image,split,caption\n7,val, \n", "line 2: no caption; remove the line"),
        (
            "image,split,caption\n7,val,A\n8,val,B\n7,test,C\n",
            "line 4: image 7 is of split test, but of val in an earlier line",
        ),
        ("picture,caption\n7,A\n", "no column image_id or .*, only picture, caption"),
        ("image,words\n7,A\n", "no column caption or comment or text, only image, words"),
        ("", "no column image_id"),
        ('image,split,caption\n7,val,A\n8,val,"A\n9,val,B\n', "line 3: .*; put captions with q"),
        ('image,split,caption\n7,val,"A" dog\n', "line 2: .*; put captions with quotes in quotes"),
        (
            "image,split,caption\n7.jpg,val,A\n7.png,val,B\n",
            "line 3: 7.png is image 7, as is 7.jpg in an earlier line",
        ),
    ],
)
def test_invalid_csv_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ShardError, match=f"a.csv: {message}"):
        CsvCaptions(tmp_path / "a.csv").annotations()


def test_an_existing_folder_of_a_pattern_is_taken_literally(tmp_path: Path) -> None:
    folder = tmp_path / "run [1]"
    folder.mkdir()
    for name in ("a.npz", "b.npz", "c[1].npz"):
        (folder / name).touch()
    assert find_files(str(folder / "?.npz")) == [folder / "a.npz", folder / "b.npz"]
    assert find_files(str(folder / "c[1].npz")) == [folder / "c[1].npz"]
    with pytest.raises(ShardError, match="no such file"):
        find_files(str(folder / "d*"))
