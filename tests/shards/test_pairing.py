"""Captions get the features of their own image, or the build is refused."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from capdist.data.dataset import references
from capdist.data.mixture import merge_manifests
from shards.build import BuildConfig, build
from shards.formats import Annotation
from shards.image_ids import Entries, id_order, image_key, image_number, parse_image_id
from shards.joined_features import JoinedFeatures
from shards.json_types import ImageId
from shards.manifest import Manifest
from shards.pairing import FeatureNames, image_sizes, leave_out_repeated, pair
from shards.schema import KEY_PATTERN, Sample, ShardError, decode
from shards.tar import read_tar
from shards.verify import verify
from tests.support.format_files import regions, tsv_line

HASH = "3b1c9f0e7d" * 6 + "abcd"
NAMES = ("airport_1", "beach.10", "park/42", str(uuid.UUID(int=7)), HASH, "été 3", "00017x")


def annotation(
    image: ImageId, file_name: str, position: str = "a.json: image number 0"
) -> Annotation:
    return Annotation(image, file_name, "train", ("A dog.",), (("a", "dog"),), position=position)


def write_captions(path: Path, ids: dict[ImageId, str]) -> str:
    """A Karpathy file with the file name of each id; the caption has the name."""
    images = [
        {
            "imgid": image,
            "filename": name,
            "split": "train",
            "sentences": [{"raw": name, "tokens": ["a", "dog"]}],
        }
        for image, name in ids.items()
    ]
    path.write_text(json.dumps({"images": images}))
    return str(path)


def value_of(name: str) -> float:
    return float(sum(name.encode()) % 997)


def write_features(folder: Path, names: list[str]) -> str:
    """Features (2, 3) that are all equal to a number of the name."""
    for name in names:
        path = folder / "features" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, x=np.full((2, 3), value_of(name), np.float32))
    return str(folder / "features")


def build_all(
    tmp_path: Path, captions: str, features: str, **options: object
) -> dict[ImageId, Sample]:
    config = BuildConfig(captions, features, concepts=0, **options)  # type: ignore[arg-type]
    manifest = build(config, tmp_path / "out", workers=1)
    assert verify(Manifest.load(tmp_path / "out"), workers=1) == []
    return {
        sample.image_id: sample
        for shard in manifest.shards
        for entry, members in read_tar(manifest.root / shard.name)
        for sample in [decode(entry.key, members)]
    }


def shifted(tmp_path: Path) -> tuple[str, str]:
    """Eight images with ids from 0, but files and features numbered from 1."""
    captions = write_captions(tmp_path / "set.json", {i: f"{i + 1}.tif" for i in range(8)})
    return captions, write_features(tmp_path, [str(i + 1) for i in range(8)])


def test_ids_that_disagree_with_file_names_are_refused(tmp_path: Path) -> None:
    captions, features = shifted(tmp_path)
    message = (
        r"set.json: image number 0: image 0 has no features by its id, but those of 1 by its file "
        r"name, 1.tif; state which is right with --pair-by id or --pair-by filename"
    )
    with pytest.raises(ShardError, match=message):
        build_all(tmp_path, captions, features)
    assert not (tmp_path / "out").exists()


def test_pairing_can_be_stated_and_is_the_first_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions, features = shifted(tmp_path)
    samples = build_all(tmp_path, captions, features, pair_by="filename")
    for image, sample in samples.items():
        assert (sample.regions == value_of(str(int(image) + 1))).all()
    assert capsys.readouterr().out.splitlines()[0] == (
        "paired by filename: image 0 (1.tif) with features 1, image 1 (2.tif) with features 2, "
        "image 2 (3.tif) with features 3"
    )


def test_pairing_by_id_can_be_stated_against_file_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions, features = shifted(tmp_path)
    samples = build_all(tmp_path, captions, features, pair_by="id", max_bad=1)
    assert sorted(samples, key=id_order) == list(range(1, 8))
    assert all((s.regions == value_of(str(image))).all() for image, s in samples.items())
    assert capsys.readouterr().out.startswith("paired by id: image 1 (2.tif) with features 1, ")


def test_number_inside_a_name_is_not_its_id(tmp_path: Path) -> None:
    names = ["airport_1", "beach_10", "beach_2"]
    features = write_features(tmp_path, names)
    ids: dict[ImageId, str] = {10: "airport_1.tif", 2: "beach_10.tif", 1: "beach_2.tif"}
    captions = write_captions(tmp_path / "set.json", ids)
    with pytest.raises(ShardError, match="but those of airport_1 by its file name"):
        build_all(tmp_path, captions, features)
    samples = build_all(tmp_path, captions, features, pair_by="filename")
    for image, sample in samples.items():
        assert (sample.regions == value_of(ids[image].removesuffix(".tif"))).all()


def test_number_after_a_common_prefix_is_the_id_unless_file_names_disagree() -> None:
    names = FeatureNames.of(["img_001", "img_002", "img_010"])
    images = [annotation(10, "a.jpg"), annotation(2, "img_002.jpg"), annotation(7, "b.jpg")]
    assert [image.feature_id for image in pair(images, names, None)] == ["img_010", "img_002", 7]
    with pytest.raises(ShardError, match="image 1 would get features img_001 by its id, but those"):
        pair([annotation(1, "img_002.jpg")], names, None)
    for others in (["img_1", "image_2"], ["img_1", 2], ["img_1"], ["img_1", "img_01"]):
        assert not FeatureNames.of(others).numbers


@pytest.mark.parametrize("by", [None, "id", "filename"])
def test_ids_can_be_any_text(by: str | None, tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "set.json", {name: f"{name}.jpg" for name in NAMES})
    samples = build_all(tmp_path, captions, write_features(tmp_path, list(NAMES)), pair_by=by)
    assert set(samples) == set(NAMES)
    for name, sample in samples.items():
        assert sample.captions == (f"{name}.jpg",)
        assert (sample.regions == value_of(str(name))).all()


def text_tsv(folder: Path) -> Path:
    (folder / "a.tsv").write_bytes(tsv_line(7, id=b"park/4.2") + tsv_line(9))
    return folder / "a.tsv"


def text_hdf5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "a.h5", "w") as file:
        file["park/4.2_features"], file["9_features"] = regions(7), regions(9)
    return folder / "a.h5"


def text_lmdb(folder: Path) -> Path:
    lmdb = pytest.importorskip("lmdb")
    value = io.BytesIO()
    np.save(value, regions(7))
    with lmdb.open(str(folder / "db")) as database, database.begin(write=True) as transaction:
        transaction.put(b"__len__", b"1")
        transaction.put(b"park/4.2", value.getvalue())
    return folder / "db"


def text_blocks(folder: Path) -> Path:
    boxes = np.zeros((1, len(regions(7)), 4))
    feat = regions(7)[None]
    np.savez(folder / "a.npz", imgid=["park/4.2"], feat=feat, scale=np.ones(5), boxes=boxes)
    return folder / "a.npz"


@pytest.mark.parametrize("write", [text_tsv, text_hdf5, text_lmdb, text_blocks])
def test_names_with_dots_and_slashes_are_ids_in_every_format(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    features = JoinedFeatures([write(tmp_path)])
    np.testing.assert_array_equal(features.read("park/4.2").regions, regions(7))
    assert features.bad == []
    assert set(features.image_ids) <= {"park/4.2", 9}


def test_images_without_any_features_say_what_both_sides_have(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "set.json", {5: "a.jpg"})
    message = "captions have image 5 with file a.jpg, .*features has features of image b; .*--pair"
    with pytest.raises(ShardError, match=message):
        build_all(tmp_path, captions, write_features(tmp_path, ["b"]), max_bad=9)


def test_repeated_ids_are_named_with_both_places_and_can_be_left_out(tmp_path: Path) -> None:
    first = write_captions(tmp_path / "a.json", {1: "1.jpg", 2: "2.jpg"})
    second = write_captions(tmp_path / "b.json", {3: "3.jpg", 2: "2.jpg"})
    features = write_features(tmp_path, ["1", "2", "3"])
    config = BuildConfig((first, second), features, concepts=0)
    message = (
        r"b.json: image number 1: image 2 \(2.jpg\) is also in .*a.json: image number 1, with file "
        r"2.jpg; 1 bad, of 4 annotated images; .*--max-bad 1"
    )
    with pytest.raises(ShardError, match=message):
        build(config, tmp_path / "out", workers=1)
    manifest = build(
        BuildConfig((first, second), features, concepts=0, max_bad=1), tmp_path / "out", workers=1
    )
    assert sum(shard.samples for shard in manifest.shards) == 3
    assert len(manifest.left_out) == 1


def test_two_images_cannot_have_the_same_features() -> None:
    images = [annotation(1, "a/x.jpg"), annotation(2, "b/x.jpg", "a.json: image number 1")]
    kept, bad = leave_out_repeated(pair(images, FeatureNames.of(["x"]), "filename"))
    assert [image.image_id for image in kept] == [1]
    assert bad == [
        "a.json: image number 1: image 2 (b/x.jpg) would get features x, as image 1 (a/x.jpg) of "
        "a.json: image number 0"
    ]


def test_prefix_keeps_equal_ids_of_two_sets_apart(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "set.json", {1: "1.jpg"})
    features = write_features(tmp_path, ["1"])
    (sample,) = build_all(tmp_path, captions, features, id_prefix="flickr8k/").values()
    assert (sample.image_id, sample.key) == ("flickr8k/1", "flickr8k%2F1")
    build(BuildConfig(captions, features, concepts=0), tmp_path / "first", workers=1)
    both = [Manifest.load(tmp_path / name) for name in ("first", "out")]
    assert set(references(merge_manifests(both), "train").ids.values()) == {1, "flickr8k/1"}
    with pytest.raises(ShardError, match=r"--id-prefix 'a\\n': expected text that can be printed"):
        build_all(tmp_path, captions, features, id_prefix="a\n")


def test_sizes_of_a_file_with_another_name_are_refused() -> None:
    images = pair([annotation(1, "2.jpg")], FeatureNames.of([1]), "id")
    listed = [Annotation(i, f"{i}.jpg", "", (), (), 10 * i, 5, position="b.json") for i in (1, 2)]
    with pytest.raises(ShardError, match=r"image 1 is 2.jpg, but 1.jpg in b.json; .* --pair-by id"):
        image_sizes(images, listed, None)
    assert image_sizes(images, listed, "id") == {1: (10, 5)}
    assert image_sizes(images, listed, "filename") == {1: (20, 5)}


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("000000000042", 42),
        ("COCO_val2014_000000000042.jpg", 42),
        ("42.PNG", 42),
        ("VizWiz_val_00000042", "VizWiz_val_00000042"),
        ("photo.v2", "photo.v2"),
        ("photo.v2.jpeg", "photo.v2"),
        ("1" * 19, "1" * 19),
        ("٤٢", "٤٢"),
        ("-1", "-1"),
    ],
)
def test_image_ids_in_names(name: str, image: ImageId) -> None:
    assert parse_image_id(name) == image


def test_keys_and_numbers_of_texts_are_unique_and_valid() -> None:
    texts = [*NAMES, "a.b", "a/b", "a%2Eb", "a%2Fb", "A.b", "x" * 200, "x" * 199, "1"]
    keys = [image_key(text) for text in texts]
    assert len(set(keys)) == len(texts)
    assert all(KEY_PATTERN.fullmatch(key) and len(key) <= 64 for key in keys)
    numbers = {image_number(text) for text in texts}
    assert len(numbers) == len(texts)
    assert all(-(2**63) <= number < -(2**62) for number in numbers)
    assert (image_key(42), image_number(42)) == ("000000000042", 42)


def test_entries_name_the_position_of_the_first() -> None:
    position: Callable[[int], str] = "line {}".format
    entries = Entries(position)
    for line, name in enumerate(("7", "a", "007", "")):
        entries.add(f"f: line {line}", name, line)
    assert entries.by_id == {7: 0, "a": 1}
    assert [line.partition(", ")[0] for line in entries.bad] == [
        "f: line 2: image 7 is also in line 0",
        "f: line 3: image id ''",
    ]
