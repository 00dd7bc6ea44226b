"""Bad images, features of two extractors, and int8 storage."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from shards.build import BuildConfig, build
from shards.fingerprint import UNKNOWN, Fingerprint, Moments
from shards.manifest import MANIFEST, Manifest
from shards.schema import Array, ShardError
from shards.storage import int8_scale, quantization_error, quantize_int8
from shards.verify import verify
from tests.support.format_files import coco_captions, tsv_line
from tests.support.format_files import regions as regions_of

IDS = range(1, 9)


def features(image_id: int, seed: int = 0, width: int = 16) -> Array:
    """Features of an extractor, whose seed determines mean and deviation of each dimension."""
    extractor, image = np.random.default_rng([seed]), np.random.default_rng([1, image_id])
    mean, deviation = extractor.gamma(1, 1, width), extractor.gamma(2, 1, width)
    return (mean + deviation * image.normal(size=(3, width))).astype(np.float32)


def write_folder(folder: Path, ids: range, seed: int = 0) -> str:
    folder.mkdir()
    for image_id in ids:
        np.savez(folder / f"{image_id}.npz", feat=features(image_id, seed))
    return str(folder)


def write_tsv(folder: Path) -> tuple[str, str]:
    """Captions and features of 8 images, of which 2, 5 and 7 are bad in different ways."""
    nan = np.full_like(regions_of(2), np.nan).tobytes()
    changed = {
        2: {"features": base64.b64encode(nan)},
        5: {"boxes": b"?"},
        7: {"h": b"10"},
    }
    path = folder / "a.tsv"
    path.write_bytes(b"".join(tsv_line(i, **changed.get(i, {})) for i in IDS))
    return str(coco_captions(folder, ids=IDS)[0]), str(path)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_images_are_named_and_counted(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    captions, tsv = write_tsv(tmp_path)
    for max_bad in (0, 2):
        with pytest.raises(ShardError) as refused:
            build(
                BuildConfig(captions, tsv, concepts=0, max_bad=max_bad),
                tmp_path / "out",
                workers=workers,
            )
        assert "line 2 (byte" in str(refused.value)
        assert "image 2 (2.jpg): regions have values that are not finite" in str(refused.value)
        assert str(refused.value).endswith(
            "3 bad, of 8 annotated images; correct them, or leave them out with --max-bad 3"
        )
        bad_lines = [
            line for line in capsys.readouterr().out.splitlines() if line.startswith("bad: ")
        ]
        assert [re.findall(r"line (\d)", line) for line in bad_lines] == [["2"], ["5"], ["7"]]
    assert not (tmp_path / "out").exists()


def test_bad_images_can_be_left_out(tmp_path: Path) -> None:
    captions, tsv = write_tsv(tmp_path)
    config = BuildConfig(captions, tsv, concepts=0, max_bad=4)
    manifest = build(config, tmp_path / "out", samples_per_shard=2, workers=1)
    assert [shard.samples for shard in manifest.shards] == [2, 2, 1]
    assert len(manifest.left_out) == 3
    assert "image 5: boxes are not base64" in manifest.left_out[1]
    assert Manifest.load(tmp_path / "out") == manifest


def test_images_without_features_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions, _ = coco_captions(tmp_path, ids=range(1, 11))
    folder = write_folder(tmp_path / "a", IDS)
    config = BuildConfig(str(captions), folder, concepts=0, max_bad=2)
    manifest = build(config, tmp_path / "out", workers=1)
    assert [line[:4] for line in capsys.readouterr().out.splitlines()[2:]] == ["bad:", "bad:"]
    assert manifest.left_out == tuple(f"no features for image {i} ({i}.jpg)" for i in (9, 10))


def test_image_of_another_width_is_bad(tmp_path: Path) -> None:
    captions, _ = coco_captions(tmp_path, ids=IDS)
    folder = write_folder(tmp_path / "a", IDS)
    np.savez(tmp_path / "a/3.npz", feat=np.ones((2, 5), np.float32))
    with pytest.raises(ShardError, match=r"image 3 \(3.jpg\): regions of shape \(2, 5\), expected"):
        build(BuildConfig(str(captions), folder, concepts=0), tmp_path / "out", workers=1)


def test_features_of_two_extractors_are_refused(tmp_path: Path) -> None:
    captions, _ = coco_captions(tmp_path, ids=range(80))
    first = write_folder(tmp_path / "a", range(40))
    for seed, name in ((0, "b"), (1, "c")):
        second = write_folder(tmp_path / name, range(40, 80), seed)
        config = BuildConfig(str(captions), (first, second), concepts=0)
        if seed:
            with pytest.raises(ShardError, match=r"c: features are distributed differently .*/a;"):
                build(config, tmp_path / "other", workers=1)
        else:
            build(config, tmp_path / "same", workers=1)


def fingerprint(images: range, seed: int = 0) -> Fingerprint:
    return Moments.total([Moments.of(features(i, seed, 100)) for i in images]).fingerprint()


def test_fingerprint_and_distance_by_hand() -> None:
    moments = Moments.of(np.array([[1.0, 5], [3, 5]])) + Moments.of(np.array([[2.0, 5], [2, 5]]))
    assert moments.fingerprint() == Fingerprint(2, (2.0, 5.0), (0.70711, 0.0))
    other = Fingerprint(2, (3.0, 5.0), (0.70711, 0.0))
    assert moments.fingerprint().distance(other) == pytest.approx(2.0, rel=1e-4)
    constant = Fingerprint(9, (1.0,), (0.0,))
    assert constant.distance(constant) == 0
    assert constant.distance(Fingerprint(9, (2.0,), (0.0,))) == float("inf")


def test_fingerprints_distinguish_extractors_but_not_images() -> None:
    trained = fingerprint(range(200))
    assert len(trained.mean) == 64
    for images in (range(200, 400), range(200, 210), range(200, 201)):
        assert trained.difference(fingerprint(images)) == ""
    for seed in (1, 2, 3):
        assert "distributed differently" in trained.difference(fingerprint(range(200, 240), seed))
    assert trained.difference(UNKNOWN) == ""


def test_int8_rounds_to_the_nearest_step_of_each_dimension() -> None:
    regions = np.array([[127.0, 0, -2.54], [63.4, 0, 0.011]], np.float32)
    scale = int8_scale(np.abs(regions).max(axis=0))
    assert scale == pytest.approx((1.0, 0.0, 0.02))
    assert quantize_int8(regions, scale).tolist() == [[127, 0, -127], [63, 0, 1]]


def test_quantization_error_by_hand() -> None:
    regions = np.array([[3.0, 1.0], [4.0, 1.25]])
    # Steps of 1 and 0.5: the errors are 0, 0 and 0, 0.25 (1.25 is half way, and rounds to 1).
    error = quantization_error([regions], (1.0, 0.5))
    total, worst = 0.25 / np.sqrt(9 + 16 + 1 + 1.5625), 0.25 / np.sqrt(2.5625)
    assert error == f"relative RMS error {total:.2%}, of the worst dimension (1) {worst:.2%}"


def test_verify_checks_the_dtype_of_int8_shards(tmp_path: Path) -> None:
    captions, _ = coco_captions(tmp_path, ids=IDS)
    folder = write_folder(tmp_path / "a", IDS)
    config = BuildConfig(str(captions), folder, concepts=0, storage="int8")
    manifest = build(config, tmp_path / "out", workers=1)
    assert verify(manifest) == []
    path = tmp_path / "out" / MANIFEST
    data = json.loads(path.read_text())
    data["features"]["scale"] = []
    path.write_text(json.dumps(data))
    problems = verify(Manifest.load(tmp_path / "out"))
    assert "regions are int8, but the manifest says float16" in problems[0]
