"""A replayed search finds what a search finds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import Search
from capdist.decoding.constraints import Constraints
from capdist.decoding.cuda_graph import STRIDE, pad, searcher
from capdist.models.base import registered
from tests.support.decoding import V, batch_of, make


@pytest.mark.parametrize("name", registered())
def test_padding_changes_nothing(name: str) -> None:
    model, batch = make(name), batch_of(V)
    padded = pad(batch)
    assert padded.regions.shape[1] == padded.concepts.shape[1] == STRIDE
    assert pad(padded).regions.shape == padded.regions.shape
    search = searcher(model, DecodingConfig(max_words=5), Constraints(), torch.device("cpu"))
    found, expected = search(padded), search(batch)
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", registered())
@pytest.mark.parametrize(
    "options", [{}, {"beam": 4, "groups": 2}, {"no_repeat_ngram": 2, "length": {"name": "average"}}]
)
def test_a_graph_finds_what_a_search_finds(name: str, options: dict[str, Any]) -> None:
    device = torch.device("cuda")
    model, decoding = make(name).to(device), DecodingConfig(max_words=5, **options)
    replay = searcher(model, decoding, Constraints(), device)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        batch = batch_of(V)
        batch.regions.copy_(torch.randn(batch.regions.shape, generator=generator))
        batch = batch.to(device)
        with torch.inference_mode():
            expected = Search(model, batch, decoding, Constraints()).run(batch)
        found = replay(batch)
        assert torch.equal(found.tokens, expected.tokens)
        torch.testing.assert_close(found.scores, expected.scores)
