"""The detector against its equations, region by region, and what its output may depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from capdist.batch import Batch
from capdist.losses.concepts import absence_nll, noisy_or
from capdist.models.base import registered
from capdist.models.concept_detector import PRIOR, ConceptDetector, CrossFitted
from tests.support.models import B, R, make_batch

WORDS = 11


def make() -> ConceptDetector:
    torch.manual_seed(1)
    detector = ConceptDetector(7, WORDS, 5, 0.5).eval()
    torch.nn.init.normal_(detector.says.bias)
    return detector


def probabilities(detector: ConceptDetector, batch: Batch) -> torch.Tensor:
    with torch.inference_mode():
        return noisy_or(absence_nll(*detector(batch)))


def test_equals_the_equations() -> None:
    detector, batch = make(), make_batch()
    u, b = detector.says.weight.double(), detector.says.bias.double()

    def says(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        hidden = (layer.weight.double() @ x + layer.bias.double()).clamp(min=0)
        return torch.sigmoid(u @ hidden + b)

    found = probabilities(detector, batch)
    for image in range(B):
        v = [batch.regions[image, i].double() for i in range(R) if batch.region_mask[image, i]]
        pooled = torch.cat([sum(v) / len(v), torch.stack(v).amax(0)])  # type: ignore[arg-type]
        none = 1 - says(detector.image, pooled)
        for region in v:
            none = none * (1 - says(detector.region, region))
        torch.testing.assert_close(found[image], (1 - none).float(), rtol=1e-5, atol=1e-6)


def test_output_does_not_depend_on_padding_or_other_images() -> None:
    detector, batch = make(), make_batch()
    before = probabilities(detector, batch)
    padded = replace(
        batch,
        regions=torch.cat([batch.regions, torch.full((B, 2, 7), 1e3)], 1),
        region_mask=torch.cat([batch.region_mask, torch.zeros(B, 2, dtype=torch.bool)], 1),
    )
    torch.testing.assert_close(probabilities(detector, padded), before, rtol=1e-6, atol=1e-7)
    alone = replace(batch, regions=batch.regions[1:2], region_mask=batch.region_mask[1:2])
    torch.testing.assert_close(probabilities(detector, alone), before[1:2], rtol=1e-6, atol=1e-7)


def test_the_order_of_regions_does_not_matter() -> None:
    detector, batch = make(), make_batch()
    turned = replace(batch, regions=batch.regions.flip(1), region_mask=batch.region_mask.flip(1))
    expected = probabilities(detector, batch)
    torch.testing.assert_close(probabilities(detector, turned), expected, rtol=1e-5, atol=1e-6)


def test_initial_probabilities_are_small() -> None:
    torch.manual_seed(2)
    p = probabilities(ConceptDetector(7, WORDS, 5, 0.5).eval(), make_batch())
    # With 5 regions and the image: 1 - (1 - σ(-6.58))^6 = 0.008, spread by random weights.
    assert 0.5 < p[0].log().mean().exp() / (6 * torch.sigmoid(torch.tensor(PRIOR))) < 2


def test_detectors_are_initialised_differently() -> None:
    torch.manual_seed(3)
    detectors = CrossFitted(7, WORDS, 5, 0.5, folds=2)
    said = [noisy_or(absence_nll(*logits)) for logits in detectors.eval()(make_batch())]
    assert len(said) == 3
    assert not torch.allclose(said[0], said[1])
    assert not torch.allclose(said[1], said[2])


def test_the_detector_is_not_registered_as_a_captioning_model() -> None:
    assert not [name for name in registered() if "detector" in name]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_probabilities_are_fp32(dtype: torch.dtype) -> None:
    assert probabilities(make().to(dtype), make_batch()).dtype == torch.float32
