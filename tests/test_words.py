"""The places of words are those that a loop over captions finds."""

from __future__ import annotations

import torch

from capdist.words import Words


def test_words_are_ordered_by_position_and_the_longest_captions_come_first() -> None:
    tokens = torch.arange(24).view(2, 3, 4)
    lengths = torch.tensor([[2, 0, 4], [1, 3, 3]])
    words = Words.of(tokens, torch.arange(4) < lengths[..., None])
    assert words.captions.tolist() == [2, 4, 5, 0, 3]
    assert words.images.tolist() == [0, 1, 1, 0, 1]
    assert words.alive == (5, 4, 3, 1)
    assert words.tokens.tolist() == [8, 16, 20, 0, 12, 9, 17, 21, 1, 10, 18, 22, 11]
    assert words.positions.tolist() == [0] * 5 + [1] * 4 + [2] * 3 + [3]
    assert words.count == 13


def test_picking_reverses_padding() -> None:
    tokens, real = torch.arange(12).view(1, 3, 4), torch.tensor([[[1, 1, 0, 0], [1] * 4, [0] * 4]])
    words = Words.of(tokens, real.bool())
    padded = words.pad(words.tokens)
    assert torch.equal(padded, tokens * real)
    assert torch.equal(words.pick(padded), words.tokens)
    assert torch.equal(words.reading(tokens + 100).tokens, words.tokens + 100)


def test_all_places_are_those_of_captions_without_an_end() -> None:
    tokens = torch.arange(12).view(2, 2, 3)
    some, every = Words.of(tokens, torch.ones_like(tokens, dtype=torch.bool)), Words.all(tokens)
    assert torch.equal(some.tokens, every.tokens)
    assert torch.equal(some.index, every.index)
    assert torch.equal(some.captions, every.captions)
    assert (some.alive, some.shape, some.count) == (every.alive, every.shape, every.count)


def test_without_words_there_is_one_place() -> None:
    words = Words.of(torch.zeros(2, 1, 3, dtype=torch.long), torch.zeros(2, 1, 3).bool())
    assert (words.tokens.tolist(), words.alive, words.count) == ([0], (1,), 0)
