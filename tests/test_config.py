"""What a config refuses, and how it says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capdist.config.base import ConfigError
from capdist.config.run_config import load_config
from capdist.config.stage import BatchConfig, StepSchedule

GOOD: dict[str, Any] = {
    "description": "a test",
    "run": "runs/x",
    "data": {"shards": "s"},
    "model": {"name": "glied"},
    "stages": [
        {
            "objective": "xe",
            "epochs": 1,
            "batch": {"images": 4, "micro": 2},
            "optimizer": {"lr": 0.1},
        }
    ],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(GOOD))
    return file


def test_overrides_reach_every_place(path: Path) -> None:
    overrides = [
        "data.lanes=8",
        "stages.0.optimizer.lr=2e-3",
        "run=elsewhere",
        'stages.0.schedule={"name": "step", "gamma": 0.5}',
        "deepspeed.zero_optimization.stage=2",
    ]
    config = load_config(path, overrides)
    assert config.data.lanes == 8
    assert config.stages[0].optimizer.lr == 2e-3
    assert config.run == "elsewhere"
    assert config.stages[0].schedule == StepSchedule(name="step", gamma=0.5)
    assert config.deepspeed == {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.shrads=x", "data.shrads: unknown key; did you mean data.shards?"),
        ("data.lr=0.1", "data.lr: unknown key; did you mean stages.optimizer.lr?"),
        ("zzz=1", "zzz: unknown key; known here: "),
        ("data.lanes=many", "data.lanes: Input should be a valid integer"),
        ("data.lanes=-1", "data.lanes: Input should be greater than 0, got -1"),
        ("seed=9223372036854775808", "seed: Input should be less than 9223372036854775808"),
        ("stages.0.optimizer.lr=1e999", "stages.0.optimizer.lr: Input should be a finite number"),
        ("stages.0.optimizer.lr=NaN", "stages.0.optimizer.lr: Input should be a finite number"),
        ("stages.0.schedule.name=cosin", "stages.0.schedule: Input tag 'cosin' found"),
        ('stages.0.schedule={"name":"step","gama":1}', "did you mean stages.0.schedule.gamma?"),
        ("stages=[]", "stages: Tuple should have at least 1 item"),
        ("stages.5.epochs=1", "--set stages.5.epochs=1: stages.5.epochs is not in any section"),
        ("run.x=1", "--set run.x=1: run.x is not in any section"),
        ("run", "--set run: expected a.b=c"),
        ("deepspeed.fp16.enabled=true", "deepspeed.fp16 needs deepspeed.zero_optimization.stage"),
        ("deepspeed.optimizer={}", "deepspeed.optimizer is set by stages.N.optimizer"),
    ],
)
def test_refusals_name_the_key(path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(path, [override])
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["fp16", "torch_autocast"])
def test_the_torch_engine_refuses_precisions_that_it_does_not_have(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"deepspeed\.{name}: engine torch computes in fp32 or"):
        load_config(path, ["engine=torch", f"deepspeed.{name}.enabled=true"])


def test_a_precision_is_a_section(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"deepspeed\.bf16: expected a section .*, got true"):
        load_config(path, ["deepspeed.bf16=true"])


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_both_engines_take_their_precision_from_one_place(path: Path, engine: str) -> None:
    for bf16, precision in (("false", "fp32"), ("true", "bf16")):
        settings = [f"engine={engine}", f"deepspeed.bf16.enabled={bf16}"]
        assert load_config(path, settings).precision == precision


def test_a_missing_key_is_named(path: Path) -> None:
    path.write_text(json.dumps({**GOOD, "data": {}}))
    with pytest.raises(ConfigError, match=r"c\.json: data\.shards: is missing; add it"):
        load_config(path)


def test_a_file_that_is_not_json(path: Path) -> None:
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"c\.json: not JSON"):
        load_config(path)


def test_accumulation_covers_the_batch() -> None:
    batch = BatchConfig(images=16, micro=3)
    assert [batch.accumulation(world) for world in (1, 2, 4)] == [6, 3, 2]
