"""What cross entropy leaves out of a batch at random, and the figures of the grounding loss."""

from __future__ import annotations

import math

import pytest
import torch

from capdist.models.base import build
from capdist.objectives.cross_entropy import (
    CrossEntropy,
    CrossEntropyStage,
    SaliencyFigures,
    keep_some,
)
from tests.support.models import DIMS, make_batch, small

MASK = torch.arange(40) < torch.tensor([40, 17, 1, 0])[:, None]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_share_of_places_is_left_out_but_never_all_of_them(share: float) -> None:
    torch.manual_seed(0)
    masks = torch.stack([keep_some(MASK, share) for _ in range(20_000)])
    assert not masks[:, ~MASK].any()
    assert (masks.any(-1) == MASK.any(-1)).all()
    left = 1 - masks[:, 0].float().mean()
    # All of 40 places are left out with probability 0.95^40, and are then kept.
    assert abs(float(left) - share * (1 - share**39)) < 0.01


def test_the_loss_of_the_models_own_is_in_the_metrics_log_per_token() -> None:
    section = {"objective": "xe", "epochs": 1, "batch": {"images": 3, "micro": 3}}
    stage = CrossEntropyStage.model_validate({**section, "optimizer": {"lr": 1}})
    batch = make_batch()
    for options, names in (({}, set()), ({"prophet": {}}, {"own_loss"})):
        model = build(small("att2in", dropout=0.0, **options), DIMS)
        objective = CrossEntropy(model, stage)
        objective.prepare([batch], 0, torch.device("cpu"))
        total = sum(objective(batch).item() for _ in range(2))
        found = objective.figures(objective.sums(), 1)
        assert set(found) == names
        if found:
            captions = torch.nn.functional.cross_entropy(
                model(model.encode(batch), batch.inputs).flatten(0, 2),
                batch.targets.flatten(),
                reduction="sum",
            )
            own = total / 2 - captions.item()
            assert found["own_loss"] == pytest.approx(own / batch.token_count, rel=1e-5)
        objective.prepare([batch], 1, torch.device("cpu"))
        assert objective.sums() == []


def test_the_effective_number_of_salient_regions() -> None:
    batch = make_batch()
    counts = batch.region_mask.sum(1).tolist()
    uniform = torch.zeros(batch.region_mask.shape).masked_fill(~batch.region_mask, -1e30)
    figures = SaliencyFigures()
    figures.add(uniform.log_softmax(-1), batch)
    assert figures.images == len(counts)
    assert math.isclose(figures.regions, sum(counts), rel_tol=1e-5)
    uniform[:, 0] = 1e9
    figures.add(uniform.log_softmax(-1), batch)
    assert math.isclose(figures.regions, sum(counts) + len(counts), rel_tol=1e-5)
