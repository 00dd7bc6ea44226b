"""The grounding loss against the paper's definition, box by box, and values by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from capdist.batch import Batch
from capdist.losses.grounding import Salient, grounding_loss, pairwise_iou, positives
from capdist.models.base import build
from tests.support.models import DIMS, B, R, S, images_of, make_batch, small

Box = list[float]


def iou(a: Box, b: Box) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return wide * high / (sum(areas) - wide * high)


def boxes(generator: torch.Generator, *shape: int) -> torch.Tensor:
    corner = torch.rand(*shape, 2, generator=generator) * 0.6
    return torch.cat([corner, corner + 0.1 + torch.rand(*shape, 2, generator=generator) * 0.3], -1)


def random_batch(seed: int, objects: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    captions = torch.randint(-1, S, (B, objects), generator=generator).sort(-1, True).values
    return replace(
        make_batch(),
        boxes=boxes(generator, B, R),
        objects=boxes(generator, B, objects),
        object_captions=captions,
    )


def literal(log_beta: torch.Tensor, batch: Batch, least: float) -> float:
    """-Σ σ_i log β_i of every caption, σ by arg max."""
    total = 0.0
    for image in range(B):
        real = int(batch.region_mask[image].sum())
        regions = batch.boxes[image, :real].tolist()
        for caption in range(S):
            chosen = set()
            for box, owner in zip(batch.objects[image], batch.object_captions[image], strict=True):
                ious = [iou(region, box.tolist()) for region in regions]
                if owner == caption and max(ious) > least:
                    chosen.add(ious.index(max(ious)))
            total -= sum(float(log_beta[image, i]) for i in chosen)
    return total


@pytest.mark.parametrize("objects", [0, 1, 7])
@pytest.mark.parametrize("least", [0.0, 0.3, 0.9])
def test_equals_the_definition(objects: int, least: float) -> None:
    for seed in range(5):
        batch = random_batch(seed, objects)
        log_beta = torch.randn(B, R, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
        expected = literal(log_beta, batch, least)
        assert grounding_loss(log_beta, batch, least).item() == pytest.approx(expected, rel=1e-5)


def test_grounding_loss_equals_hand_computed_values() -> None:
    left, right, whole = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]
    # An image with three regions; caption 0 names the left half twice, caption 1 right and whole.
    batch = make_batch()
    batch = replace(
        images_of(batch, slice(2, None)),
        boxes=torch.tensor([[whole, left, right, left, left]]),
        objects=torch.tensor([[left, [0.0, 0.1, 0.5, 1.0], right, whole, [0.0] * 4]]),
        object_captions=torch.tensor([[0, 0, 1, 1, -1]]),
    )
    assert positives(batch).tolist() == [[[0, 1, 0, 0, 0], [1, 0, 1, 0, 0]]]
    beta = torch.tensor([[0.5, 0.2, 0.3, 1.0, 1.0]])
    expected = -math.log(0.2) - math.log(0.5) - math.log(0.3)
    assert grounding_loss(beta.log(), batch).item() == pytest.approx(expected)


def test_a_box_without_overlap_gives_no_positive_region() -> None:
    batch = replace(random_batch(1, 1), objects=torch.full((B, 1, 4), 2.0) + torch.eye(4)[3])
    assert not positives(batch).any()


def test_empty_boxes_have_iou_zero() -> None:
    empty = torch.tensor([[[0.3, 0.3, 0.3, 0.3]]])
    assert pairwise_iou(empty, empty).item() == 0.0


def test_the_empty_batch_has_no_loss() -> None:
    model = build(small("ss_updown"), DIMS)
    assert isinstance(model, Salient)
    batch = Batch.empty(7)
    loss = grounding_loss(model.saliency(batch), batch)
    loss.backward()
    assert loss.item() == 0.0


def test_its_gradient_reaches_only_the_spatial_semantic_parameters() -> None:
    model, batch = build(small("ss_updown"), DIMS), random_batch(1, 3)
    assert isinstance(model, Salient)
    grounding_loss(model.saliency(batch), batch).backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.partition(".")[0] for name in learned} == {"spatial_semantic"}


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model, batch = build(small("ss_updown"), DIMS), random_batch(1, 3)
    assert isinstance(model, Salient)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = grounding_loss(model.saliency(batch), batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
