import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.inspect import describe, draw, find_sample
from shards.schema import ShardError
from shards.writer import write
from tests.support.samples import NumberSource, make_sample

NAMES = ("cat", "dog")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(NumberSource(), tmp_path / "set", samples_per_shard=3, workers=1)
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("name", "split", "key", "number", "image"),
    [
        ("", None, None, 0, 0),
        ("", None, None, 5, 5),
        ("", None, None, 8, 8),
        ("", "val", None, 1, 8),
        ("", None, "000000000006", 0, 6),
        ("train-00001.tar", None, None, 2, 5),
        ("train-00001.tar", None, "000000000003", 0, 3),
    ],
)
def test_find_sample_by_number_split_and_key(
    root: Path, name: str, split: str | None, key: str | None, number: int, image: int
) -> None:
    sample, manifest = find_sample(root / name, split, key, number)
    assert sample.image_id == image
    assert manifest is not None
    assert manifest.class_names == NAMES


def test_single_tar_needs_no_manifest(root: Path, tmp_path: Path) -> None:
    tar = (root / "val-00000.tar").rename(tmp_path / "single.tar")
    sample, manifest = find_sample(tar, None, None, 0)
    assert (sample.image_id, manifest) == (7, None)


@pytest.mark.parametrize(
    ("name", "split", "key", "number", "message"),
    [
        ("", None, None, 9, r"no sample number 9 \(the first is 0\)"),
        ("", "val", "000000000001", 0, "split val: no sample with key '000000000001'"),
        ("", "dev", None, 0, "no split 'dev', expected one of train, val"),
        ("nowhere.tar", None, None, 0, "nowhere.tar: no such folder or tar"),
        ("train-00000.tar", "train", None, 0, "leave out --split"),
        ("manifest.json", None, None, 0, "manifest.json: damaged, or not a tar"),
    ],
)
def test_missing_sample_is_refused(
    root: Path, name: str, split: str | None, key: str | None, number: int, message: str
) -> None:
    with pytest.raises(ShardError, match=message):
        find_sample(root / name, split, key, number)


def test_description_has_everything() -> None:
    regions = np.array([[1, 0, -1, 4]], np.float16)
    assert describe(replace(make_sample(3), regions=regions), NAMES).splitlines() == [
        "sample 000000000003: image 3, 640 × 480, split train, no picture",
        "captions: 2",
        "  0  A dog runs 3.",
        "     4 tokens: a dog runs 3",
        "  1  Ein Hündchen.",
        "     2 tokens: ein hündchen",
        "concepts: 2: dog 0.90, runs 0.50",
        "regions: 1 of width 4, float16",
        "  mean 1.000, standard deviation 1.871, minimum -1.000, maximum 4.000, zeros 25.0%",
        "boxes: the first 1",
        "  0  middle left (x 0% to 50%, y 25% to 100%): dog 0.75, cat 0.25",
        "relations (subject, object, predicate): none",
        "grounding: 1 phrases",
        "  caption 0: 'a dog', head 'dog', class dog: middle left (x 0% to 50%, y 25% to 100%)",
    ]


def test_description_names_missing_members() -> None:
    sample = replace(
        make_sample(3), width=0, height=0, captions=(), tokens=(), concepts=None, grounding=None
    )
    text = describe(replace(sample, classes=None), ())
    for line in ("size unknown", "captions: none", "concepts: none", "grounding: none"):
        assert line in text
    assert "no classes" in text
    assert "class 1 0.75, class 0 0.25" in describe(sample, ())


def test_boxes_are_drawn_at_their_coordinates(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (600, 500), "white").save(buffer, format="PNG")
    draw(replace(make_sample(3), picture=buffer.getvalue()), NAMES, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (600, 500)
        pixels = np.asarray(image)
    red = (pixels == [255, 0, 0]).all(axis=2)
    # Box 0..0.5 × 0.25..1 of 600 × 500: its right edge is column 300, its top edge row 125.
    assert red[200:, 300].all()
    assert red[125, :301].all()
    assert not red[:125].any()
    assert not red[:, 301:].any()


def test_drawing_needs_a_picture(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="sample 000000000003: no picture"):
        draw(make_sample(3), NAMES, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()
