import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.build import BuildConfig, build
from shards.formats.karpathy import Karpathy
from shards.formats.npz_blocks import NpzBlocks
from shards.joined_features import JoinedFeatures
from shards.manifest import Manifest
from shards.schema import Sample, ShardError, decode
from shards.tar import read_tar
from tests.support.samples import FLICKR8K, needs_flickr8k

WORDS = ("dog", "cat", "ball", "street", "child")


def image(number: int, split: str, **more: Any) -> dict[str, Any]:
    tokens = ["a", WORDS[number % 5], "runs"]
    sentence = {"raw": f"A {WORDS[number % 5]} runs .", "tokens": tokens}
    return {
        "filename": f"{number}.jpg",
        "imgid": number,
        "split": split,
        "sentences": [sentence],
    } | more


SPLITS = ("train", "train", "restval", "train", "val", "test")


def write_annotations(folder: Path, images: list[dict[str, Any]] | None = None) -> Path:
    path = folder / "set.json"
    images = images or [image(n, SPLITS[n % 6]) for n in range(30)]
    path.write_text(json.dumps({"images": images}))
    return path


def block(ids: range, regions: int = 4, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(ids.start)
    return {
        "imgid": np.array(ids, np.int32),
        "feat": rng.integers(-127, 128, (len(ids), regions, 3)).astype(np.int8),
        "scale": np.array([0.5, 0.25, 2.0], np.float32),
        "class_id": rng.integers(0, 1000, (len(ids), regions, 2)).astype(np.int16),
        "class_prob": rng.integers(0, 256, (len(ids), regions, 2)).astype(np.uint8),
    } | more


def write_blocks(folder: Path, **more: Any) -> str:
    np.savez(folder / "features_0.npz", **block(range(17), **more))
    np.savez(folder / "features_1.npz", **block(range(17, 30), **more))
    return str(folder / "features_*.npz")


def read_all(manifest: Manifest) -> dict[int, Sample]:
    samples = [
        decode(entry.key, members)
        for shard in manifest.shards
        for entry, members in read_tar(manifest.root / shard.name)
    ]
    return {sample.image_id: sample for sample in samples}


def test_samples_have_what_the_files_have(tmp_path: Path) -> None:
    config = BuildConfig(
        str(write_annotations(tmp_path)), write_blocks(tmp_path), "net", concepts=0
    )
    manifest = build(config, tmp_path / "out", samples_per_shard=8, workers=1)
    assert [(s.name, s.samples) for s in manifest.shards] == [
        ("train-00000.tar", 8),
        ("train-00001.tar", 8),
        ("train-00002.tar", 4),
        ("val-00000.tar", 5),
        ("test-00000.tar", 5),
    ]
    assert (manifest.name, manifest.features.name, manifest.features.dim) == ("set", "net", 3)
    samples = read_all(manifest)
    assert len(samples) == 30
    for number, sample in samples.items():
        row, source = (
            (number, block(range(17))) if number < 17 else (number - 17, block(range(17, 30)))
        )
        expected = source["feat"][row].astype(np.float64) * source["scale"]
        np.testing.assert_allclose(sample.regions, expected, rtol=1e-3)
        assert sample.classes is not None
        np.testing.assert_array_equal(sample.classes["id"], source["class_id"][row])
        np.testing.assert_allclose(
            sample.classes["prob"], source["class_prob"][row] / 255, atol=1e-3
        )
        assert (sample.key, sample.width, sample.concepts) == (f"{number:012d}", 0, None)
        assert sample.tokens == (("a", WORDS[number % 5], "runs"),)
    assert samples[2].split == "train"
    grid = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    np.testing.assert_array_equal(samples[0].boxes, np.array(grid, np.float32))


def test_cocoid_is_preferred_to_imgid(tmp_path: Path) -> None:
    path = write_annotations(tmp_path, [image(5, "train", cocoid=391895)])
    assert Karpathy(path).annotations()[0].image_id == 391895


def test_boxes_of_a_block_are_used(tmp_path: Path) -> None:
    boxes = np.random.default_rng(0).random((13, 5, 4)).astype(np.float32)
    path = tmp_path / "features.npz"
    np.savez(path, **block(range(13), regions=5, boxes=boxes))
    np.testing.assert_array_equal(NpzBlocks(path).read(6).boxes, boxes[6])


def test_regions_need_boxes_or_a_square_grid(tmp_path: Path) -> None:
    np.savez(tmp_path / "features.npz", **block(range(3), regions=5))
    with pytest.raises(ShardError, match="no array 'boxes', and 5 regions are not a square"):
        NpzBlocks(tmp_path / "features.npz").read(0)


def test_images_without_features_are_refused(tmp_path: Path) -> None:
    images = [image(n, "train") for n in (3, 31, 4, 99)]
    config = BuildConfig(
        str(write_annotations(tmp_path, images)), write_blocks(tmp_path), concepts=0
    )
    with pytest.raises(ShardError, match=r"no features for image 31 \(31.jpg\); 2 bad, of 4 "):
        build(config, tmp_path / "out", workers=1)


def test_image_in_two_blocks_is_bad(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **block(range(4)))
    np.savez(tmp_path / "b.npz", **block(range(3, 6), imgid=np.array([3, 5, 5])))
    features = JoinedFeatures([tmp_path / "a.npz", tmp_path / "b.npz"])
    assert [line.partition("b.npz: ")[2].partition(" /")[0] for line in features.bad] == [
        "row 2: image 5 is also in row 1",
        "image 3 is also in",
    ]


def test_blocks_of_different_width_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **block(range(4)))
    wide = {"feat": np.zeros((2, 4, 5), np.int8), "scale": np.ones(5, np.float32)}
    np.savez(tmp_path / "b.npz", **block(range(7, 9), **wide))
    with pytest.raises(ShardError, match=r"b.npz: features of width 5, but .*a.npz has width 3"):
        JoinedFeatures([tmp_path / "a.npz", tmp_path / "b.npz"])


def test_inconsistent_shapes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **block(range(4), imgid=np.arange(5)))
    with pytest.raises(ShardError, match=r"a.npz: feat is \(4, 4, 3\), expected \(5 images"):
        NpzBlocks(tmp_path / "a.npz").read(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("filename"), r"set.json: image number 1: field 'filename' is missing"),
        (lambda i: i.pop("split"), r"image 1.jpg: field 'split' is missing, expected type str"),
        (lambda i: i.update(split="dev"), r"image 1.jpg: split 'dev', expected one of train, rest"),
        (lambda i: i.update(imgid=7.5), r"image 1.jpg: field 'imgid' is 7.5, expected an image id"),
        (lambda i: i["sentences"][0].pop("raw"), r"image 1.jpg: field 'raw' is missing"),
        (lambda i: i["sentences"][0].update(tokens=[]), r"image 1 \(1.jpg\): no captions"),
        (lambda i: i["sentences"][0].update(tokens=["a", ""]), r"image 1.jpg: tokens \['a', ''\]"),
        (lambda i: i.update(sentences=[]), r"image 1 \(1.jpg\): no captions"),
        (
            lambda i: i.update(imgid=0, filename="0.jpg"),
            r"number 1: image 0 \(0.jpg\) is also in .*number 0, with file 0.jpg; 1 bad, of 2",
        ),
    ],
)
def test_invalid_annotation_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    images = [image(0, "train"), image(1, "train")]
    change(images[1])
    config = BuildConfig(
        str(write_annotations(tmp_path, images)), write_blocks(tmp_path), concepts=0
    )
    with pytest.raises(ShardError, match=message):
        build(config, tmp_path / "out", workers=1)


def test_concepts_of_an_image_do_not_depend_on_its_captions(tmp_path: Path) -> None:
    features = write_blocks(tmp_path)
    images = [image(n, "train" if n < 25 else "val") for n in range(30)]
    # Different counts for all words, so that the changed caption does not change their order.
    for n, word in ((0, "dog"), (5, "dog"), (1, "dog"), (6, "cat")):
        images[n]["sentences"] = image(WORDS.index(word), "train")["sentences"] * 3
    config = BuildConfig(
        str(write_annotations(tmp_path, images)), features, concepts=6, concepts_kept=6
    )
    before = read_all(build(config, tmp_path / "before", workers=1))
    images[7]["sentences"] = image(WORDS.index("dog"), "train")["sentences"]
    write_annotations(tmp_path, images)
    after = read_all(build(config, tmp_path / "after", workers=1))
    assert before[7].concepts is not None
    assert before[7].captions != after[7].captions
    assert dict(before[7].concepts) == dict(after[7].concepts or ())
    assert any(before[n].concepts != after[n].concepts for n in before)


def test_concepts_have_descending_scores(tmp_path: Path) -> None:
    config = BuildConfig(
        str(write_annotations(tmp_path)), write_blocks(tmp_path), concepts=6, concepts_kept=4
    )
    for sample in read_all(build(config, tmp_path / "out", workers=1)).values():
        scores = [score for _, score in sample.concepts or ()]
        assert len(scores) == 4
        assert scores == sorted(scores, reverse=True)


def test_unknown_formats_and_missing_files_are_refused(tmp_path: Path) -> None:
    annotations, features = str(write_annotations(tmp_path)), write_blocks(tmp_path)
    with pytest.raises(ShardError, match=r"nothing_\*: no such file"):
        build(BuildConfig(annotations, "nothing_*"), tmp_path / "out")
    with pytest.raises(ShardError, match=r"set.json: unknown format, expected .*npz_blocks"):
        build(BuildConfig(annotations, annotations), tmp_path / "out")
    with pytest.raises(ShardError, match=r"features_0.npz: unknown format, .*karpathy"):
        build(BuildConfig(features, features), tmp_path / "out")


def test_build_with_changed_features_is_refused(tmp_path: Path) -> None:
    config = BuildConfig(str(write_annotations(tmp_path)), write_blocks(tmp_path), concepts=0)
    build(config, tmp_path / "out", workers=1)
    write_blocks(tmp_path, scale=np.ones(3, np.float32))
    with pytest.raises(ShardError, match=r"build of other input \(different: fingerprint\)"):
        build(config, tmp_path / "out", workers=1)


@needs_flickr8k
def test_flickr8k_captions_have_features() -> None:
    images = Karpathy(Path(FLICKR8K) / "dataset_flickr8k.json").annotations()
    features = JoinedFeatures(sorted(Path(FLICKR8K).glob("features_*.npz")))
    counts = {name: sum(i.split == name for i in images) for name in ("train", "val", "test")}
    assert counts == {"train": 6000, "val": 1000, "test": 1000}
    assert all(i.image_id in features for i in images)
    assert features.read(images[0].image_id).regions.shape == (49, 256)
