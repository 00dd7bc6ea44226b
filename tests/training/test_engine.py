"""DeepSpeed and its plain twin take the same steps, on 1 and 2 ranks, with uneven tails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shards.index import Manifest
from tests.training.ranks import run_ranks


def steps(
    manifest: Manifest, tmp_path: Path, world: int, engine: str, micro: int = 16, **more: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    out = tmp_path / f"{engine}-{world}-{micro}-{len(list(tmp_path.iterdir()))}.json"
    arguments = {"shards": str(manifest.root), "engine": engine, "micro": micro, "out": str(out)}
    run_ranks("tests.training.steps", world, {**arguments, **more})
    weights: dict[str, Tensor] = torch.load(out.with_suffix(".pt"), weights_only=True)
    return json.loads(out.read_text()), weights


@pytest.fixture(scope="module")
def plain(
    tiny: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """One rank of plain torch, whole batches: what all others must equal."""
    return steps(tiny, tmp_path_factory.mktemp("plain"), 1, "torch")


def same(
    found: tuple[dict[str, Any], dict[str, Tensor]],
    expected: tuple[dict[str, Any], dict[str, Tensor]],
) -> None:
    # Adam divides by the root of the second moment, so rounding of tiny gradients shows.
    torch.testing.assert_close(found[0]["losses"], expected[0]["losses"], rtol=1e-5, atol=1e-5)
    for name, weight in expected[1].items():
        torch.testing.assert_close(found[1][name], weight, rtol=1e-3, atol=1e-3)


def test_losses_fall_on_every_batch_of_an_uneven_epoch(
    plain: tuple[dict[str, Any], dict[str, Tensor]],
) -> None:
    losses = plain[0]["losses"]
    assert len(losses) == 4  # 53 images in batches of 16
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("world", "micro"), [(1, 5), (2, 8), (2, 3)])
def test_twin_on_ranks_and_accumulation(
    tiny: Manifest,
    tmp_path: Path,
    plain: tuple[dict[str, Any], dict[str, Tensor]],
    world: int,
    micro: int,
) -> None:
    same(steps(tiny, tmp_path, world, "torch", micro), plain)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("world", "micro"), [(1, 16), (2, 3)])
def test_deepspeed_equals_its_twin(
    tiny: Manifest,
    tmp_path: Path,
    plain: tuple[dict[str, Any], dict[str, Tensor]],
    stage: int,
    world: int,
    micro: int,
) -> None:
    deepspeed = {"zero_optimization": {"stage": stage}}
    same(steps(tiny, tmp_path, world, "deepspeed", micro, deepspeed=deepspeed), plain)


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_clipping_scales_the_global_gradient(tiny: Manifest, tmp_path: Path, engine: str) -> None:
    free, _ = steps(tiny, tmp_path, 1, "torch", clip_norm=0.5)
    # Without ZeRO, in fp32, DeepSpeed clips but tells no norm.
    zero = {"zero_optimization": {"stage": 1}}
    ranks, _ = steps(tiny, tmp_path, 2, engine, 8, clip_norm=0.5, deepspeed=zero)
    torch.testing.assert_close(ranks["losses"], free["losses"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ranks["norms"], free["norms"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "stage"),
    [("bf16", 0), ("bf16", 1), ("bf16", 2), ("bf16", 3), ("fp16", 1), ("fp16", 2), ("fp16", 3)],
)
def test_half_precision_stays_near(
    tiny: Manifest,
    tmp_path: Path,
    plain: tuple[dict[str, Any], dict[str, Tensor]],
    kind: str,
    stage: int,
) -> None:
    half: dict[str, Any] = {"enabled": True}
    if kind == "fp16":
        half["initial_scale_power"] = 8
    deepspeed = {"zero_optimization": {"stage": stage}, kind: half}
    found, weights = steps(tiny, tmp_path, 2, "deepspeed", 8, deepspeed=deepspeed)
    assert found["skipped"] == 0
    torch.testing.assert_close(found["losses"], plain[0]["losses"], rtol=0.02, atol=0.02)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.parametrize("stage", [1, 3])
def test_an_overflow_is_a_skipped_step(tiny: Manifest, tmp_path: Path, stage: int) -> None:
    fp16 = {"enabled": True, "initial_scale_power": 32, "loss_scale_window": 1, "hysteresis": 1}
    deepspeed = {"fp16": fp16, "zero_optimization": {"stage": stage}}
    found, _ = steps(tiny, tmp_path, 1, "deepspeed", deepspeed=deepspeed)
    assert found["skipped"] > 0


@pytest.mark.parametrize(("engine", "stage"), [("torch", 0), ("deepspeed", 0), ("deepspeed", 2)])
def test_saved_and_loaded(tiny: Manifest, tmp_path: Path, engine: str, stage: int) -> None:
    deepspeed = {"zero_optimization": {"stage": stage}}
    folder = str(tmp_path / "saved")
    more = {"deepspeed": deepspeed, "micro": 8}
    saved, expected = steps(tiny, tmp_path, 2, engine, **more, save=folder)
    loaded, weights = steps(tiny, tmp_path, 2, engine, **more, load=folder)
    assert loaded["losses"] == saved["losses"][4:]
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
