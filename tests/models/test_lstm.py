"""The LSTM decoder against torch's own LSTM, and the size of Table 2."""

from __future__ import annotations

import torch
from torch import nn

from capdist.models.base import Dims, build
from capdist.models.lstm import Lstm
from tests.support.models import make_batch, size_in_millions


def test_size_at_the_papers_settings() -> None:
    count = size_in_millions({"name": "lstm"})
    assert abs(count / 11.5 - 1) < 0.05


def test_equals_a_whole_sequence_lstm() -> None:
    model, batch = build({"name": "lstm", "width": 11}, Dims(7, 23)).eval(), make_batch()
    assert isinstance(model, Lstm)
    whole = nn.LSTM(256 + 11, 11, batch_first=True)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(whole, f"{name}_l0").data.copy_(getattr(model.cell, name).data)
    with torch.inference_mode():
        logits = model(model.encode(batch), batch.inputs)
        for image in range(3):
            mean = batch.regions[image][batch.region_mask[image]].mean(0)
            pooled = model.image(mean).relu().expand(5, -1)
            words = model.words(batch.inputs[image, 0])
            expected = model.output(whole(torch.cat([words, pooled], -1)[None])[0][0])
            torch.testing.assert_close(logits[image, 0], expected, rtol=1e-4, atol=1e-5)
