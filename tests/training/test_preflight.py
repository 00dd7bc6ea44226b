"""What is refused before anything trains, where no command is needed to see it."""

from __future__ import annotations

from typing import Any

import pytest

from capdist.config.base import ConfigError
from capdist.config.run_config import parse_config
from capdist.data.dataset import count_words
from capdist.models.base import Dims, build
from capdist.training.preflight import Preflight
from shards.manifest import Manifest

STAGE = {
    "objective": "xe",
    "epochs": 1,
    "batch": {"images": 2, "micro": 1},
    "optimizer": {"lr": 1e-3},
}
UPDOWN = {"name": "updown", "width": 4, "embedding": 4, "attention": 4}
GLIED = {"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24}


def checks(tiny: Manifest, model: dict[str, Any], ranks: int, stage: int, engine: str) -> Preflight:
    described = {
        "description": "a test",
        "run": "nowhere",
        "engine": engine,
        "data": {"shards": str(tiny.root), "min_count": 1},
        "model": model,
        "stages": [STAGE],
        "deepspeed": {"zero_optimization": {"stage": stage}},
    }
    config = parse_config(described, "x.json")
    vocab = count_words(tiny, 1)
    built = build(config.model, Dims(tiny.features.dim, len(vocab)), "x.json")
    return Preflight(config, "x.json", ranks, tiny, vocab, built)


def test_zero_3_of_a_recurrent_model_on_several_ranks(tiny: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"x\.json: .*stage 3 on 2 ranks: .* choose stage 2"):
        checks(tiny, UPDOWN, 2, 3, "deepspeed").stages()


@pytest.mark.parametrize(
    ("model", "ranks", "stage", "engine"),
    [
        (GLIED, 2, 3, "deepspeed"),
        (UPDOWN, 1, 3, "deepspeed"),
        (UPDOWN, 2, 2, "deepspeed"),
        (UPDOWN, 2, 3, "torch"),
    ],
)
def test_what_can_be(
    tiny: Manifest, model: dict[str, Any], ranks: int, stage: int, engine: str
) -> None:
    checks(tiny, model, ranks, stage, engine).stages()
