"""Tiny photographs, a backbone for them, and runs that caption them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from capdist.config.run_config import parse_config
from capdist.inference.exported_model import write_export
from capdist.inference.run_folder import NAMES
from capdist.models.base import Dims, build
from shards.build import BuildConfig
from shards.build import build as build_shards
from shards.extractor_spec import Preprocessing
from shards.extractors import extractor
from shards.formats import RegionFeatures
from shards.formats.layout import grid_boxes
from shards.manifest import Manifest
from shards.schema import CLASS_DTYPE, Array
from tests.support.runs import SMALL
from tests.support.shards import count_words, tiny_sample

#: Of the photographs.
IDS = tuple(range(20, 34))
#: The backbone `Quarters`.
QUARTERS = "quarters"


@extractor(QUARTERS)
class Quarters:
    """The mean colour of each quarter of a picture, from 0 to 1, with two classes."""

    weights = "0"
    width = 3
    preprocessing = Preprocessing(8, 8, "bilinear", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0))

    def __init__(self, source: str) -> None:
        self.source = source

    def prepare(self, picture: Image.Image) -> Array:
        return self.preprocessing.resize(picture)

    def __call__(self, prepared: Sequence[Array]) -> list[RegionFeatures]:
        pixels = self.preprocessing.normalise(np.stack(prepared))
        cells = pixels.reshape(-1, 3, 2, 4, 2, 4).mean((3, 5)).reshape(-1, 3, 4).swapaxes(1, 2)
        classes = np.zeros((4, 1), CLASS_DTYPE)
        return [RegionFeatures(regions, grid_boxes(2, 2), classes) for regions in cells]


def photograph(number: int, size: tuple[int, int] = (32, 24)) -> Image.Image:
    """A picture whose quarters have colours that depend on the number."""
    colours = np.random.default_rng(number).integers(0, 256, (2, 2, 3), np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def write_photographs(folder: Path, ids: Sequence[int] = IDS) -> Path:
    """``<id>.png`` of each id, in a folder that is made."""
    folder.mkdir()
    for number in ids:
        photograph(number).save(folder / f"{number}.png")
    return folder


def annotated(folder: Path) -> list[str]:
    """Caption files of the photographs: two for validation, the others for training."""
    files = []
    for split, ids in (("val", IDS[:2]), ("train", IDS[2:])):
        images = [{"id": n, "file_name": f"{n}.png", "width": 640, "height": 480} for n in ids]
        captions = [
            {"image_id": n, "caption": " ".join(words)}
            for n in ids
            for words in tiny_sample(n).tokens
        ]
        path = folder / f"captions_{split}2014.json"
        path.write_text(json.dumps({"images": images, "annotations": captions}))
        files.append(str(path))
    return files


def photograph_shards(folder: Path, **settings: object) -> Manifest:
    """Shards built from the photographs, by `Quarters` if no other backbone is given."""
    defaults = {"images": str(folder / "photographs"), "concepts": 3, "backbone": QUARTERS}
    settings = {**defaults, **settings}
    if not (folder / "photographs").exists():
        write_photographs(folder / "photographs")
    config = BuildConfig(annotated(folder), (), **settings)  # type: ignore[arg-type]
    return build_shards(config, folder / "shards", workers=1)


def untrained_run(manifest: Manifest, run: Path, model: dict[str, object] | None = None) -> Path:
    """A run folder with one checkpoint, of random weights."""
    config = parse_config(
        {
            "description": "a test",
            "run": str(run),
            "engine": "torch",
            "data": {"shards": str(manifest.root), "min_count": 1},
            "model": model or SMALL,
            "stages": [
                {
                    "objective": "xe",
                    "epochs": 1,
                    "batch": {"images": 4, "micro": 4},
                    "optimizer": {"lr": 0.01},
                }
            ],
        },
        "test",
    )
    vocab = count_words(manifest, 1)
    torch.manual_seed(0)
    dims = Dims(manifest.features.dim, len(vocab), len(manifest.class_names))
    weights = build(config.model, dims).state_dict()
    folder = run / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    write_export(folder, weights, config, vocab, manifest)
    (folder.parent / NAMES).write_text(json.dumps({"best": folder.name, "last": folder.name}))
    return run
