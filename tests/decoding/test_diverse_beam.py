"""Diverse beam search against a literal version, and attention along the hypotheses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capdist.config.base import ConfigError, validate
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import beam_search
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, EOS, PAD, UNK
from tests.support.decoding import DECODERS, V, batch_of, make, search
from tests.support.models import B

MAX = 4


@torch.inference_mode()
def literal(
    model: CaptionModel[Any], image: int, beam: int, groups: int, penalty: float
) -> list[tuple[float, list[int]]]:
    """Diverse beam search of one image, one prefix after another."""
    batch = batch_of(V)
    memory = model.encode(batch)

    def log_probs(words: list[int]) -> list[float]:
        prefix = torch.tensor([BOS, *words]).expand(B, 1, -1)
        logits = model(memory, prefix)[image, 0, -1].log_softmax(-1)
        found: list[float] = logits.tolist()
        return found

    size = beam // groups
    held: list[list[tuple[float, list[int]]]] = [[(0.0, [])] for _ in range(groups)]
    for position in range(MAX + 1):
        allowed = range(EOS, EOS + 1) if position == MAX else range(V)
        written: list[int] = []
        for g in range(groups):
            candidates = []
            for score, words in held[g]:
                if words[-1:] == [EOS]:
                    candidates.append((score, score, words))
                    continue
                gains = log_probs(words)
                for v in allowed:
                    if v not in (PAD, BOS, UNK):
                        new = score + gains[v]
                        candidates.append((new - penalty * written.count(v), new, [*words, v]))
            candidates.sort(key=lambda c: -c[0])
            before = {tuple(words) for _, words in held[g]}
            held[g] = [(score, words) for _, score, words in candidates[:size]]
            written += [words[-1] for _, words in held[g] if tuple(words) not in before]
    return sorted((h for group in held for h in group), key=lambda h: -h[0])


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(("beam", "groups", "penalty"), [(4, 2, 1.5), (6, 3, 0.4), (3, 3, 5.0)])
def test_equals_the_literal_version(name: str, beam: int, groups: int, penalty: float) -> None:
    model = make(name)
    found = search(model, batch_of(V), beam, MAX, groups=groups, diversity=penalty)
    for image in range(B):
        expected = literal(model, image, beam, groups, penalty)
        for k, (score, words) in enumerate(expected):
            assert [t for t in found.tokens[image, k].tolist() if t != PAD] == words
            assert found.scores[image, k].item() == pytest.approx(score, abs=1e-4)


def test_one_group_is_beam_search_and_several_are_not() -> None:
    model, batch = make("glied"), batch_of(V)
    one_group = search(model, batch, 4, 6).tokens
    assert torch.equal(search(model, batch, 4, 6, groups=1, diversity=9.0).tokens, one_group)
    assert not torch.equal(search(model, batch, 4, 6, groups=2, diversity=9.0).tokens, one_group)


def test_groups_that_do_not_divide_the_beam_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 groups do not divide a beam of 3"):
        validate(DecodingConfig, {"groups": 2}, "config")


@pytest.mark.parametrize("name", DECODERS)
def test_attention_is_that_of_each_hypothesis(name: str) -> None:
    model, batch = make(name), batch_of(V)
    found = beam_search(model, batch, DecodingConfig(beam=3, max_words=5), attention=True)
    inputs = torch.cat([torch.full((B, 3, 1), BOS), found.tokens[..., :-1]], -1)
    with torch.inference_mode():
        memory = model.encode(batch)
        assert set(found.attention) == set(model.attention(memory, inputs))
        for k in range(3):
            one = model.attention(memory, inputs[:, k : k + 1])
            for part, weights in one.items():
                torch.testing.assert_close(found.attention[part][:, k : k + 1], weights)
    if name == "glied":
        seen = found.attention["regions"].masked_select(batch.region_mask[:, None, None])
        assert seen.numel() > 0
        regions = found.attention["regions"]
        hidden = regions.masked_select(~batch.region_mask[:, None, None].expand_as(regions))
        assert not hidden.any()
