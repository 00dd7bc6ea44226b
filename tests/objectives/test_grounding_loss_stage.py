"""A stage with the grounding loss: the same steps on any number of ranks, and what it adds up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from capdist.batch import Batch
from capdist.losses.grounding import Salient
from capdist.models.base import build
from capdist.objectives.cross_entropy import CrossEntropy, CrossEntropyStage
from shards.manifest import Manifest
from tests.support.matrix import loss_difference, take
from tests.support.models import DIMS, make_batch, small

MODEL = small("ss_updown", dropout=0.0)
MU = 0.7


def run(root: Path, micro: int, **more: Any) -> dict[str, Any]:
    described = {"shards": str(root), "engine": "torch", "micro": micro, "model": MODEL}
    return {**described, "stage": {"grounding": {"weight": MU}}, **more}


def zero(stage: int) -> dict[str, Any]:
    return {"engine": "deepspeed", "deepspeed": {"zero_optimization": {"stage": stage}}}


def test_ranks_and_accumulation_change_nothing(grounded: Manifest, tmp_path: Path) -> None:
    root = grounded.root
    expected, uneven, bare = take(
        tmp_path, 1, [run(root, 16), run(root, 3), run(root, 16, stage={})]
    )
    assert loss_difference(bare, expected) > 0.05
    ranks = take(tmp_path, 2, [run(root, 8), run(root, 3), run(root, 8, **zero(2))])
    for found in (uneven, *ranks):
        assert loss_difference(found, expected) < 1e-6
        assert found[0]["gradient"] < 1e-6


def test_ranks_and_accumulation_change_nothing_of_a_models_own_losses(
    grounded: Manifest, tmp_path: Path
) -> None:
    sizes = small("gvd", dropout=0.0, regions=12, heads=3, location=5, layers=0)
    losses = ("attention_loss", "grounding_loss", "class_loss")
    model = {**sizes, **dict.fromkeys(losses, MU), "iou": 0.1, "prophet": {"span": "phrase"}}
    off = {**sizes, **dict.fromkeys(losses, 0)}
    root = grounded.root

    def described(micro: int, **more: Any) -> dict[str, Any]:
        return run(root, micro, **{"model": model, "stage": {}, **more})

    bare, expected, uneven = take(
        tmp_path, 1, [described(16, model=off), described(16), described(3)]
    )
    assert loss_difference(bare, expected) > 0.05
    for found in (uneven, *take(tmp_path, 2, [described(8), described(3, **zero(2))])):
        assert loss_difference(found, expected) < 1e-6
        assert found[0]["gradient"] < 1e-6


def test_the_objective_is_the_sum_of_both() -> None:
    torch.manual_seed(3)
    model, batch = build(MODEL, DIMS), make_batch()
    assert isinstance(model, Salient)

    def loss(batch: Batch, **grounding: float) -> float:
        section = {"objective": "xe", "epochs": 1, "batch": {"images": 3, "micro": 3}}
        chosen = {"grounding": grounding} if grounding else {}
        stage = CrossEntropyStage.model_validate({**section, "optimizer": {"lr": 1}, **chosen})
        return float(CrossEntropy(model, stage)(batch).detach())

    # One box, on the second region of the first image, and overlapping it by three quarters.
    boxes = torch.zeros_like(batch.boxes)
    boxes[0, 1] = torch.tensor([0.0, 0.0, 0.5, 1.0])
    objects = torch.zeros(3, 1, 4)
    objects[0, 0] = torch.tensor([0.0, 0.0, 0.5, 0.75])
    captions = torch.tensor([[1], [-1], [-1]])
    batch = replace(batch, boxes=boxes, objects=objects, object_captions=captions)
    added = -float(model.saliency(batch)[0, 1].detach())
    assert added > 0
    assert loss(batch, weight=MU) == pytest.approx(loss(batch) + MU * added, rel=1e-6)
    assert loss(batch, weight=MU, iou=0.7) == loss(batch, weight=MU)
    assert loss(batch, weight=MU, iou=0.8) == loss(batch)
