"""GVD against Zhou et al.'s equations, region by region; its losses' gradient by differences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import Dims, build
from capdist.models.gvd import REST, Gvd, SelfAttentionLayer
from capdist.models.layers import AddNorm
from capdist.vocab import EOS, PAD
from tests.support.equations import (
    additive,
    check_equations,
    check_gradient,
    lstm,
    mix,
    regions_of,
    roughened,
)
from tests.support.models import DIMS, make_batch, small

LAMBDA = {"attention_loss": 0.3, "grounding_loss": 0.7, "class_loss": 1.9}


def make(**options: Any) -> Gvd:
    torch.manual_seed(3)
    section = small("gvd", width=11, regions=12, location=5, heads=3, dropout=0.0)
    model = build({**section, **LAMBDA, **options}, DIMS).eval()
    assert isinstance(model, Gvd)
    return model


def test_size_at_the_papers_settings() -> None:
    with torch.device("meta"):
        model = build({"name": "gvd"}, Dims(2048, 8639 + 3, 480))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 56.5


def norm(x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt(centred.square().mean() + 1e-5)


def add_norm(layer: AddNorm, y: Tensor, x: Tensor) -> Tensor:
    return norm(x + y) * layer.norm.weight + layer.norm.bias


def embedded(m: Gvd, batch: Batch, image: int) -> list[Tensor]:
    """R."""
    assert isinstance(m.regions, torch.nn.Sequential)
    layer = m.regions[0]
    return [(layer.weight @ row + layer.bias).relu() for row in regions_of(batch, image)]


def class_scores(m: Gvd, batch: Batch, image: int) -> list[Tensor]:
    """W_c^T R + B + log p, class by class."""
    rows = []
    for i, r in enumerate(embedded(m, batch, image)):
        p = [REST] * DIMS.classes
        for cls, prob in zip(batch.class_ids[image, i], batch.class_probs[image, i], strict=True):
            p[int(cls)] += float(prob)
        score = [
            m.classes.weight[k] @ r + m.classes.bias[k] + math.log(p[k])
            for k in range(DIMS.classes)
        ]
        rows.append(torch.stack(score))
    return rows


def self_attention(layer: SelfAttentionLayer, rows: list[Tensor]) -> list[Tensor]:
    attend, found = layer.attend, []
    size = len(rows[0]) // attend.heads
    for x in rows:
        heads = []
        for n in range(attend.heads):
            own = slice(n * size, (n + 1) * size)
            q = (attend.query.weight @ x + attend.query.bias)[own]
            keys = [(attend.key.weight @ row + attend.key.bias)[own] for row in rows]
            values = [(attend.value.weight @ row + attend.value.bias)[own] for row in rows]
            scores = torch.stack([q @ key / math.sqrt(size) for key in keys])
            heads.append(mix(scores.softmax(0), values))
        y = attend.output.weight @ torch.cat(heads) + attend.output.bias
        x = add_norm(layer.norm_attended, y, x)
        inner, outer = layer.feed_forward[0], layer.feed_forward[2]
        y = outer.weight @ (inner.weight @ x + inner.bias).relu() + outer.bias
        found.append(add_norm(layer.norm, y, x))
    return found


def encoded(m: Gvd, batch: Batch, image: int) -> list[Tensor]:
    """R̃."""
    rows = []
    for i, (r, scores) in enumerate(
        zip(embedded(m, batch, image), class_scores(m, batch, image), strict=True)
    ):
        place = (m.location.weight @ batch.boxes[image, i] + m.location.bias).relu()
        x = torch.cat([norm(r), norm(scores.softmax(0)), norm(place)])
        rows.append((m.encoding.weight @ x + m.encoding.bias).relu())
    for layer in m.context:
        assert isinstance(layer, SelfAttentionLayer)
        rows = self_attention(layer, rows)
    return rows


def literal(m: Gvd, batch: Batch, image: int, caption: int, length: int) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and the last look."""
    regions = encoded(m, batch, image)
    mean = sum(regions, torch.zeros(())) / len(regions)
    h1 = c1 = h2 = c2 = torch.zeros(m.width)
    for token in batch.inputs[image, caption, :length]:
        gates = m.state_gates.weight @ torch.cat([h2, h1]) + m.image_gates.weight @ mean
        gates = gates + m.word_gates.weight @ m.words.weight[token] + m.word_gates.bias
        h1, c1 = lstm(gates, c1)
        look = additive(m.attend, h1, regions)
        x = torch.cat([mix(look, regions), h1, h2])
        h2, c2 = lstm(m.language_gates.weight @ x + m.language_gates.bias, c2)
    return m.output.weight @ h2 + m.output.bias, look


def test_logits_equal_the_papers_equations() -> None:
    check_equations(make(), make_batch(), literal)


def annotated() -> Batch:
    """Objects that some regions overlap by more than half, and captions that end early."""
    batch = make_batch()
    generator = torch.Generator().manual_seed(6)
    corner = torch.rand(3, 5, 2, generator=generator) * 0.2
    boxes = torch.cat([corner, corner + 0.6], -1)
    objects = boxes[:, [0, 2, 1, 0]] + 0.03 * torch.randn(3, 4, 4, generator=generator)
    objects[0, 1] = torch.tensor([0.9, 0.9, 1.0, 1.0])
    tokens = batch.tokens.clone()
    tokens[1, 0, 4:] = torch.tensor([EOS, PAD])
    return replace(batch, boxes=boxes, objects=objects, tokens=tokens)


def overlap(a: list[float], b: list[float]) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return wide * high / (sum(areas) - wide * high)


def literal_losses(m: Gvd, batch: Batch) -> dict[str, float]:
    """L_attn, L_grd and L_cls, object by object."""
    found = dict.fromkeys(LAMBDA, 0.0)
    for image in range(len(batch.tokens)):
        scores = class_scores(m, batch, image)
        for g in range(batch.objects.shape[1]):
            caption, head = (
                int(batch.object_captions[image, g]),
                int(batch.object_words[image, g, 2]),
            )
            if caption < 0 or batch.targets[image, caption, head] == PAD:
                continue
            beta = literal(m, batch, image, caption, head + 1)[1]
            c = int(batch.object_classes[image, g])
            located = torch.stack([s[c] for s in scores]) + beta.log()
            for i in range(len(scores)):
                if overlap(batch.boxes[image, i].tolist(), batch.objects[image, g].tolist()) > 0.5:
                    found["attention_loss"] -= float(beta[i].log())
                    if c >= 0:
                        found["grounding_loss"] -= float(located.log_softmax(0)[i])
                        found["class_loss"] -= float(scores[i].log_softmax(0)[c])
    return found


def loss_of(m: Gvd, batch: Batch) -> Tensor:
    loss = m.supervised(m.encode(batch), batch, batch.words)[1]
    assert loss is not None
    return loss


@pytest.mark.parametrize("only", LAMBDA)
def test_losses_equal_the_papers_equations(only: str) -> None:
    others = {name: LAMBDA[name] if name == only else 0.0 for name in LAMBDA}
    model, batch = make(**others), annotated()
    roughened(model)
    with torch.inference_mode():
        expected = literal_losses(model, batch)[only]
        assert expected > 0.1
        assert loss_of(model, batch).item() == pytest.approx(LAMBDA[only] * expected, rel=1e-4)


def test_the_gradient_equals_differences() -> None:
    model, batch = make().double(), annotated()
    batch = replace(batch, regions=batch.regions.double())
    # Of what is written after the last look.
    without = ("output", "language")
    parts = tuple(n for n, _ in model.named_parameters() if not n.startswith(without))
    check_gradient(model, lambda: loss_of(model, batch), parts)


def test_losses_do_not_depend_on_padding() -> None:
    model, batch = make(), annotated()
    more = {"objects": torch.rand(3, 1, 4), "object_words": torch.zeros(3, 1, 3, dtype=torch.long)}
    none = torch.full((3, 1), -1)
    padded = replace(
        batch,
        regions=torch.cat([batch.regions, torch.full((3, 1, 7), 1e3)], 1),
        region_mask=torch.cat([batch.region_mask, torch.zeros(3, 1, dtype=torch.bool)], 1),
        boxes=torch.cat([batch.boxes, batch.objects[:, :1]], 1),
        class_ids=torch.cat([batch.class_ids, batch.class_ids[:, :1]], 1),
        class_probs=torch.cat([batch.class_probs, batch.class_probs[:, :1]], 1),
        object_captions=torch.cat([batch.object_captions, none], 1),
        object_classes=torch.cat([batch.object_classes, none], 1),
        **{name: torch.cat([getattr(batch, name), rows], 1) for name, rows in more.items()},
    )
    with torch.inference_mode():
        assert loss_of(model, padded).item() == pytest.approx(loss_of(model, batch).item())


def test_an_object_named_after_the_end_of_a_clipped_caption_has_no_loss() -> None:
    model, batch = make(), annotated()
    clipped = replace(batch, object_words=torch.full_like(batch.object_words, 40))
    with torch.inference_mode():
        assert loss_of(model, clipped).item() == 0.0
