"""Parameter groups: learning rate, weight decay and frozen parameters by name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from capdist.config.base import ConfigError, validate
from capdist.config.stage import OptimizerConfig
from capdist.engines.optimizer import LR_SCALE, check_groups, make_optimizer, set_lr, settings_kept
from shards.manifest import Manifest
from tests.support.matrix import take


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 2)


def optimizer_config(*groups: dict[str, Any], **options: Any) -> OptimizerConfig:
    section = {"lr": 0.1, "groups": groups, **options}
    return validate(OptimizerConfig, section, "the test")


def train(model: nn.Module, optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    for rate in rates:
        set_lr(optimizer, rate)
        optimizer.zero_grad()
        model.decoder(model.encoder(x)).square().sum().backward()
        optimizer.step()


def test_groups_equal_an_optimizer_for_each() -> None:
    config = optimizer_config(
        {"match": "*.bias", "weight_decay": 0.0},
        {"match": "encoder.*", "lr": 0.01, "weight_decay": 0.5},
        weight_decay=0.2,
        decoupled=True,
    )
    grouped, by_hand = Toy(), Toy()
    rates = [0.1, 0.05, 0.1]
    train(grouped, make_optimizer(grouped, config), rates)

    each = [
        torch.optim.AdamW([by_hand.encoder.bias, by_hand.decoder.bias], 0.1, weight_decay=0.0),
        torch.optim.AdamW([by_hand.encoder.weight], 0.01, weight_decay=0.5),
        torch.optim.AdamW([by_hand.decoder.weight], 0.1, weight_decay=0.2),
    ]
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    for rate in rates:
        by_hand.zero_grad()
        by_hand.decoder(by_hand.encoder(x)).square().sum().backward()
        for optimizer, scale in zip(each, (1, 0.1, 1), strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
            optimizer.step()
    for one, other in zip(grouped.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_frozen_parameters_keep_their_values_and_the_first_match_counts() -> None:
    config = optimizer_config({"match": "encoder.bias"}, {"match": "encoder.*", "frozen": True})
    model, start = Toy(), Toy()
    train(model, make_optimizer(model, config), [0.1, 0.1])
    assert torch.equal(model.encoder.weight, start.encoder.weight)
    assert not torch.equal(model.encoder.bias, start.encoder.bias)
    assert not torch.equal(model.decoder.weight, start.decoder.weight)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [{"match": "encodr.*"}],
            r"^x: stages\.0\.optimizer\.groups\.0: 'encodr\.\*' matches none",
        ),
        (
            [{"match": "*"}, {"match": "encoder.*"}],
            r"groups\.1: 'encoder\.\*' matches none of the 0 parameters that earlier groups leave;",
        ),
        ([{"match": "*", "frozen": True}], "all parameters are frozen"),
    ],
)
def test_refusals_name_the_group(groups: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_groups(Toy(), optimizer_config(*groups), "x: stages.0.optimizer")


GROUPS = [{"match": "*.bias", "lr": 0.05}, {"match": "output*", "frozen": True}]


@pytest.mark.parametrize(("ranks", "zero"), [(1, 0), (2, 1), (2, 3)])
def test_deepspeed_trains_groups_as_torch_does(
    tiny: Manifest, tmp_path: Path, ranks: int, zero: int
) -> None:
    runs = [
        {"engine": "torch", "groups": GROUPS},
        {
            "engine": "deepspeed",
            "groups": GROUPS,
            "deepspeed": {"zero_optimization": {"stage": zero}},
        },
    ]
    common = {"shards": str(tiny.root), "micro": 4}
    taken = take(tmp_path, ranks, [{**common, **run} for run in runs])
    (plain, expected), (zeroed, found) = taken
    assert zeroed["losses"] == pytest.approx(plain["losses"], rel=1e-4)
    for name, weight in expected.items():
        # The gradient of a key's bias is zero but for rounding, which Adam scales up.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)


def test_settings_are_the_configs_after_a_state_is_loaded() -> None:
    before = optimizer_config({"match": "*.bias", "lr": 0.5}, weight_decay=0.5)
    now = optimizer_config({"match": "*.bias", "lr": 0.2, "weight_decay": 0.0}, weight_decay=0.1)
    model = Toy()
    first, again = (make_optimizer(model, config) for config in (before, now))
    train(model, first, [0.1, 0.1])
    state = first.state_dict()
    with settings_kept(again):
        again.load_state_dict(state)
    rest, biases = again.param_groups
    assert (rest["weight_decay"], biases["weight_decay"], biases[LR_SCALE]) == (0.1, 0.0, 2.0)
    moments = again.state_dict()["state"]
    for number, saved in state["state"].items():
        assert torch.equal(moments[number]["exp_avg"], saved["exp_avg"])


@pytest.mark.parametrize("decoupled", [False, True])
def test_implementations_take_the_same_steps(decoupled: bool) -> None:
    models = [Toy(), Toy()]
    for model, implementation in zip(models, ("torch", "fused"), strict=True):
        options = {"decoupled": decoupled, "weight_decay": 0.01, "implementation": implementation}
        optimizer = make_optimizer(model, optimizer_config(**options))
        assert bool(optimizer.defaults["fused"]) == (implementation == "fused")
        train(model, optimizer, [0.1, 0.05, 0.2])
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(find_spec("apex") is not None, reason="Apex is installed")
def test_apex_is_refused_where_it_is_not_installed() -> None:
    with pytest.raises(ConfigError, match="implementation: apex is not installed; build"):
        make_optimizer(Toy(), optimizer_config(implementation="apex"))
