"""Captions of other languages: validation and final scores agree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from capdist.commands.main import main
from capdist.config.base import ConfigError
from capdist.config.run_config import parse_config
from capdist.data.mixture import merge_manifests
from capdist.inference.evaluation import Evaluation, EvaluationRequest
from capdist.inference.exported_model import read_run
from capdist.training.run import train
from shards.manifest import Manifest
from shards.schema import Sample, ShardError
from shards.tokenisers import CaptionText
from shards.writer import write
from tests.support.runs import records
from tests.support.shards import WORDS, TinySource

CHINESE = dict(zip(WORDS, "一红蓝狗猫跑坐近两球", strict=True))
TEXT = CaptionText("characters", "zh")


@dataclass(frozen=True)
class ChineseSource(TinySource):
    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            tokens = tuple(tuple(CHINESE[word] for word in words) for words in sample.tokens)
            texts = tuple("".join(words) + "。" for words in tokens)
            yield replace(sample, captions=texts, tokens=tokens)


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root: Path = tmp_path_factory.mktemp("chinese")
    return write(ChineseSource(), root, samples_per_shard=8, workers=1, text=TEXT)


@pytest.fixture(scope="module")
def run(
    chinese: Manifest, tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder: Path = tmp_path_factory.mktemp("run")
    data = {**tiny_config["data"], "shards": str(chinese.root)}
    stage = {**tiny_config["stages"][0], "epochs": 12}
    config = {**tiny_config, "data": data, "run": str(folder), "stages": [stage]}
    config = parse_config(config, "x.json")
    assert train(config, "x.json", resume=False)
    return folder


def test_validation_and_final_scores_agree(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--run", str(run), "--split", "val", "--beam", "1"]) == 0
    said = capsys.readouterr().out
    assert "METEOR is absent: pycocoevalcap has its data for one language, 'en', but the" in said
    assert "% are empty" in said
    assert "references through the characters tokeniser" in said
    model, constant = json.loads((run / "scores.json").read_text()).values()
    best = max(record["val_cider"] for record in records(run) if "val_cider" in record)
    assert model["values"]["CIDEr"] == pytest.approx(best, abs=1e-9)
    assert 0 < constant["values"]["CIDEr"] < 1000
    assert set(model["absent"]) == {"METEOR", "SPICE"}


def test_captions_are_written_without_spaces(run: Path, chinese: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "captions.json"
    options = ["--run", str(run), "--shards", str(chinese.root), "--out", str(out)]
    assert main(["caption", *options, "--split", "test", "--n-best", "2"]) == 0
    n_best = [entry["n_best"] for entry in json.loads(out.read_text())]
    written = [json.loads(path.read_text()) for path in (run / "captions").glob("*.json")]
    texts = [entry["caption"] for entries in (*n_best, *written) for entry in entries]
    assert max(map(len, texts)) > 1
    assert set("".join(texts)) <= set(CHINESE.values())


def test_other_tokenisers_and_english_grounding_are_refused(
    run: Path, chinese: Manifest, tiny: Manifest
) -> None:
    exported = read_run(run)
    with pytest.raises(ConfigError, match="captions of tokeniser 'ptb-like', but the model was tr"):
        Evaluation.open(EvaluationRequest(run, "test", shards=str(tiny.root)), exported)
    with pytest.raises(ShardError, match=r"compare English lemmas, but .* language is 'zh'; omit"):
        Evaluation.open(EvaluationRequest(run, "test", grounding=True), exported)
    with pytest.raises(ShardError, match="captions of tokeniser characters, expected ptb-like as"):
        merge_manifests([tiny, chinese])
