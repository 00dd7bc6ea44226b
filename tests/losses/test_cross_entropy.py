"""Cross entropy against a loop over words; scheduled sampling at its two ends."""

from __future__ import annotations

import pytest
import torch

from capdist.losses.cross_entropy import cross_entropy, scheduled_inputs
from capdist.models.base import build
from capdist.vocab import PAD
from tests.support.models import DIMS, make_batch, small


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sums_over_all_targets_but_padding(smoothing: float) -> None:
    model, batch = build(small("glied"), DIMS).eval(), make_batch()
    batch.tokens[0, 1] = PAD
    batch.tokens[1, 0, 4:] = PAD
    with torch.no_grad():
        loss = cross_entropy(model, batch, label_smoothing=smoothing, sampled=0.0)
        log_probs = model(model.encode(batch), batch.inputs).log_softmax(-1)
    expected, V = 0.0, DIMS.vocabulary
    for i, j, t in torch.nonzero(batch.targets != PAD).tolist():
        row = log_probs[i, j, t]
        expected -= (1 - smoothing) * row[batch.targets[i, j, t]].item()
        expected -= smoothing / V * row.sum().item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert batch.token_count == 3 * 2 * 5 - 5 - 2


def test_a_model_without_states_has_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = build(small("glied"), DIMS).eval(), make_batch()
    batch.tokens[0, 1] = PAD
    batch.tokens[1, 0, 4:] = PAD
    expected = cross_entropy(model, batch, label_smoothing=0.1, sampled=0.0)
    monkeypatch.setattr(type(model), "packs", False)
    found = cross_entropy(model, batch, label_smoothing=0.1, sampled=0.0)
    torch.testing.assert_close(found, expected)


def test_probability_0_is_teacher_forcing() -> None:
    model, batch = build(small("lstm"), DIMS).eval(), make_batch()
    words = scheduled_inputs(model, model.encode(batch), batch, batch.words, 0.0)
    assert torch.equal(words.tokens, batch.words.tokens)


def test_probability_1_draws_every_word_from_the_model() -> None:
    model, batch = build(small("lstm"), DIMS).eval(), make_batch()
    # A model that is certain of word 6 draws it everywhere but for the first word.
    model.get_parameter("output.bias").data[6] = 1e4
    batch.tokens[2, 1, 3:] = PAD
    words = scheduled_inputs(model, model.encode(batch), batch, batch.words, 1.0)
    first = words.positions == 0
    assert torch.equal(words.tokens[first], batch.words.tokens[first])
    assert (words.tokens[~first] == 6).all()
    assert words.count == batch.token_count


@pytest.mark.parametrize("name", ["lstm", "updown"])
def test_drawn_words_follow_those_drawn_before(name: str) -> None:
    model, batch = build(small(name), DIMS).eval(), make_batch()
    # So certain of its words that drawing one is as good as choosing the likeliest.
    model.get_parameter("output.weight").data.mul_(1e4)
    words = scheduled_inputs(model, model.encode(batch), batch, batch.words, 1.0)
    drawn = words.pad(words.tokens)
    with torch.no_grad():
        likeliest = model(model.encode(batch), drawn).argmax(-1)
    assert torch.equal(drawn[..., 1:], likeliest[..., :-1])


def test_words_are_sampled_with_the_probability() -> None:
    model, batch = build(small("lstm"), DIMS).eval(), make_batch()
    model.get_parameter("output.bias").data[6] = 1e4
    batch.tokens[..., 1:] = 7
    torch.manual_seed(5)
    memory, words = model.encode(batch), batch.words
    drawn = [scheduled_inputs(model, memory, batch, words, 0.25) for _ in range(100)]
    later = words.positions > 0
    share = torch.stack([each.tokens[later] == 6 for each in drawn]).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.03)
