"""A model refuses features that it was not trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capdist.config.base import ConfigError
from capdist.config.run_config import load_config, parse_config, parse_saved_config
from capdist.inference.captioner import Captioner, ForcedWords, write_captions
from capdist.inference.exported_model import ExportedModel, read_export, write_export
from capdist.inference.run_folder import TrainingProgress, read_progress
from capdist.models.base import Dims, build
from capdist.vocab import Vocabulary
from shards.feature_spec import FeatureSpec
from shards.manifest import Manifest
from shards.reading import Reading
from shards.schema import ShardError
from tests.support.shards import WORDS, tiny_sample

CONFIG = load_config(Path(__file__).parents[2] / "configs/lstm.json")


def other(features: FeatureSpec) -> FeatureSpec:
    """Of the same name and width, with other numbers."""
    mean = tuple(np.add(features.fingerprint.mean, 2).tolist())
    return replace(features, fingerprint=replace(features.fingerprint, mean=mean))


def exported(manifest: Manifest, folder: Path) -> ExportedModel:
    vocab = Vocabulary(list(WORDS))
    weights = build(CONFIG.model, Dims(manifest.features.dim, len(vocab))).state_dict()
    write_export(folder, weights, CONFIG, vocab, manifest)
    return read_export(folder)


def test_features_of_another_extractor_are_refused(tiny: Manifest, tmp_path: Path) -> None:
    model = exported(tiny, tmp_path)
    model.check_features(tiny)
    for features, message in (
        (
            replace(tiny.features, name="net"),
            "features 'net' of width 6, but the model",
        ),
        (other(tiny.features), "features are distributed differently .* than those that the model"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.check_features(replace(tiny, features=features))


def test_feature_files_of_another_extractor_are_refused(tiny: Manifest, tmp_path: Path) -> None:
    model = exported(tiny, tmp_path)
    captioner = Captioner((model,), model.decoding(), ForcedWords(), (tmp_path,))
    folder = tmp_path / "features"
    folder.mkdir()
    for number in range(40):
        np.savez(folder / f"{number}.npz", feat=tiny_sample(number).regions + 3)
    with pytest.raises(ConfigError, match=r"features are distributed differently .* 'tiny-v1'"):
        captioner.of_features(str(folder))


def write_features(folder: Path, **changed: Any) -> None:
    """Feature files of 300 images; those of single ones are changed."""
    folder.mkdir()
    for number in range(300):
        regions = tiny_sample(number).regions
        np.savez(folder / f"{number}.npz", feat=changed.get(f"image_{number}", regions))


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (
            np.zeros((3, 200), np.float16),
            r"image 49: regions of shape \(3, 200\), expected \(R, 6\)",
        ),
        (np.zeros((3, 20000), np.float32), r"image 49: regions of shape \(3, 20000\)"),
        (np.zeros((3, 3), np.float16), r"image 49: regions of shape \(3, 3\), expected \(R, 6\)"),
        (np.full((3, 6), np.nan, np.float32), r"image 49: regions have values that are not finite"),
        (np.full((3, 6), 1e39), r"image 49: regions have values that are not finite"),
    ],
)
def test_every_feature_file_is_checked(
    tiny: Manifest, tmp_path: Path, regions: Any, message: str
) -> None:
    model = exported(tiny, tmp_path)
    captioner = Captioner((model,), model.decoding(), ForcedWords(), (tmp_path,))
    write_features(tmp_path / "features", image_49=regions)
    with pytest.raises(ShardError, match=message):
        captioner.of_features(str(tmp_path / "features"))


def test_feature_files_of_any_type_and_memory_order_give_the_same_captions(
    tiny: Manifest, tmp_path: Path
) -> None:
    model = exported(tiny, tmp_path)
    captioner = Captioner((model,), model.decoding(), ForcedWords(), (tmp_path,))
    write_features(tmp_path / "plain")
    changed = {number: tiny_sample(number).regions for number in (0, 3, 51, 299)}
    write_features(
        tmp_path / "mixed",
        image_0=changed[0].astype(np.float64),
        image_3=changed[3].astype(np.float32),
        image_51=np.asfortranarray(changed[51]),
        image_299=changed[299].astype(">f4"),
    )
    found = captioner.of_features(str(tmp_path / "plain"))
    assert captioner.of_features(str(tmp_path / "mixed")) == found


def test_feature_files_are_captioned_under_their_names(tiny: Manifest, tmp_path: Path) -> None:
    model = exported(tiny, tmp_path)
    forced = ForcedWords("f.json", {"park/a.b": [["dog"]]})
    captioner = Captioner((model,), model.decoding(), forced, (tmp_path,))
    names = ("park/a.b", "7", "airport_7")
    for number, name in enumerate(names):
        path = tmp_path / f"features/{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, feat=tiny_sample(number).regions.T)
    with pytest.raises(ConfigError, match=r"width 2, but .* of width 6; .* another --layout"):
        captioner.of_features(str(tmp_path / "features"))
    found = captioner.of_features(str(tmp_path / "features"), Reading("features-first"))
    assert set(found) == {"park/a.b", 7, "airport_7"}
    assert "dog" in found["park/a.b"][0].words
    write_captions(tmp_path / "c.json", found, 1, model.text)
    written = json.loads((tmp_path / "c.json").read_text())
    assert [entry["image_id"] for entry in written] == [7, "airport_7", "park/a.b"]


def test_an_older_export_is_refused(tiny: Manifest, tmp_path: Path) -> None:
    exported(tiny, tmp_path)
    path = tmp_path / "config.json"
    described = json.loads(path.read_text())
    del described["features"]["fingerprint"]
    path.write_text(json.dumps(described))
    with pytest.raises(ShardError, match="features 'tiny-v1' have no fingerprint"):
        read_export(tmp_path)


def test_storage_and_most_regions_are_not_the_extractors(tiny: Manifest, tmp_path: Path) -> None:
    stored = replace(tiny, features=replace(tiny.features, scale=(0.5,) * 6))
    model = exported(stored, tmp_path)
    assert model.features.scale == ()
    model.check_features(replace(tiny, features=replace(tiny.features, max_regions=99)))


def test_configs_and_progress_of_older_runs_are_read(tmp_path: Path) -> None:
    saved = json.loads(CONFIG.model_dump_json(by_alias=True))
    del saved["data"]["resident"]
    saved["data"]["cache"] = "ram"
    assert parse_saved_config(saved, "config.json").data.resident == "ram"
    with pytest.raises(ConfigError, match=r"c\.json: data\.cache: unknown key"):
        parse_config(saved, "c.json")
    cursor = {"stage": 1, "step": 7, "best_cider": 12.5, "best_ap": None}
    (tmp_path / "cursor.json").write_text(json.dumps(cursor))
    assert read_progress(tmp_path) == TrainingProgress(stage=1, step=7, best={"CIDEr": 12.5})
