"""Searches by CUDA graphs equal those without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import Search
from capdist.decoding.constraints import Constraints
from capdist.decoding.cuda_graph import STRIDE, make_search, pad_to_stride
from tests.support.decoding import DECODERS, V, batch_of, make


@pytest.mark.parametrize("name", DECODERS)
def test_padding_does_not_change_captions(name: str) -> None:
    model, batch = make(name), batch_of(V)
    padded = pad_to_stride(batch)
    assert padded.regions.shape[1] == padded.concepts.shape[1] == STRIDE
    assert pad_to_stride(padded).regions.shape == padded.regions.shape
    search = make_search(model, DecodingConfig(max_words=5), Constraints(), torch.device("cpu"))
    found, expected = search(padded), search(batch)
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "options", [{}, {"beam": 4, "groups": 2}, {"no_repeat_ngram": 2, "length": {"name": "average"}}]
)
def test_a_graph_search_equals_a_search(name: str, options: dict[str, Any]) -> None:
    device = torch.device("cuda")
    model, decoding = make(name).to(device), DecodingConfig(max_words=5, **options)
    graph_search = make_search(model, decoding, Constraints(), device)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        batch = batch_of(V)
        batch.regions.copy_(torch.randn(batch.regions.shape, generator=generator))
        batch = batch.to(device)
        with torch.inference_mode():
            expected = Search(model, batch, decoding, Constraints()).run(batch)
        found = graph_search(batch)
        assert torch.equal(found.tokens, expected.tokens)
        torch.testing.assert_close(found.scores, expected.scores)
