"""MIA against its equations written out anew, row by row and head by head."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capdist.config.base import ConfigError
from capdist.config.run_config import load_config
from capdist.models.base import Dims, build
from capdist.models.mia import AttentionLayer, Mia, MiaConfig, refiner
from tests.support.mia_reference import (
    D,
    literal_mia,
)
from tests.support.processes import ROOT

#: Regions and concepts of four images: more, fewer, as many, none.
REGIONS, CONCEPTS = (5, 2, 3, 4), (2, 7, 3, 0)
ROWS: dict[str, dict[str, Any]] = {
    "paper": {},
    "visual": {"output": "visual"},
    "textual": {"output": "textual"},
    "reverse": {"start": "visual"},
    "reverse-visual": {"start": "visual", "output": "visual", "iterations": 1},
    "reverse-textual": {"start": "visual", "output": "textual", "iterations": 3},
    "once": {"iterations": 1},
    "outer norm": {"outer_norm": True, "iterations": 3},
    "outer norm-textual": {"outer_norm": True, "output": "textual"},
    "once-visual": {"iterations": 1, "output": "visual"},
    "self": {"attention": "self"},
    "self-visual": {"attention": "self", "output": "visual", "iterations": 3},
    "self-textual": {"attention": "self", "output": "textual"},
}


def make(**options: Any) -> Mia:
    torch.manual_seed(5)
    section = {"name": "mia", "heads": 3, "hidden": 10, **options}
    made = refiner(MiaConfig.model_validate(section), D).eval()
    assert isinstance(made, Mia)
    for name, parameter in made.named_parameters():
        # Norms and biases that do nothing would hide a forgotten one.
        if "norm" in name or name.endswith("bias"):
            nn.init.normal_(parameter, 0.5, 0.5)
    return made


def inputs(padding: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    made = []
    for counts in (REGIONS, CONCEPTS):
        longest = max(counts)
        mask = torch.arange(longest + padding) < torch.tensor(counts)[:, None]
        rows = torch.randn(len(counts), longest, D, generator=generator)
        rows = torch.cat([rows, torch.full((len(counts), padding, D), 1e3)], 1)
        made += [rows, mask]
    return made[0], made[1], made[2], made[3]


@pytest.mark.parametrize("row", ROWS)
def test_logits_equal_the_papers_equations(row: str) -> None:
    m = make(**ROWS[row])
    regions, region_mask, concepts, concept_mask = inputs(padding=2)
    with torch.inference_mode():
        visual, textual = m(regions, region_mask, concepts, concept_mask)
        for image, (r, a) in enumerate(zip(REGIONS, CONCEPTS, strict=True)):
            i, t = literal_mia(m, regions[image, :r], concepts[image, :a])
            torch.testing.assert_close(visual[image, :r], i, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(textual[image, :a], t, rtol=1e-4, atol=1e-4)


def test_equal_numbers_of_concepts_and_regions_give_equal_outputs() -> None:
    m = make()
    rows = inputs()
    square = [part[2:3, :3] for part in rows]
    visual, textual = m(*square)
    torch.testing.assert_close(visual, textual)


def test_the_order_of_guidance_matters() -> None:
    first, second = make(), make(start="visual")
    second.load_state_dict(first.state_dict())
    assert not torch.allclose(first(*inputs())[0], second(*inputs())[0], atol=1e-3)


def test_one_region_does_not_depend_on_its_guide() -> None:
    # The other modality enters through attention weights alone, and one weight is always 1.
    m = make(output="visual")
    regions, region_mask, concepts, concept_mask = inputs()
    one = region_mask.clone()
    one[:, 1:] = False
    found = m(regions, one, concepts, concept_mask)[0][:, 0]
    other = m(regions, one, concepts.flip(0), concept_mask)[0][:, 0]
    torch.testing.assert_close(found, other)
    many = m(regions, region_mask, concepts.flip(0), concept_mask)[0]
    assert not torch.allclose(m(*inputs())[0], many, atol=1e-3)


@pytest.mark.parametrize("row", ROWS)
def test_gradients_reach_real_rows_only(row: str) -> None:
    m = make(**ROWS[row])
    regions, region_mask, concepts, concept_mask = inputs(padding=1)
    regions.requires_grad_()
    concepts.requires_grad_()
    refined = m(regions, region_mask, concepts, concept_mask)
    kept = [part[mask] for part, mask in zip(refined, (region_mask, concept_mask), strict=True)]
    (kept[0].pow(3).sum() + kept[1].pow(3).sum()).backward()
    for rows, mask in ((regions, region_mask), (concepts, concept_mask)):
        assert rows.grad is not None
        assert torch.equal(rows.grad.any(-1), mask)
    assert all(
        p.grad is not None and p.grad.any()
        for name, p in m.named_parameters()
        if not name.endswith("key.bias")  # It moves all scores of a query alike.
    )


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"name": "nic", "refine": {"name": "mia", "output": "textual"}}, "model.refine.output: "),
        ({"name": "att_fcn", "refine": {"name": "mia", "output": "visual"}}, "'both' or 'textual'"),
        ({"name": "nic", "width": 20, "refine": {"name": "mia"}}, "8 heads do not divide"),
        (
            {"name": "nic", "refine": {"name": "mia", "attention": "self", "start": "visual"}},
            "model.refine: start visual",
        ),
        ({"name": "nic", "refine": {"name": "mia", "iteration": 1}}, "did you mean"),
    ],
)
def test_impossible_sections_are_refused(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refusal:
        build(section, Dims(7, 23))
    assert "\n" not in str(refusal.value)


def test_size_at_the_papers_settings() -> None:
    mia = refiner(MiaConfig(name="mia"), 512)
    attention, feed_forward, norms = 4 * (512**2 + 512), 2 * 512 * 2048 + 2048 + 512, 2 * 2 * 512
    expected = 2 * (attention + feed_forward + norms) + 2 * 512
    assert sum(parameter.numel() for parameter in mia.parameters()) == expected


def trained(width: int, lr: float, *, outer_norm: bool = True) -> tuple[Mia, tuple[Tensor, ...]]:
    """MIA after 40 steps that ask for the regions, in evaluation mode, and its last input."""
    torch.manual_seed(1)
    m = refiner(MiaConfig(name="mia", outer_norm=outer_norm), width)
    assert isinstance(m, Mia)
    out, target = nn.Linear(width, width), torch.randn(width, width) / width**0.5
    optimizer = torch.optim.Adam([*m.parameters(), *out.parameters()], lr)
    real = torch.ones(2, 6, dtype=torch.bool)
    for _ in range(40):
        regions, concepts = torch.randn(2, 6, width).relu(), 0.02 * torch.randn(2, 6, width)
        refined, _ = m(regions, real, concepts, real)
        loss = (out(refined) - regions @ target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return m.eval(), (regions, real, concepts, real)


def spread_after_training(width: int, lr: float, *, outer_norm: bool) -> float:
    """The variance of an image's refined regions."""
    m, given = trained(width, lr, outer_norm=outer_norm)
    with torch.inference_mode():
        return float(m(*given)[0].var(1).mean())


@pytest.mark.parametrize(("width", "lr"), [(128, 2e-3), (512, 2e-3), (1000, 5e-4)])
def test_regions_stay_distinct_at_the_hosts_rates_with_the_outer_norm(
    width: int, lr: float
) -> None:
    assert spread_after_training(width, lr, outer_norm=True) > 1e-2


def test_regions_become_equal_at_a_high_rate_without_the_outer_norm() -> None:
    assert spread_after_training(512, 2e-3, outer_norm=False) < 1e-6


def feed_forward_ratio(lr: float) -> float:
    """How many times the size of its input a feed-forward part's output has, the largest one's."""
    m, given = trained(512, lr)
    ratios: list[float] = []

    def note(_: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        ratios.append(float(output.norm() / arguments[0].norm()))

    for layer in m.layers.values():
        assert isinstance(layer, AttentionLayer)
        layer.feed_forward.register_forward_hook(note)
    with torch.inference_mode():
        m(*given)
    return max(ratios)


def test_the_feed_forward_part_outgrows_its_shortcut_at_the_hosts_rate_only() -> None:
    optimizer = load_config(ROOT / "configs/updown_mia.json").stages[0].optimizer
    (group,) = optimizer.groups
    assert group.lr is not None
    assert feed_forward_ratio(optimizer.lr) > 3
    assert feed_forward_ratio(group.lr) < 1.5


@pytest.mark.parametrize("options", ROWS.values(), ids=list(ROWS))
def test_accumulated_attention_is_the_product_of_the_iterations(options: dict[str, Any]) -> None:
    made, given = make(**options), inputs(padding=1)
    weights: dict[str, list[Tensor]] = {"visual": [], "textual": []}

    def note(module: nn.Module, arguments: tuple[Tensor, ...], _: Tensor) -> None:
        guide, value, mask = arguments
        keys = module.attend.key(value)
        scores = [
            (query @ key.transpose(1, 2) / math.sqrt(key.shape[-1]))
            .masked_fill(~mask[:, None], -1e9)
            .softmax(-1)
            for query, key in zip(
                module.attend.query(guide).chunk(3, -1), keys.chunk(3, -1), strict=True
            )
        ]
        weights[names[module]].append(torch.stack(scores).mean(0) * mask[:, None])

    names = {layer: name for name, layer in made.layers.items()}
    hooks = [layer.register_forward_hook(note) for layer in names]
    with torch.inference_mode():
        made(*given)
        for hook in hooks:
            hook.remove()
        found = made.accumulated(*given)
    assert len(found) == made.config.iterations
    for modality, part, mask in (
        ("visual", "regions", given[1]),
        ("textual", "concepts", given[3]),
    ):
        product = torch.diag_embed(mask.float())
        for step in weights[modality]:
            product = step @ product
        torch.testing.assert_close(found[-1][part], product, rtol=1e-5, atol=1e-6)
