"""A model that reads class vectors gets the same ones from shards and from feature files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from capdist.config.base import ConfigError
from capdist.config.run_config import load_config
from capdist.inference.captioner import Captioner, ForcedWords
from capdist.inference.exported_model import ExportedModel, read_export, write_export
from capdist.models.base import Dims, build
from capdist.vocab import Vocabulary
from shards.build import BuildConfig
from shards.build import build as build_shards
from shards.manifest import Manifest
from tests.support.format_files import IDS, coco_captions, npz_dir

CONFIG = load_config(Path(__file__).parents[2] / "configs/ss_updown.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions, features, and names of their six classes."""
    folder: Path = tmp_path_factory.mktemp("vectors")
    coco_captions(folder)
    npz_dir(folder)
    (folder / "names.txt").write_text("a\nb\nc\nd\ne\nf\n")
    return folder


def shards(folder: Path, out: Path, kept: int | None) -> Manifest:
    captions, features = (
        next(folder.glob("captions*")),
        next(p for p in folder.iterdir() if p.is_dir()),
    )
    names = str(folder / "names.txt")
    config = BuildConfig(
        str(captions), str(features), concepts=0, class_names=names, classes_kept=kept
    )
    return build_shards(config, out, workers=1)


def exported(manifest: Manifest, out: Path) -> ExportedModel:
    """An untrained model, whose words depend on β, and β on the classes."""
    vocab = Vocabulary(["a", "dog's", "t-shirt", "wet"])
    dims = Dims(manifest.features.dim, len(vocab), len(manifest.class_names))
    torch.manual_seed(1)
    weights = build(CONFIG.model, dims).state_dict()
    weights["spatial_semantic.classes.weight"] = 5 * torch.arange(7.0)[:, None]
    weights["spatial_semantic.score.weight"] = torch.tensor([[2.0, 0.0]])
    weights["output.weight"] *= 30
    write_export(out, weights, CONFIG, vocab, manifest)
    return read_export(out)


@pytest.mark.parametrize("kept", [2, None])
def test_captions_of_feature_files_equal_those_of_shards(
    folder: Path, tmp_path: Path, kept: int | None
) -> None:
    manifest = shards(folder, tmp_path / "shards", kept)
    model = exported(manifest, tmp_path)
    assert (model.classes, model.classes_kept) == (7, kept or 7)
    captioner = Captioner((model,), model.decoding(), ForcedWords(), (tmp_path,))
    features = next(path for path in folder.iterdir() if path.is_dir())
    of_files, of_shards = (
        captioner.of_features(str(features)),
        captioner.of_shards(str(manifest.root), "train"),
    )
    assert set(of_files) == set(of_shards) == set(IDS)
    for image in IDS:
        for one, other in zip(of_files[image], of_shards[image], strict=True):
            assert one.words == other.words
            assert one.score == pytest.approx(other.score, rel=5e-3)  # float16


def test_shards_that_keep_other_classes_are_refused(folder: Path, tmp_path: Path) -> None:
    model = exported(shards(folder, tmp_path / "shards", None), tmp_path)
    fewer = shards(folder, tmp_path / "fewer", 2)
    with pytest.raises(ConfigError, match=r"2 classes of each region, .* with --classes-kept 7"):
        model.check_features(fewer)
