"""Comparing two captioners on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from capdist.commands.main import main
from capdist.data.dataset import references
from shards.manifest import Manifest


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
        (["RUN", "A"], "RUN/config.json: no such file"),
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
