"""The README's table of models says how large they are."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from capdist.config.run_config import load_config
from capdist.models.base import Dims, build

ROOT = Path(__file__).parents[1]
#: COCO's usual sizes: bottom-up features, its vocabulary, Visual Genome's classes.
COCO = Dims(2048, 9_488, 1_600)


def test_parameters_of_every_model() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "](configs/" in line]
    assert len(rows) == 16
    for row in rows:
        config, said = re.findall(r"\((configs/\w+\.json)\)", row)[0], row.split(" | ")[4]
        with torch.device("meta"):
            model = build(load_config(ROOT / config, []).model, COCO)
        count = sum(parameter.numel() for parameter in model.parameters())
        assert said == f"{count / 1e6:.1f}", row
