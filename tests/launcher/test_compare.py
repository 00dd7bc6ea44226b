"""Comparing two captioners on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capdist.commands.main import main
from capdist.data.dataset import references
from capdist.metrics.per_image import Difference
from shards.manifest import Manifest
from shards.writer import write
from tests.support.reports import GLIED, evaluated_run
from tests.support.shards import TinySource


@pytest.fixture
def files(tiny: Manifest, tmp_path: Path) -> tuple[Path, Path]:
    """Results that say the same word about all images of val, and those that repeat a reference."""
    refs = references(tiny, "val")
    made = {"a": dict.fromkeys(refs.raw, "dog"), "b": {n: refs.raw[n][0] for n in refs.raw}}
    for name, captions in made.items():
        entries = [{"image_id": refs.ids[n], "caption": text} for n, text in captions.items()]
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    return tmp_path / "a.json", tmp_path / "b.json"


def test_the_better_captioner_is_ahead(
    files: tuple[Path, Path], tiny: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = map(str, files)
    shards = ["--split", "val", "--shards", str(tiny.root), "--resamples", "200"]
    assert main(["compare", a, b, *shards]) == 0
    printed = capsys.readouterr().out
    assert "CIDEr: B is ahead" in printed
    assert main(["compare", b, a, *shards]) == 0
    assert "CIDEr: A is ahead" in capsys.readouterr().out
    assert main(["compare", a, a, *shards]) == 0
    assert "CIDEr: no difference is shown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A", "B"], "no references for two files of captions; give --shards DIR"),
        (["A", "A", "--split", "train", "--shards", "SHARDS"], "images without a caption: "),
        (["RUN", "A"], "RUN: no run folder, because it has no config.json; of an ensemble, give"),
    ],
)
def test_what_can_not_be_compared_is_refused(
    arguments: list[str],
    message: str,
    files: tuple[Path, Path],
    tiny: Manifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "run").mkdir()
    a, b = files
    paths = {"A": a, "B": b, "SHARDS": tiny.root, "RUN": tmp_path / "run"}
    assert main(["compare", *(str(paths.get(word, word)) for word in arguments)]) == 2
    assert message.replace("RUN", str(tmp_path / "run")) in capsys.readouterr().err


def evaluated(folder: Path, config: dict[str, Any], shards: Manifest) -> Path:
    """A run folder with captions of val, as `capdist evaluate` leaves it."""
    (folder / "captions").mkdir(parents=True)
    data = {**config["data"], "shards": str(shards.root)}
    written = {**config, "run": str(folder), "data": data}
    (folder / "config.json").write_text(json.dumps(written))
    splits = {"val": shards.split_digest("val")}
    (folder / "versions.json").write_text(json.dumps({"shards": {"splits": splits}}))
    ids = references(shards, "val").ids.values()
    entries = [{"image_id": image, "caption": "dog"} for image in ids]
    (folder / "captions" / "val-beam3.json").write_text(json.dumps(entries))
    return folder


def test_runs_of_other_images_are_refused(
    tiny: Manifest,
    grounded: Manifest,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    others = TinySource(sizes=(("train", 53), ("val", 6), ("test", 5)))
    fewer = write(others, tmp_path / "fewer", samples_per_shard=8, workers=1)
    first, same, other = (
        evaluated(tmp_path / f"run {number}", tiny_config, shards)
        for number, shards in enumerate((tiny, grounded, fewer))
    )
    assert main(["compare", str(first), str(same), "--split", "val"]) == 0
    assert "no difference is shown" in capsys.readouterr().out
    assert main(["compare", str(first), str(other), "--split", "val"]) == 2
    expected = f"{other}: split val of its shards {fewer.location} has other images or captions"
    assert expected in capsys.readouterr().err


def test_captions_of_other_weights_than_the_best_are_refused(
    tiny: Manifest, without_java: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = evaluated_run(tmp_path / "run", tiny, GLIED)
    assert main(["compare", str(run), str(run)]) == 0
    weights = run / "checkpoints/step-00000010/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    line = f"{run}/scores/test-beam3.json: of other weights than the run's best, {weights.parent}"
    capsys.readouterr()
    page = ["--out", str(tmp_path / "page.md")]
    for command in ["compare", str(run), str(run)], ["results", "--run", str(run), *page]:
        assert main(command) == 2
        assert line in capsys.readouterr().err
    assert main(["export", "--run", str(run), "--out", str(tmp_path / "out")]) == 0
    assert f"the card leaves out {line}" in capsys.readouterr().out
    assert "Not evaluated" in (tmp_path / "out/MODEL_CARD.md").read_text()


def test_a_difference_that_is_printed_as_zero_puts_none_ahead() -> None:
    assert not Difference(a=0.01, b=0.04, low=0.02, high=0.05).excludes_zero
    assert Difference(a=0.01, b=0.07, low=0.02, high=0.09).excludes_zero
