"""Run folders for reports: models with random weights that were evaluated."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from capdist.config.run_config import parse_config
from capdist.inference.evaluation import Evaluation, EvaluationRequest
from capdist.inference.exported_model import read_run, write_export
from capdist.models.base import Dims, build
from shards.manifest import Manifest
from shards.schema import Sample
from tests.support.shards import GroundedSource, count_words

GLIED = {"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24}
SS_UPDOWN = {"name": "ss_updown", "width": 16, "embedding": 8, "attention": 8}
STEPS = [
    {"step": step, "stage": "xe", "epoch": step / 10, "loss": 4 - step / 10, "lr": 1e-3}
    | {"captions_per_s": 9.0, "step_s": 0.5, "data_s": 0.1, "skipped": step // 9}
    for step in range(1, 11)
]
#: A step that the loss scaler skipped, for a sample was lost in it.
LOST = {**STEPS[-1], "step": 11, "loss": float("nan"), "lost": ["train-00000.tar: sample 3"]}
LOG = [*STEPS, {"step": 10, "epoch": 1, "val_cider": 80.0}, LOST]


@dataclass(frozen=True)
class PictureSource(GroundedSource):
    """Tiny images with a picture, 30 of them to test on."""

    sizes: tuple[tuple[str, int], ...] = (("train", 20), ("val", 3), ("test", 30))

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            file = io.BytesIO()
            Image.new("RGB", (64, 48), (sample.image_id % 255, 90, 120)).save(file, "PNG")
            yield replace(sample, picture=file.getvalue())


def unevaluated_run(folder: Path, shards: Manifest, model: dict[str, Any], seed: int = 1) -> Path:
    """A run folder with a checkpoint of random weights and `LOG`."""
    described = {
        "description": f"Random {model['name']}",
        "run": str(folder),
        "engine": "torch",
        "data": {"shards": str(shards.root), "min_count": 1, "workers": 0},
        "model": model,
        "stages": [
            {
                "objective": "xe",
                "epochs": 2,
                "batch": {"images": 8, "micro": 8},
                "optimizer": {"lr": 0.01 * seed},
            }
        ],
        "decoding": {"min_words": 2, "max_words": 8, "batch": 7},
    }
    config, vocab = parse_config(described, "test"), count_words(shards, 1)
    torch.manual_seed(seed)
    dims = Dims(shards.features.dim, len(vocab), len(shards.class_names))
    weights = {name: 3 * w for name, w in build(config.model, dims).state_dict().items()}
    step = folder / "checkpoints" / "step-00000010"
    step.mkdir(parents=True)
    write_export(step, weights, config, vocab, shards)
    names = {"best": step.name, "last": step.name}
    (step.parent / "names.json").write_text(json.dumps(names))
    (folder / "config.json").write_text(json.dumps(config.model_dump(mode="json", by_alias=True)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in LOG))
    return folder


def evaluated_run(folder: Path, shards: Manifest, model: dict[str, Any], seed: int = 1) -> Path:
    """The same after an evaluation of its test split."""
    unevaluated_run(folder, shards, model, seed)
    Evaluation.open(EvaluationRequest(folder, "test"), read_run(folder)).evaluate()
    return folder
