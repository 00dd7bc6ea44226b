"""Images whose ids are texts: trained on, validated, scored, captioned and inspected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capdist.data.dataset import references
from shards.__main__ import main
from shards.image_ids import image_key
from shards.manifest import Manifest
from shards.schema import Sample
from shards.verify import verify
from shards.writer import write
from tests.support.processes import launch
from tests.support.runs import refused, train
from tests.support.shards import TinySource

MIL = {
    "objective": "mil",
    "epochs": 1,
    "batch": {"images": 16, "micro": 8},
    "optimizer": {"lr": 0.01},
    "words": 6,
    "kept": 4,
    "folds": 2,
    "hidden": 8,
}
SCST = {
    "objective": "scst",
    "epochs": 1,
    "batch": {"images": 16, "micro": 8},
    "optimizer": {"lr": 0.003},
    "samples": 2,
    "reward": {"actors": 0},
}


def text_id(number: int) -> str:
    return f"park/{number}.été"


class TextIds(TinySource):
    """The tiny images with texts as ids."""

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            image = text_id(int(sample.image_id))
            yield replace(sample, image_id=image, key=image_key(image))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write(TextIds(), tmp_path_factory.mktemp("texts"), samples_per_shard=8, workers=1)


@pytest.fixture(scope="module")
def text_run(
    texts: Manifest, tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run with a detector, cross entropy and rewards."""
    folder = tmp_path_factory.mktemp("run")
    settings = {
        **tiny_config,
        "run": str(folder / "run"),
        "data": {**tiny_config["data"], "shards": str(texts.root)},
        "stages": [MIL, {**tiny_config["stages"][0], "epochs": 1}, SCST],
        "decoding": {"max_words": 6},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    result = train(folder / "config.json")
    assert result.returncode == 0, result.stderr
    return folder / "run"


def ids(path: Path) -> list[str]:
    return [entry["image_id"] for entry in json.loads(path.read_text(encoding="utf-8"))]


def expected(first: int, count: int) -> list[str]:
    return sorted(text_id(number) for number in range(first, first + count))


def test_validation_and_evaluation_write_the_ids_of_the_set(
    text_run: Path, without_java: Path, tmp_path: Path
) -> None:
    for path in (text_run / "captions").glob("val-*.json"):
        assert ids(path) == expected(1000, 7)
    assert launch("evaluate.py", "--run", str(text_run), "--split", "val").returncode == 0
    assert ids(text_run / "captions/val-beam3.json") == expected(1000, 7)
    page = tmp_path / "page.md"
    result = launch("results.py", "--run", str(text_run), "--split", "val", "--out", str(page))
    assert result.returncode == 0, result.stderr
    assert "(image park/100" in page.read_text(encoding="utf-8")


def test_captions_have_the_ids_and_forced_words_find_them(
    text_run: Path, texts: Manifest, tmp_path: Path
) -> None:
    shards = shutil.copytree(texts.root, tmp_path / "shards")
    arguments = ["--run", str(text_run), "--shards", str(shards)]
    assert launch("concepts.py", *arguments).returncode == 0
    (tmp_path / "forced.json").write_text(json.dumps({text_id(2001): [["balls"]]}))
    out = tmp_path / "c.json"
    forced = ["--forced", str(tmp_path / "forced.json")]
    result = launch("caption.py", *arguments, *forced, "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert ids(out) == expected(2000, 5)
    captions = {e["image_id"]: e["caption"] for e in json.loads(out.read_text(encoding="utf-8"))}
    assert "balls" in captions[text_id(2001)].split()
    line = refused(
        launch("caption.py", "--submission", "x", "--results", str(out), str(out), "--out", "z")
    )
    assert "'park/2000.été', expected an integer: the COCO server accepts no other ids" in line


def test_shards_with_texts_as_ids_verify_and_can_be_inspected(
    texts: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(texts, workers=1) == []
    for name in (text_id(2000), image_key(text_id(2000))):
        assert main(["inspect", str(texts.root), "--key", name]) == 0
        assert "image park/2000.été, 64 × 48, split test" in capsys.readouterr().out
    assert set(references(texts, "test").ids.values()) == set(expected(2000, 5))
