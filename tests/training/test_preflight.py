"""What is refused before anything trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capdist.config.base import ConfigError
from capdist.config.run_config import parse_config
from capdist.data.dataset import count_words
from capdist.data.rank_plan import Ranks
from capdist.distributed.process_group import ProcessGroup
from capdist.models.base import Dims, build
from capdist.objectives.base import StageContext
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


def check_stages(
    tiny: Manifest,
    model: dict[str, Any],
    ranks: int,
    zero: int,
    engine: str,
    decoding: dict[str, Any] | None = None,
    **stage: Any,
) -> None:
    described = {
        "description": "a test",
        "run": "nowhere",
        "engine": engine,
        "data": {"shards": str(tiny.root), "min_count": 1},
        "model": model,
        "stages": [{**STAGE, **stage}],
        "decoding": decoding or {},
        "deepspeed": {"zero_optimization": {"stage": zero}},
    }
    config = parse_config(described, "x.json")
    vocab = count_words(tiny, 1)
    built = build(config.model, Dims(tiny.features.dim, len(vocab)), "x.json")
    group = ProcessGroup(Ranks(0, ranks), torch.device("cpu"))
    preflight = Preflight(config, "x.json", ranks, tiny, vocab, built)
    preflight.stages(
        lambda n: StageContext(config, f"x.json: stages.{n}", tiny, vocab, group, built)
    )


def test_zero_3_is_refused_for_a_recurrent_model_on_several_ranks(tiny: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"x\.json: .*stage 3 on 2 ranks: .* choose stage 2"):
        check_stages(tiny, UPDOWN, 2, 3, "deepspeed")


@pytest.mark.parametrize(
    ("model", "ranks", "zero", "engine"),
    [
        (GLIED, 2, 3, "deepspeed"),
        (UPDOWN, 1, 3, "deepspeed"),
        (UPDOWN, 2, 2, "deepspeed"),
        (UPDOWN, 2, 3, "torch"),
    ],
)
def test_other_combinations_of_model_ranks_and_zero_stage_are_accepted(
    tiny: Manifest, model: dict[str, Any], ranks: int, zero: int, engine: str
) -> None:
    check_stages(tiny, model, ranks, zero, engine)


@pytest.mark.parametrize(
    ("decoding", "message"),
    [
        ({"forbidden": ["dgo"]}, r"^x\.json: decoding\.forbidden: 'dgo' is not in the vocabulary"),
        ({"forced": [["dog"], ["Cat"]]}, r"^x\.json: decoding\.forced: 'Cat' is not in the vocab"),
    ],
)
def test_words_that_no_caption_can_have_are_refused(
    tiny: Manifest, decoding: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_stages(tiny, GLIED, 1, 0, "torch", decoding)


@pytest.mark.parametrize(
    ("model", "stage", "message"),
    [
        (
            GLIED,
            {"scheduled_sampling": {}},
            r"^x\.json: stages\.0\.scheduled_sampling needs a recurrent model, which glied is not",
        ),
        (GLIED, {"grounding": {}}, r"^x\.json: stages\.0\.grounding needs a model that predicts"),
        (
            GLIED,
            {"optimizer": {"lr": 0.1, "groups": [{"match": "nothing.*"}]}},
            r"^x\.json: stages\.0\.optimizer\.groups\.0: 'nothing\.\*' matches none",
        ),
        (
            GLIED,
            {"objective": "dpo", "reward": {"metrics": {"cider": 1}}},
            r"^x\.json: stages\.0\.reward\.metrics: no reward 'cider'; known: ",
        ),
    ],
)
def test_options_that_a_stage_can_not_follow_are_refused(
    tiny: Manifest, model: dict[str, Any], stage: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_stages(tiny, model, 1, 0, "torch", **stage)
