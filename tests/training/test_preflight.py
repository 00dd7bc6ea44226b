"""What is refused before anything trains."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from capdist.config.base import ConfigError
from capdist.config.run_config import parse_config
from capdist.data.rank_plan import Ranks
from capdist.distributed.process_group import ProcessGroup, RendezvousError
from capdist.inference.exported_model import write_export
from capdist.inference.run_folder import PROGRESS, TrainingProgress
from capdist.models.base import Dims, build
from capdist.objectives.base import StageContext
from capdist.training.preflight import Preflight
from shards.atomic import write_json
from shards.manifest import Manifest
from tests.support.shards import count_words

STAGE = {
    "objective": "xe",
    "epochs": 1,
    "batch": {"images": 2, "micro": 1},
    "optimizer": {"lr": 1e-3},
}
LAUNCHED = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "9",
}
UPDOWN = {"name": "updown", "width": 4, "embedding": 4, "attention": 4}
GLIED = {"name": "glied", "width": 16, "embedding": 8, "heads": 2, "hidden": 24}


def with_optimizer(**settings: Any) -> dict[str, Any]:
    return {**STAGE, "optimizer": {"lr": 1e-3, **settings}}


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


def test_clipping_by_value_is_refused_with_deepspeed(tiny: Manifest) -> None:
    optimizer = {"lr": 1e-3, "clip_value": 0.1}
    check_stages(tiny, GLIED, 1, 0, "torch", optimizer=optimizer)
    with pytest.raises(ConfigError, match=r"^x\.json: stages\.0\.optimizer\.clip_value: DeepSp"):
        check_stages(tiny, GLIED, 1, 0, "deepspeed", optimizer=optimizer)


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
        (GLIED, {"reinforce": {}}, r"^x\.json: stages\.0\.reinforce needs a model that draws its"),
        (
            {"name": "hard_attention", "width": 4, "embedding": 4, "attention": 4},
            {"reinforce": {}, "label_smoothing": 0.1},
            r"^x\.json: stages\.0\.reinforce: does not use label_smoothing; remove it",
        ),
        (GLIED, {"grounding": {}}, r"^x\.json: stages\.0\.grounding needs a model that predicts"),
        (
            {"name": "att2in", "width": 4, "attention": 4, "prophet": {"span": "phrase"}},
            {},
            r"^x\.json: stages\.0: .*: its samples have no grounding, which the losses of",
        ),
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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"engine": "torch"}, r"engine is torch, but .*step-1 was written with deepspeed"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "ZeRO stage is 3, but .* with 1 or 2"),
        ({"deepspeed": {}}, "ZeRO stage is 0, but .* with 1 or 2"),
        (
            {"deepspeed": {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}}},
            "precision is bf16, but .* was written with fp32",
        ),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, None),
        (
            {"stages": [with_optimizer(groups=[{"match": "words.*"}])]},
            r"stages\.0\.optimizer\.groups are words\.\*, but .*step-1 was written with none",
        ),
        (
            {"stages": [with_optimizer(groups=[{"match": "words.*", "frozen": True}])]},
            r"stages\.0\.optimizer\.groups are words\.\* \(frozen\), but",
        ),
        (
            {"stages": [with_optimizer(ema=0.9)]},
            "stages.0.optimizer.ema is on, but .* was written with off",
        ),
        ({"stages": [{**STAGE, "reinforce": {}}]}, "stages.0.reinforce is on, but .* with off"),
        ({"stages": [with_optimizer(weight_decay=0.5)]}, None),
        ({"stages": [STAGE, with_optimizer(ema=0.9)]}, None),
    ],
)
def test_a_checkpoint_of_another_state_is_refused(
    tiny: Manifest, tmp_path: Path, changed: dict[str, Any], message: str | None
) -> None:
    described = {
        "description": "a test",
        "run": str(tmp_path),
        "engine": "deepspeed",
        "data": {"shards": str(tiny.root), "min_count": 1},
        "model": GLIED,
        "stages": [STAGE],
        "deepspeed": {"zero_optimization": {"stage": 1}},
    }
    saved, config = (parse_config(d, "x.json") for d in (described, {**described, **changed}))
    vocab = count_words(tiny, 1)
    model = build(config.model, Dims(tiny.features.dim, len(vocab)), "x.json")
    folder = tmp_path / "step-1"
    folder.mkdir()
    write_export(folder, dict(model.named_parameters()), saved, vocab, tiny)
    write_json(folder / PROGRESS, asdict(TrainingProgress(step=1, stage_step=1)))
    preflight = Preflight(config, "x.json", 1, tiny, vocab, model)
    if message is None:
        preflight.checkpoint(folder)
        return
    with pytest.raises(ConfigError, match=rf"^x\.json: {message}"):
        preflight.checkpoint(folder)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "RANK is set, but not LOCAL_RANK, WORLD_SIZE, MASTER_PORT, MASTER_ADDR; "),
        ({**LAUNCHED, "MASTER_ADDR": ""}, "RANK is set, but not MASTER_ADDR; start the command wi"),
        ({**LAUNCHED, "LOCAL_RANK": "a"}, "LOCAL_RANK='a': expected a whole number"),
    ],
)
def test_an_incomplete_launch_is_refused(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RendezvousError, match=message):
        ProcessGroup.join(1)


def test_a_rank_alone_leaves_no_trace_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    group = ProcessGroup.join(1)
    group.leave()
    assert not LAUNCHED.keys() & os.environ.keys()
