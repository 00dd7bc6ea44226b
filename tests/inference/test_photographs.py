"""A run captions photographs with the extractor that made its training features."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import capdist
from capdist.commands.main import main
from capdist.config.base import ConfigError
from capdist.inference.captioner import Captioner
from shards.__main__ import main as shards_main
from shards.manifest import Manifest
from shards.pictures import PictureError
from tests.support.photographs import IDS, QUARTERS, photograph_shards, untrained_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, shards of them in ``shards``, and a GLIED, which reads concepts, in ``run``."""
    root = tmp_path_factory.mktemp("photographs")
    untrained_run(photograph_shards(root), root / "run")
    return root


def photographs(folder: Path) -> list[Path]:
    return [folder / "photographs" / f"{image}.png" for image in IDS]


def test_capdist_and_the_names_of_backbones_are_found_without_torch() -> None:
    code = "import sys, capdist, shards.extractors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_photographs_get_the_captions_of_their_feature_files(folder: Path, tmp_path: Path) -> None:
    extract = ["extract", "--images", str(folder / "photographs"), "--backbone", QUARTERS]
    assert shards_main([*extract, "--out", str(tmp_path / "features")]) == 0
    expected = Captioner.open([folder / "run"]).of_features(str(tmp_path / "features"))
    found = capdist.load(folder / "run")(photographs(folder))
    for image, one in zip(IDS, found, strict=True):
        best, *others = expected[image]
        assert one.words == tuple(best.words)
        assert one.caption == " ".join(best.words)
        assert one.score == pytest.approx(best.score, abs=1e-4)
        assert [a.caption for a in one.alternatives] == [" ".join(o.words) for o in others]


def test_a_caption_says_what_its_words_attended_to(folder: Path) -> None:
    found = capdist.load(str(folder / "run"), beam=2)(photographs(folder)[0])
    assert len(found.alternatives) == 1
    assert found.attention.shape == (len(found.words), 4)
    np.testing.assert_allclose(found.attention.sum(1), 1, atol=1e-5)
    assert found.boxes.tolist()[-1] == [0.5, 0.5, 1, 1]
    np.testing.assert_array_equal(found.maps["regions/local"], found.attention)
    assert found.maps["concepts/local"].shape == (len(found.words), len(found.concepts))
    np.testing.assert_allclose(found.maps["concepts/local"].sum(1), 1, atol=1e-5)


def test_a_path_a_text_and_a_picture_are_the_same_photograph(folder: Path) -> None:
    captioner, path = capdist.load(folder / "run"), photographs(folder)[2]
    with Image.open(path) as picture:
        scores = [captioner(given).score for given in (path, str(path), picture)]
    assert len(set(scores)) == 1
    assert [one.score for one in captioner([path, path])] == pytest.approx(scores[:1] * 2)
    assert captioner([]) == []


def test_forced_words_are_in_the_captions(folder: Path) -> None:
    captioner = capdist.load(folder / "run")
    for one in captioner(photographs(folder), forced=[["dog"], ["two", "cat"]]):
        assert "dog" in one.words
        assert {"two", "cat"} & set(one.words)
    with pytest.raises(ConfigError, match="'unicorn' is not in the vocabulary"):
        captioner(photographs(folder)[0], forced=[["unicorn"]])


def test_a_file_that_is_no_picture_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("no picture")
    with pytest.raises(PictureError, match=r"photo\.jpg: damaged, or not a picture"):
        capdist.load(folder / "run")([photographs(folder)[0], tmp_path / "photo.jpg"])
    with pytest.raises(PictureError, match="picture in memory: samples of mode F"):
        capdist.load(folder / "run")(Image.new("F", (8, 8)))


def test_a_run_whose_extractor_is_unknown_is_refused(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(folder / "shards")
    unknown = replace(manifest, features=replace(manifest.features, extractor=None))
    run = untrained_run(unknown, tmp_path / "run", {"name": "lstm", "width": 8})
    with pytest.raises(ConfigError, match="trained on features of an unknown extractor; build its"):
        capdist.load(run)


def test_the_command_needs_only_the_run_and_the_photographs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in photographs(folder)[:2]]
    expected = capdist.load(folder / "run")(paths)
    command = ["caption", "--run", str(folder / "run"), "--image", *paths]
    assert main(command) == 0
    lines = [f"{path}: {one.caption}" for path, one in zip(paths, expected, strict=True)]
    assert capsys.readouterr().out.splitlines() == lines
    words = tmp_path / "forced.json"
    words.write_text(json.dumps({paths[1]: [["dog"]]}))
    assert main([*command, "--n-best", "2", "--forced", str(words)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{lines[0]} ({expected[0].score:.2f})"
    assert [line.rpartition(": ")[0] for line in printed] == [paths[0]] * 2 + [paths[1]] * 2
    assert all("dog" in line.split() for line in printed[2:])
    assert main([*command, "--out", str(tmp_path / "c.json")]) == 0
    written = json.loads((tmp_path / "c.json").read_text())
    assert {entry["image_id"]: entry["caption"] for entry in written} == {
        path: one.caption for path, one in zip(paths, expected, strict=True)
    }


def test_bad_photographs_are_left_out_only_if_they_are_allowed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    paths = [str(tmp_path / "bad.jpg"), str(photographs(folder)[0])]
    command = ["caption", "--run", str(folder / "run"), "--image", *paths]
    assert main(command) == 2
    assert "1 bad, of 2 pictures; correct them" in capsys.readouterr().err
    assert main([*command, "--max-bad", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"bad: {paths[0]}: damaged")
    assert [line.partition(":")[0] for line in printed[1:]] == paths[1:]
    assert (
        main(["caption", "--run", str(folder / "run"), "--image", paths[0], "--max-bad", "1"]) == 2
    )
    assert "or convert it to JPEG or PNG; no picture is left\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "x.jpg", "--features", "f"], "give --run, and one of --image, --shards and"),
        (["--shards", "x"], "no file to write; give --out FILE"),
        (["--features", "f", "--html", "x.html"], "--html: not used without --image, whose"),
        (["--image", "PHOTO", "--forced", "FORCED"], "other.jpg is not captioned here; remove it"),
    ],
)
def test_commands_that_do_not_fit_are_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    forced = tmp_path / "forced.json"
    forced.write_text(json.dumps({"other.jpg": [["dog"]]}))
    places = {"FORCED": str(forced), "PHOTO": str(photographs(folder)[0])}
    given = [places.get(word, word) for word in arguments]
    out = ["--out", str(tmp_path / "c.json")] if "--features" in given else []
    assert main(["caption", "--run", str(folder / "run"), *given, *out]) == 2
    assert message in capsys.readouterr().err
