"""Samples follow the model's distribution, and do not depend on the other images of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.config.decoding import SamplingConfig
from capdist.decoding.sampling import draw, invert, sample_captions, uniform, unit
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, EOS, PAD, UNK
from tests.support.decoding import DECODERS, V, batch_of, make
from tests.support.models import B, images_of


def sample(model: CaptionModel[Any], batch: Batch, seed: int, samples: int = 4) -> Tensor:
    sampling = SamplingConfig(samples=samples, max_words=5)
    with torch.inference_mode():
        return sample_captions(model, model.encode(batch), batch, sampling, seed)


def test_uniform_numbers_are_uniform_and_independent() -> None:
    u = uniform(3, torch.arange(500)[:, None], torch.arange(400), 7)
    assert u.min() > 0
    assert u.max() < 1
    counts = torch.histc(u, 50, 0, 1)
    # Chi-squared with 49 degrees of freedom: more than 100 once in 20,000 times.
    assert float(((counts - 4000) ** 2 / 4000).sum()) < 100
    for other in (uniform(4, torch.arange(500)[:, None], torch.arange(400), 7), u.roll(1, 0)):
        assert abs(float(torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1])) < 0.01


def splitmix64(state: int) -> int:
    """One step of SplitMix64 (Steele et al. 2014) with unsigned 64-bit integers."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_uniform_numbers_hash_the_key_by_splitmix64() -> None:
    seed, images, samples, position = 2**40 + 3, [0, 7, 2**33], [0, 1], 5
    found = uniform(torch.tensor(seed), torch.tensor(images)[:, None], torch.tensor(samples), 5)
    for i, image in enumerate(images):
        for j, sample_number in enumerate(samples):
            state = 0
            for part in (seed, image, sample_number, position):
                state = splitmix64(state ^ part)
            assert found[i, j].item() == ((state >> 41) + 0.5) / 2**23


def test_the_interval_is_open() -> None:
    ends = unit(torch.tensor([0, 2**23 - 1]))
    assert ends[0] > 0
    assert ends[1] < 1


def test_logits_that_are_not_numbers_give_a_token_of_the_vocabulary() -> None:
    tokens = draw(torch.full((6, 7), torch.nan), torch.rand(6))
    assert ((tokens >= 0) & (tokens < 7)).all()


def test_tokens_without_probability_are_never_drawn() -> None:
    cumulative = torch.tensor([0.0, 0.4, 0.9, 0.9])
    drawn = invert(cumulative.repeat(4, 1), torch.tensor([1e-8, 0.4, 0.5, 1.0]))
    assert drawn.tolist() == [1, 1, 2, 2]


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.0, 0.4, 0.1])  # their sum is not 1
    u = uniform(5, torch.arange(200)[:, None], torch.arange(500), 2).flatten()
    drawn = draw(probabilities.expand(len(u), 5), u)
    share = torch.bincount(drawn, minlength=5) / len(u)
    torch.testing.assert_close(share, probabilities / 0.8, rtol=0, atol=0.006)
    assert share[2] == 0


@pytest.mark.parametrize("name", DECODERS)
def test_samples_do_not_depend_on_the_batch(name: str) -> None:
    model, batch = make(name), batch_of(V)
    together = sample(model, batch, 11)
    for i in range(B):
        alone = sample(model, images_of(batch, slice(i, i + 1)), 11)
        assert torch.equal(alone[0], together[i])
    fewer = sample(model, batch, 11, samples=2)
    assert torch.equal(fewer, together[:, :2])
    assert not torch.equal(sample(model, batch, 12), together)


@pytest.mark.parametrize("name", DECODERS)
def test_every_word_is_drawn_from_the_distribution_after_those_before_it(name: str) -> None:
    model, batch, seed = make(name), batch_of(V), 1
    found = sample(model, batch, seed)
    inputs = torch.cat([torch.full((B, 4, 1), BOS), found[..., :-1]], -1)
    with torch.no_grad():
        logits = model(model.encode(batch), inputs)
    logits[..., [PAD, BOS, UNK]] = -torch.inf
    place = torch.arange(5)
    u = uniform(seed, batch.image_ids[:, None, None], torch.arange(4)[:, None], place)
    drawn = draw(logits.softmax(-1)[..., :5, :].flatten(0, 2), u.flatten()).view_as(u)
    ended = (found == EOS).cumsum(-1) > 0
    after_end = ended.roll(1, -1)
    after_end[..., 0] = False
    assert (found[after_end] == PAD).all()
    assert torch.isin(found[..., 5], torch.tensor([EOS, PAD])).all()
    assert ended[..., 5].all()  # after max_words words at the latest
    assert ended[..., 2].any()  # and some before
    assert torch.equal(found[..., :5][~after_end[..., :5]], drawn[~after_end[..., :5]])
