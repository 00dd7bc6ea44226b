"""Regions of several feature sets: each has its own map, and one that is absent changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from capdist.config.base import ConfigError
from capdist.models.base import Dims, build
from capdist.models.layers import RegionEmbedding
from tests.support.models import DIMS, make_batch, small

FURTHER = replace(DIMS, further=(4,))
FIRST = 2


def two_sets() -> Any:
    """A batch whose regions after the first two of every image are of a narrower set."""
    batch = make_batch()
    sets = (torch.arange(batch.regions.shape[1]) >= FIRST).long() * batch.region_mask
    regions = batch.regions.clone()
    regions[..., 4:][sets == 1] = 0
    return replace(batch, regions=regions, region_sets=sets)


def test_every_region_is_mapped_by_the_layer_of_its_set() -> None:
    batch, embed = two_sets(), RegionEmbedding((7, 4), 5)
    found = embed(batch.regions, batch.region_sets)
    for image, row in enumerate(batch.region_sets.tolist()):
        for region, number in enumerate(row):
            x = batch.regions[image, region]
            of_set = embed.further[0](x[:4]) if number else embed.weight @ x + embed.bias
            expected = of_set + embed.sets.weight[number]
            torch.testing.assert_close(found[image, region], expected, rtol=0, atol=1e-6)


def test_one_set_is_a_linear_layer_with_its_draws_and_names() -> None:
    torch.manual_seed(1)
    plain = torch.nn.Linear(7, 5)
    torch.manual_seed(1)
    embed = RegionEmbedding((7,), 5)
    embed.load_state_dict(plain.state_dict())
    batch = make_batch()
    assert torch.equal(embed(batch.regions, batch.region_sets), plain(batch.regions))


def test_glied_reads_both_and_steps_as_it_is_trained() -> None:
    model = build(small("glied"), FURTHER).eval()
    batch = two_sets()
    memory = model.encode(batch)
    logits = model(memory, batch.inputs)
    one_caption = batch.inputs[:, :1].transpose(1, 2)
    state = model.start(memory, 1, batch.inputs.shape[2])
    for position in range(batch.inputs.shape[2]):
        stepped, state = model.step(state, one_caption[:, position])
        torch.testing.assert_close(stepped[:, 0], logits[:, 0, position], rtol=1e-4, atol=1e-5)
    swapped = replace(batch, region_sets=1 - batch.region_sets)
    assert not torch.allclose(model(model.encode(swapped), batch.inputs), logits)
    # The second image has one region, and so none of the second set: its numbers do not matter.
    wide = replace(batch, regions=batch.regions.index_fill(1, torch.tensor([2, 3, 4]), 9.0))
    torch.testing.assert_close(model(model.encode(wide), batch.inputs)[1], logits[1])


def test_model_of_one_set_refuses_several() -> None:
    section = small("updown", features=("regions", "grid"))
    with pytest.raises(ConfigError, match=r"features: regions, grid, but model 'updown' reads one"):
        build(section, FURTHER)
    with pytest.raises(ConfigError, match="a set occurs twice"):
        build(small("glied", features=("grid", "grid")), Dims(7, 23))
