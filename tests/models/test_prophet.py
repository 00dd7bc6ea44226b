"""Prophet attention against its equations, word by word, and its gradient by differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.att2in import Att2in
from capdist.models.base import build
from capdist.models.prophet import Prophet
from capdist.models.updown import UpDown
from capdist.vocab import EOS, PAD
from tests.support.equations import additive, check_gradient, lstm, mix, regions_of, roughened
from tests.support.models import DIMS, make_batch, small

LAMBDA = 0.7
HOSTS = ["att2in", "updown"]


def make(host: str, span: str) -> Any:
    torch.manual_seed(3)
    section = small(host, width=11, dropout=0.0, prophet={"weight": LAMBDA, "span": span})
    return build(section, DIMS).eval()


def captions() -> Batch:
    """The usual batch, whose captions end where they end."""
    batch = make_batch()
    tokens = batch.tokens.clone()
    tokens[0, 0, 4:] = torch.tensor([EOS, PAD])
    tokens[0, 1, 5] = EOS
    tokens[1, 1, 1:] = torch.tensor([EOS, PAD, PAD, PAD, PAD])
    tokens[2, 0] = PAD
    return replace(batch, tokens=tokens)


def loss_of(model: Any, batch: Batch) -> Tensor:
    loss: Tensor = model.supervised(model.encode(batch), batch, batch.words)[1]
    return loss


def spans(batch: Batch, image: int, caption: int, words: int, span: str) -> list[range | None]:
    """The words that each word's target is computed from; None if it has none."""
    found: list[range | None] = [range(t, t + 1) for t in range(words)]
    if span == "phrase":
        found = [None] * words
        objects = zip(batch.object_captions[image], batch.object_words[image], strict=True)
        for start, end in [w[:2].tolist() for c, w in objects if c == caption]:
            for t in range(start, min(end, words)):
                found[t] = range(start, min(end, words))
    return found


def bilstm(m: Prophet, words: list[Tensor]) -> list[Tensor]:
    """The states of both directions, one after the other."""
    both = []
    for number, order in enumerate((words, words[::-1])):
        h = c = torch.zeros(m.sizes[number])
        states = []
        for word in order:
            layer = m.word_gates[number]
            gates = layer.weight @ word + layer.bias
            if m.state_gates:
                gates = gates + m.state_gates[number].weight @ h
            h, c = lstm(gates, c)
            states.append(h)
        both.append(states)
    return [torch.cat(pair) for pair in zip(both[0], both[1][::-1], strict=True)]


Attend = Callable[[Tensor], Tensor]


def att2in_steps(
    m: Att2in, batch: Batch, image: int, caption: int, given: list[Tensor | None]
) -> tuple[list[Tensor], list[Tensor], Attend]:
    """Logits and weights of every step; ``given`` weights take the place of the attention."""
    regions = [(m.regions.weight @ a + m.regions.bias).relu() for a in regions_of(batch, image)]
    width = len(regions[0])
    h = c = torch.zeros(width)
    logits, looks = [], []
    for token, weights in zip(batch.inputs[image, caption], given, strict=True):
        used = additive(m.attend, h, regions) if weights is None else weights
        total = m.word_gates.weight @ m.words.weight[token] + m.word_gates.bias
        i, f, o, *z = (total + m.state_gates.weight @ h).chunk(5)
        units = (m.image_units.weight @ mix(used, regions)).chunk(2)
        c = i.sigmoid() * torch.maximum(z[0] + units[0], z[1] + units[1]) + f.sigmoid() * c
        h = o.sigmoid() * c.tanh()
        logits.append(m.output.weight @ h + m.output.bias)
        looks.append(used)
    return logits, looks, lambda state: additive(m.attend, state, regions)


def updown_steps(
    m: UpDown, batch: Batch, image: int, caption: int, given: list[Tensor | None]
) -> tuple[list[Tensor], list[Tensor], Attend]:
    regions = regions_of(batch, image)
    mean = sum(regions, torch.zeros(())) / len(regions)
    h1 = c1 = h2 = c2 = torch.zeros(m.width)
    logits, looks = [], []
    for token, weights in zip(batch.inputs[image, caption], given, strict=True):
        gates = m.state_gates.weight @ torch.cat([h2, h1]) + m.image_gates.weight @ mean
        gates = gates + m.word_gates.weight @ m.words.weight[token] + m.word_gates.bias
        h1, c1 = lstm(gates, c1)
        used = additive(m.attend, h1, regions) if weights is None else weights
        x = torch.cat([mix(used, regions), h1, h2])
        h2, c2 = lstm(m.language_gates.weight @ x + m.language_gates.bias, c2)
        logits.append(m.output.weight @ h2 + m.output.bias)
        looks.append(used)
    return logits, looks, lambda state: additive(m.attend, state, regions)


STEPS: dict[str, Callable[..., Any]] = {"att2in": att2in_steps, "updown": updown_steps}


def literal(host: str, m: Any, batch: Batch, span: str) -> float:
    """λ L_Att and the second cross entropy, caption by caption."""
    total = 0.0
    for image, caption in ((i, s) for i in range(3) for s in range(2)):
        targets = batch.targets[image, caption].tolist()
        words = sum(token not in (EOS, PAD) for token in targets)
        _, looks, attend = STEPS[host](m, batch, image, caption, [None] * len(targets))
        embedded = [m.words.weight[token] for token in targets]
        ideal: list[Tensor] = []
        for t in range(len(targets)):
            own: list[range | None] = spans(batch, image, caption, words, span)
            among = (own[t] if t < words else None) or range(t, t + 1)
            states = bilstm(m.prophet, [embedded[k] for k in among])
            ideal.append(sum(map(attend, states), torch.zeros(())) / len(among))
            if t < words and own[t]:
                total += LAMBDA * float((looks[t] - ideal[t]).abs().sum())
        again, _, _ = STEPS[host](m, batch, image, caption, ideal)
        total -= sum(
            float(row.log_softmax(-1)[token])
            for row, token in zip(again, targets, strict=True)
            if token != PAD
        )
    return total


@pytest.mark.parametrize("span", ["word", "phrase"])
@pytest.mark.parametrize("host", HOSTS)
def test_the_loss_equals_the_equations(host: str, span: str) -> None:
    model, batch = make(host, span), captions()
    roughened(model)
    with torch.inference_mode():
        found = loss_of(model, batch).item()
        assert found == pytest.approx(literal(host, model, batch, span), rel=1e-4)


@pytest.mark.parametrize("host", [*HOSTS, "soft_attention"])
def test_its_gradient_equals_differences(host: str) -> None:
    model = make(host, "phrase").double()
    batch = replace(captions(), regions=captions().regions.double())
    check_gradient(model, lambda: loss_of(model, batch), ("prophet", "attend"))


@pytest.mark.parametrize("host", [*HOSTS, "soft_attention"])
def test_given_weights_take_the_place_of_the_attention(host: str) -> None:
    model, batch = make(host, "word"), captions()
    with torch.inference_mode():
        memory = model.encode(batch)
        own = model.attention(memory, batch.inputs)["regions"]
        words = batch.words
        own = words.pick(own)
        expected, same = model.unroll(memory, words), model.unroll(memory, words, own)
        other = model.unroll(memory, words, own.roll(1, -1))
    state = (lambda found: found[0]) if host == "updown" else (lambda found: found[1]["h"])
    torch.testing.assert_close(state(same), state(expected))
    assert not torch.allclose(state(other), state(expected))


def test_nothing_is_added_to_captioning() -> None:
    model, batch = make("updown", "word"), captions()
    with torch.inference_mode():
        before = model(model.encode(batch), batch.inputs)
        nn.init.normal_(model.prophet.word_gates[0].weight)
        assert torch.equal(model(model.encode(batch), batch.inputs), before)


@pytest.mark.parametrize(("span", "millions"), [("word", 4.0), ("phrase", 6.0)])
def test_size_of_the_bilstm(span: str, millions: float) -> None:
    section = {"name": "updown", "prophet": {"span": span}}
    sizes = [
        sum(parameter.numel() for parameter in build(each, DIMS).parameters())
        for each in (section, {"name": "updown"})
    ]
    assert round((sizes[0] - sizes[1]) / 1e6, 1) == millions
