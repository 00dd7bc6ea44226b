"""Up-Down and Spatial-Semantic attention against their equations, and the size of Table 2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.models.base import Dims, build
from capdist.models.mia import Mia
from capdist.models.spatial_semantic import SsUpDown, locations
from capdist.models.updown import UpDown
from tests.support.equations import additive, lstm, mix, regions_of
from tests.support.mia_reference import D, literal_mia
from tests.support.models import DIMS, SS_ROWS, make_batch, size_in_millions, small


@pytest.mark.parametrize(("regions", "millions"), [(None, 56.9), (1000, 50.1)])
def test_size_at_the_papers_settings(regions: int | None, millions: float) -> None:
    # 9,487 words with UNK, and the specials PAD, BOS and EOS; GLIED's Table 2 says 50.1 M.
    count = size_in_millions({"name": "updown", "regions": regions})
    assert round(count, 1) == millions


def test_size_with_mia() -> None:
    section = {"name": "updown", "regions": 1000, "refine": {"name": "mia"}}
    assert round(size_in_millions(section), 1) == 66.3


@pytest.mark.parametrize(("regions", "embedding"), [(None, 1000), (500, 1000), (512, 256)])
def test_mia_needs_regions_as_wide_as_words(regions: int | None, embedding: int) -> None:
    section = {"name": "updown", "regions": regions, "embedding": embedding}
    with pytest.raises(ConfigError, match="refine needs regions as wide as the words") as refusal:
        build({**section, "refine": {"name": "mia"}}, Dims(7, 23))
    assert f"not to {regions} and {embedding}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def beta(m: SsUpDown, batch: Batch, image: int, regions: list[Tensor]) -> Tensor:
    """Section 2.2: a dense class vector, and the location vector by hand."""
    ss, scores = m.spatial_semantic, []
    for i, v in enumerate(regions):
        if m.config.semantic:
            dense = torch.zeros(DIMS.classes)
            for cls, prob in zip(
                batch.class_ids[image, i], batch.class_probs[image, i], strict=True
            ):
                dense[cls] += prob
            c = ss.classes.weight[:, 0] @ dense
        else:
            c = ss.classes.weight[0] @ v + ss.classes.bias[0]
        p = v
        if m.config.spatial:
            x1, y1, x2, y2 = batch.boxes[image, i].tolist()
            p = torch.tensor([x1, x2, y1, y2, (x2 - x1) * (y2 - y1)])
        p = ss.place.weight[0] @ p + ss.place.bias[0]
        w_c, w_p = ss.score.weight[0]
        scores.append(float(w_c * max(c, 0) + w_p * max(p, 0)))
    return torch.softmax(torch.tensor(scores), 0)


def literal(
    m: UpDown, batch: Batch, image: int, caption: int, length: int
) -> tuple[Tensor, Tensor]:
    """Logits after ``length`` words, and the weights of the last look."""
    regions = regions_of(batch, image)
    if isinstance(m.regions, torch.nn.Sequential):
        regions = [(m.regions[0].weight @ v + m.regions[0].bias).clamp(min=0) for v in regions]
    if isinstance(m.refine, Mia):
        concepts = batch.concepts[image][batch.concept_mask[image]]
        regions = list(literal_mia(m.refine, torch.stack(regions), m.words.weight[concepts])[0])
    mean = sum(regions, torch.zeros(())) / len(regions)
    h1 = c1 = h2 = c2 = torch.zeros(m.width)
    for token in batch.inputs[image, caption, :length]:
        w = torch.cat([m.state_gates.weight, m.image_gates.weight, m.word_gates.weight], 1)
        x = torch.cat([h2, h1, mean, m.words.weight[token]])
        h1, c1 = lstm(w @ x + m.word_gates.bias, c1)
        weights = additive(m.attend, h1, regions)
        if isinstance(m, SsUpDown):
            weights = weights + m.config.share * beta(m, batch, image, regions)
        x = torch.cat([mix(weights, regions), h1, h2])
        h2, c2 = lstm(m.language_gates.weight @ x + m.language_gates.bias, c2)
    return m.output.weight @ h2 + m.output.bias, weights


MIA = {"name": "mia", "heads": 3, "hidden": 10}
AS_WIDE = {"width": 11, "embedding": D, "regions": D}
SECTIONS: dict[str, dict[str, Any]] = {
    "updown": small("updown", width=11),
    "updown-embedded": small("updown", width=11, regions=13),
    "updown-relu": small("updown", width=11, activation="relu"),
    "updown-mia": small("updown", **AS_WIDE, refine=MIA),
    "updown-mia-visual": small("updown", **AS_WIDE, refine={**MIA, "output": "visual"}),
    "ss": small("ss_updown", width=11, share=0.7),
    "ss-embedded": small("ss_updown", width=11, regions=13, activation="relu"),
    **{f"ss-{name}": small("ss_updown", width=11, **row) for name, row in SS_ROWS.items()},
}


@pytest.mark.parametrize("name", SECTIONS)
def test_logits_equal_the_papers_equations(name: str) -> None:
    torch.manual_seed(5)
    model, batch = build(SECTIONS[name], DIMS).eval(), make_batch()
    assert isinstance(model, UpDown)
    assert isinstance(model.refine, Mia) == ("mia" in name)
    relu = SECTIONS[name].get("activation") == "relu"
    assert model.attend.function is (torch.relu if relu else torch.tanh)
    with torch.inference_mode():
        memory = model.encode(batch)
        logits = model(memory, batch.inputs)
        looks = model.attention(memory, batch.inputs)["regions"]
        for image, caption, length in ((0, 0, 1), (0, 1, 5), (1, 0, 3), (2, 1, 4)):
            expected, weights = literal(model, batch, image, caption, length)
            found = logits[image, caption, length - 1]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            shown = looks[image, caption, length - 1][batch.region_mask[image]]
            torch.testing.assert_close(shown, weights / weights.sum(), rtol=1e-5, atol=1e-6)


def test_attention_is_not_renormalised() -> None:
    model, batch = build(small("ss_updown"), DIMS).eval(), make_batch()
    assert isinstance(model, SsUpDown)
    with torch.inference_mode():
        weights = model.attend_regions(model.encode(batch), torch.zeros(3, 2, 24))
    torch.testing.assert_close(weights.sum(-1), torch.full((3, 2), 1.5))


def test_locations_are_in_the_papers_order() -> None:
    x1, y1, x2, y2 = 0.125, 0.25, 0.5, 0.75
    found = locations(torch.tensor([[x1, y1, x2, y2]]))
    assert found.tolist() == [[x1, x2, y1, y2, 0.375 * 0.5]]


def test_only_the_classes_switch_needs_classes() -> None:
    assert build(small("ss_updown"), DIMS).needs == {"classes"}
    assert build(small("ss_updown", semantic=False), DIMS).needs == frozenset()


def test_every_class_gets_a_gradient_at_first() -> None:
    model, batch = build(small("ss_updown"), DIMS).eval(), make_batch()
    assert isinstance(model, SsUpDown)
    (model.saliency(batch)[0, :2] * torch.tensor([1.0, -1.0])).sum().backward()
    learned = model.spatial_semantic.classes.weight.grad[:, 0] != 0
    assert learned[batch.class_ids[0, :2].unique()].all()
