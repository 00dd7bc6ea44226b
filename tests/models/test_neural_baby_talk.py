"""Neural Baby Talk against its equations, region by region; its loss's gradient by differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import Dims, build
from capdist.models.neural_baby_talk import NeuralBabyTalk
from capdist.vocab import EOS, PAD
from tests.support.equations import additive, check_gradient, lstm, mix, regions_of, roughened
from tests.support.models import DIMS, make_batch, small


def make(**options: float) -> NeuralBabyTalk:
    torch.manual_seed(3)
    section = small("neural_baby_talk", width=11, regions=13, place=5, dropout=0.0)
    model = build({**section, **options}, DIMS).eval()
    assert isinstance(model, NeuralBabyTalk)
    return model


def test_size() -> None:
    with torch.device("meta"):
        model = build({"name": "neural_baby_talk"}, Dims(2048, 8639 + 3, 480))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 59.6


def linear(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    found = layer.weight @ x
    return found if layer.bias is None else found + layer.bias


def classes(batch: Batch, image: int, region: int) -> Tensor:
    p = torch.zeros(DIMS.classes)
    pairs = zip(batch.class_ids[image, region], batch.class_probs[image, region], strict=True)
    for cls, prob in pairs:
        p[cls] += prob
    return p / p.sum()


def regions(m: NeuralBabyTalk, batch: Batch, image: int) -> list[Tensor]:
    assert isinstance(m.regions, torch.nn.Sequential)
    rows = []
    for i, row in enumerate(regions_of(batch, image)):
        place = linear(m.place, batch.boxes[image, i]).relu()
        kinds = mix(classes(batch, image, i), list(m.class_table.weight))
        parts = [linear(m.regions[0], row).relu(), place, kinds]
        rows.append(linear(m.merge, torch.cat(parts)).relu())
    return rows


def literal(
    m: NeuralBabyTalk, batch: Batch, image: int, caption: int, length: int
) -> tuple[Tensor, Tensor]:
    """The probabilities of words after ``length`` words, and P_r."""
    rows = regions(m, batch, image)
    mean = sum(rows, torch.zeros(())) / len(rows)
    h1 = c1 = h2 = c2 = torch.zeros(m.width)
    for token in batch.inputs[image, caption, :length]:
        gates = m.state_gates.weight @ torch.cat([h2, h1]) + m.image_gates.weight @ mean
        h1, c1 = lstm(gates + linear(m.word_gates, m.words.weight[token]), c1)
        x = torch.cat([mix(additive(m.attend, h1, rows), rows), h1, h2])
        h2, c2 = lstm(linear(m.language_gates, x), c2)
        sentinel = linear(m.sentinel, x).sigmoid() * c2.tanh()
    scores = [
        m.pointer.weight[0] @ torch.tanh(key + linear(m.pointer_state, h2))
        for key in [
            *(m.pointer_region.weight @ v for v in rows),
            m.pointer_sentinel.weight @ sentinel,
        ]
    ]
    pointer = torch.stack(scores).softmax(0)
    p = pointer[-1] * linear(m.output, h2).softmax(0)
    for i, v in enumerate(rows):
        inside = (m.form_region.weight @ v + linear(m.form_state, h2)).relu()
        for form, share in enumerate(linear(m.form, inside).softmax(0)):
            for cls, prob in enumerate(classes(batch, image, i)):
                p = p + pointer[i] * share * prob * m.class_words[form, cls].softmax(0)
    return p, pointer


def test_words_and_pointers_equal_the_equations() -> None:
    model, batch = make(), make_batch()
    roughened(model)
    with torch.inference_mode():
        memory = model.encode(batch)
        found = model(memory, batch.inputs)
        shown = model.attention(memory, batch.inputs)["regions"]
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(found.shape[:-1]))
        for image, caption, length in ((0, 0, 1), (0, 1, 5), (1, 0, 3), (2, 1, 4)):
            p, pointer = literal(model, batch, image, caption, length)
            torch.testing.assert_close(
                found[image, caption, length - 1].exp(), p, rtol=1e-4, atol=1e-6
            )
            look = shown[image, caption, length - 1][batch.region_mask[image]]
            expected = pointer[:-1] / pointer[:-1].sum()
            torch.testing.assert_close(look, expected, rtol=1e-4, atol=1e-6)


def annotated() -> Batch:
    """Objects that some regions overlap by more than half, and a caption that ends early."""
    batch = make_batch()
    generator = torch.Generator().manual_seed(6)
    corner = torch.rand(3, 5, 2, generator=generator) * 0.2
    boxes = torch.cat([corner, corner + 0.6], -1)
    tokens = batch.tokens.clone()
    tokens[1, 0, 4:] = torch.tensor([EOS, PAD])
    return replace(batch, boxes=boxes, objects=boxes[:, [0, 2, 1, 0]], tokens=tokens)


def loss_of(m: NeuralBabyTalk, batch: Batch) -> Tensor:
    loss = m.supervised(m.encode(batch), batch, batch.words)[1]
    assert loss is not None
    return loss


def overlap(a: list[float], b: list[float]) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return wide * high / (sum(areas) - wide * high)


def literal_loss(m: NeuralBabyTalk, batch: Batch) -> tuple[float, int]:
    """The losses on P_r, word by word, and the number of visual words."""
    total, visual = 0.0, 0
    for image, caption, t in ((i, s, t) for i in range(3) for s in range(2) for t in range(5)):
        if batch.targets[image, caption, t] == PAD:
            continue
        pointer = literal(m, batch, image, caption, t + 1)[1]
        shown = set()
        for g in range(batch.objects.shape[1]):
            named = int(batch.object_captions[image, g]), int(batch.object_words[image, g, 2])
            if named == (caption, t):
                box = batch.objects[image, g].tolist()
                ious = [overlap(row.tolist(), box) for row in batch.boxes[image]]
                shown |= {i for i in range(len(pointer) - 1) if ious[i] > 0.5}
        p = sum(float(pointer[i]) for i in shown) / len(shown) if shown else float(pointer[-1])
        total -= float(torch.tensor(p).log())
        visual += bool(shown)
    return total, visual


def test_the_losses_on_pointers_equal_the_equation() -> None:
    model, batch = make(pointer_loss=0.7), annotated()
    roughened(model)
    with torch.inference_mode():
        expected, visual = literal_loss(model, batch)
        assert visual >= 4
        assert loss_of(model, batch).item() == pytest.approx(0.7 * expected, rel=1e-4)


def test_the_gradient_equals_differences() -> None:
    model, batch = make().double(), annotated()
    batch = replace(batch, regions=batch.regions.double())
    # What a word is, not where.
    without = ("output", "form", "class_words")
    parts = tuple(n for n, _ in model.named_parameters() if not n.startswith(without))
    check_gradient(model, lambda: loss_of(model, batch), parts)
