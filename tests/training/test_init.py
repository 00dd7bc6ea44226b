"""Runs that begin from another run's weights and words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from capdist.config.base import ConfigError
from capdist.config.run_config import load_config
from capdist.config.stage import InitConfig
from capdist.inference.exported_model import ExportedModel, read_run
from capdist.inference.run_folder import find_checkpoint
from capdist.models.base import build, registered
from capdist.training.initial import InitialModel
from capdist.training.run import train
from capdist.vocab import SPECIALS, Vocabulary
from shards.feature_spec import FeatureSpec
from shards.manifest import Manifest
from shards.schema import Sample
from shards.tokenisers import ENGLISH_TEXT
from shards.writer import write
from tests.support.models import DIMS, make_batch, small
from tests.support.runs import records
from tests.support.shards import WORDS, TinySource

#: A learning rate that changes no weight.
STILL = ["stages.0.optimizer.lr=1e-30"]


class NewWords(TinySource):
    """The tiny images; every caption ends with a word that the others do not have."""

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            tokens = tuple((*caption, "zebra") for caption in sample.tokens)
            yield replace(sample, tokens=tokens)


@pytest.fixture(scope="module")
def source(tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("source")
    return run(folder, {**tiny_config, "run": str(folder / "run")}, ["stages.0.epochs=1"])


@pytest.fixture(scope="module")
def new_words(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write(NewWords(), tmp_path_factory.mktemp("words"), samples_per_shard=8, workers=1)


def run(
    folder: Path, settings: dict[str, Any], overrides: Sequence[str], *, resume: bool = False
) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(settings))
    assert train(load_config(path, overrides), str(path), resume=resume)
    return Path(settings["run"])


@pytest.fixture
def settings(
    tiny_config: dict[str, Any], source: Path, new_words: Manifest, tmp_path: Path
) -> dict[str, Any]:
    """A run on captions with a new word that begins from ``source``."""
    stage = {**tiny_config["stages"][0], "init": {"run": str(source)}}
    data = {**tiny_config["data"], "shards": str(new_words.root)}
    return {**tiny_config, "data": data, "stages": [stage], "run": str(tmp_path / "run")}


def weights(folder: Path) -> dict[str, Tensor]:
    return read_run(folder, "last").model.state_dict()


def test_new_words_come_after_those_of_the_other_run(
    settings: dict[str, Any], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path, settings, STILL)
    before, after = read_run(source), read_run(found)
    assert after.vocab.words == (*before.vocab.words, "zebra")
    known, size = before.model.state_dict(), len(before.vocab)
    grown = {name for name, tensor in weights(found).items() if tensor.shape != known[name].shape}
    assert grown
    for name, tensor in weights(found).items():
        assert torch.equal(tensor[:size] if name in grown else tensor, known[name])
    printed = capsys.readouterr().out
    words = (
        "of 11 words of the training captions, 10 are known and 1 new (zebra): initialised afresh"
    )
    assert words in printed
    assert all(f"init: {name} (" in printed for name in grown)
    origin = json.loads((found / "versions.json").read_text())["init"]
    assert (origin["run"], origin["new_words"]) == (str(source), ["zebra"])


def test_the_other_runs_vocabulary_can_be_kept(
    settings: dict[str, Any], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path, settings, [*STILL, "stages.0.init.vocabulary=keep"])
    assert read_run(found).vocab.words == read_run(source).vocab.words
    for name, tensor in weights(found).items():
        assert torch.equal(tensor, weights(source)[name])
    assert "1 new (zebra): become UNK" in capsys.readouterr().out


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in records(folder) if "loss" in record]


def test_a_run_resumes_without_the_other_one(
    settings: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(source, tmp_path / "other"))
    settings["stages"][0]["init"]["run"] = str(other)
    first, second = tmp_path / "first", tmp_path / "second"
    run(tmp_path, {**settings, "run": str(first)}, [])
    run(tmp_path, {**settings, "run": str(second)}, ["stages.0.epochs=1"])
    shutil.rmtree(other)
    run(tmp_path, {**settings, "run": str(second)}, [], resume=True)
    assert losses(second) == losses(first)
    assert json.loads((second / "versions.json").read_text())["init"]["new_words"] == ["zebra"]
    # Killed before its first checkpoint.
    third = tmp_path / "third"
    (third / "checkpoints").mkdir(parents=True)
    shutil.copytree(first / "checkpoints" / "initial", third / "checkpoints" / "initial")
    config = third / "checkpoints" / "initial" / "config.json"
    config.write_text(config.read_text().replace(str(first), str(third)))
    run(tmp_path, {**settings, "run": str(third)}, [], resume=True)
    assert losses(third) == losses(first)


def test_a_run_begins_from_another_one_after_its_detector(
    settings: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    """The reference policy of preferences is the other run's, too, after a resume as well."""
    mil = {"objective": "mil", "words": 6, "kept": 4, "folds": 3, "hidden": 12}
    common = {key: settings["stages"][0][key] for key in ("epochs", "batch")}
    dpo = {
        **settings["stages"][0],
        "objective": "dpo",
        "samples": 2,
        "reward": {"actors": 0},
        "optimizer": {"lr": 1e-30},
    }
    stages = [{**mil, **common, "optimizer": {"lr": 0.01}}, dpo]
    found = run(tmp_path, {**settings, "stages": stages}, ["stages.1.epochs=1"])
    start = find_checkpoint(found, "stage_start")
    assert start
    assert start.name == "initial"
    run(tmp_path, {**settings, "stages": stages}, [], resume=True)
    known, size = weights(source), len(read_run(source).vocab)
    for name, tensor in weights(found).items():
        same = tensor.shape == known[name].shape
        assert torch.equal(tensor if same else tensor[:size], known[name])


def test_a_new_run_in_the_same_folder_does_not_begin_from_an_old_initial_model(
    settings: dict[str, Any], tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    found = run(tmp_path, settings, ["stages.0.epochs=1"])
    names = found / "checkpoints" / "names.json"
    names.write_text('{"stage_start": "initial"}')
    del settings["stages"][0]["init"]
    run(tmp_path, settings, ["stages.0.epochs=1"])
    alone = run(tmp_path, {**settings, "run": str(tmp_path / "alone")}, ["stages.0.epochs=1"])
    assert losses(found) == losses(alone)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.0.init.run=nowhere"], r"stages.0.init.run: nowhere has no best checkpoint"),
        (["model.width=24"], r"stages.0.init.run: model is not the one of "),
        (["stages.0.init.vocabulary=new"], r"stages.0.init.vocabulary: Input should be 'keep' or"),
    ],
)
def test_runs_that_do_not_fit_are_refused(
    settings: dict[str, Any], tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, settings, overrides)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_only_the_first_stage_of_captioning_can_begin_from_another_run(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    stage = settings["stages"][0]
    plain = {key: value for key, value in stage.items() if key != "init"}
    with pytest.raises(ConfigError, match=r"stages.1.init: only the first .* make it stages.0"):
        run(tmp_path, {**settings, "stages": [plain, stage]}, [])


def test_features_of_another_extractor_are_refused(
    settings: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(source, tmp_path / "other"))
    folder = find_checkpoint(other, "best")
    assert folder
    path = folder / "config.json"
    path.write_text(path.read_text().replace("tiny-v1", "net"))
    settings["stages"][0]["init"]["run"] = str(other)
    with pytest.raises(ConfigError, match="was trained on 'net' of width 6"):
        run(tmp_path, settings, [])


#: Its logits are those of a mixture of probabilities, of which new words take a share.
MIXTURES = {"neural_baby_talk"}


@pytest.mark.parametrize("name", sorted(registered().keys() - MIXTURES))
def test_every_model_writes_the_known_words_as_before(
    name: str, tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    """New words change nothing in the logits of the others."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**tiny_config, "run": "none", "model": small(name)}))
    known = Vocabulary([f"word{n}" for n in range(DIMS.vocabulary - len(SPECIALS))])
    torch.manual_seed(1)
    model = build(small(name), DIMS).eval()
    exported = ExportedModel(
        model, load_config(path), known, FeatureSpec("net", 7, 0), DIMS.classes, None, ENGLISH_TEXT
    )
    counted = Vocabulary([*WORDS, "word3"])
    initial = InitialModel(InitConfig(run="other"), "x", tmp_path, exported, counted)
    larger = build(small(name), replace(DIMS, vocabulary=len(initial.vocab))).eval()
    larger.load_state_dict(initial.weights(larger.state_dict()))
    batch = make_batch()
    with torch.inference_mode():
        expected = model(model.encode(batch), batch.inputs)
        found = larger(larger.encode(batch), batch.inputs)
    assert found.shape[-1] == DIMS.vocabulary + len(WORDS)
    torch.testing.assert_close(found[..., : DIMS.vocabulary], expected)
