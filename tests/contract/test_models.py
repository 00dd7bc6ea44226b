"""What every registered model fulfils; a new model's file is picked up by itself."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import capdist.models
from capdist.batch import Batch
from capdist.losses.cross_entropy import cross_entropy
from capdist.models.base import CaptionModel, build, registered
from capdist.vocab import PAD
from tests.support.models import (
    DIMS,
    GLIED_ROWS,
    SS_ROWS,
    A,
    B,
    L,
    R,
    S,
    T,
    images_of,
    make_batch,
    small,
)

HOSTS = [name for name, model in registered().items() if "refine" in model.Config.model_fields]
MIA = {"name": "mia", "heads": 4, "hidden": 48}
MIA_ROWS: dict[str, dict[str, str | int]] = {
    "mia": {},
    "output": {"output": "visual"},
    "self": {"output": "visual", "attention": "self"},
    "start": {"start": "visual", "iterations": 3},
    "once": {"output": "visual", "iterations": 1},
}
PROPHET_ROWS: dict[str, dict[str, Any]] = {
    f"prophet-{span}": {"prophet": {"span": span}} for span in ("word", "phrase")
}
#: Up-Down's regions and words where MIA refines them.
AS_WIDE = {"regions": 12, "embedding": 12}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "glied": GLIED_ROWS,
    "gcn_lstm": {"semantic": {"graph": "semantic"}},
    "ss_updown": SS_ROWS,
    **{name: {"mia": {"refine": MIA}} for name in HOSTS},
    "att2in": PROPHET_ROWS,
    "soft_attention": {"state": {"deep_output": False}, **PROPHET_ROWS},
    "hard_attention": {"state": {"deep_output": False}},
    "spatial_attention": {name: {"refine": MIA | row} for name, row in MIA_ROWS.items()},
    "gvd": {
        "unsupervised": {"attention_loss": 0, "grounding_loss": 0, "class_loss": 0},
        "alone": {"layers": 0},
        "prophet": {"prophet": {"span": "phrase"}},
    },
    "rfnet": {"unsupervised": {"discriminative_loss": 0}},
    "neural_baby_talk": {"unsupervised": {"pointer_loss": 0, "forms": 3}},
    "updown": {
        "embedded": {"regions": 12},
        **PROPHET_ROWS,
        **{name: {**AS_WIDE, "refine": MIA | row} for name, row in MIA_ROWS.items()},
    },
}
#: Parts of an image and their number in the batch.
SIZES = {"regions": R, "concepts": A}

VARIANTS: list[Any] = [pytest.param(small(name), id=name) for name in registered()] + [
    pytest.param(small(name, **row), id=f"{name}-{kind}")
    for name, rows in ROWS.items()
    for kind, row in rows.items()
]


def make(section: dict[str, Any]) -> CaptionModel[Any]:
    torch.manual_seed(1)
    return build(section, DIMS).eval()


@pytest.fixture(params=VARIANTS)
def section(request: pytest.FixtureRequest) -> dict[str, Any]:
    chosen: dict[str, Any] = request.param
    return chosen


def logits_of(model: CaptionModel[Any], batch: Batch) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(model.encode(batch), batch.inputs)
    return logits


def test_logits_and_attention_have_their_shapes(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    assert logits_of(model, batch).shape == (B, S, L - 1, 23)
    for name, weights in model.attention(model.encode(batch), batch.inputs).items():
        assert weights.shape == (B, S, L - 1, SIZES[name.partition("/")[0]])


def test_step_equals_forward(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    expected = logits_of(model, batch)
    with torch.inference_mode():
        state = model.start(model.encode(batch), S, L - 1)
        for position in range(L - 1):
            if model.recurrent:  # scheduled sampling makes logits of some words only
                decoded, _ = model.decode_word(state, batch.inputs[..., position])
                logits = model.output(decoded)
                torch.testing.assert_close(logits, expected[:, :, position], rtol=1e-5, atol=1e-5)
            logits, state = model.step(state, batch.inputs[..., position])
            torch.testing.assert_close(logits, expected[:, :, position], rtol=1e-5, atol=1e-5)


def test_step_gives_the_logits_of_some_rows(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    expected = logits_of(model, batch).flatten(0, 1)
    with torch.inference_mode():
        state = model.start(model.encode(batch), S, L - 1)
        for position in range(L - 1):
            rows = torch.arange(position, B * S, 2)
            logits, state = model.step_rows(state, batch.inputs[..., position], rows)
            torch.testing.assert_close(logits, expected[rows, position], rtol=1e-5, atol=1e-5)


def test_states_without_padding_are_those_of_padded_captions(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    batch.tokens[0, 1] = PAD
    batch.tokens[1, 0, 4:] = PAD
    expected = logits_of(model, batch)
    words = batch.words
    with torch.inference_mode():
        logits = model.word_logits(model.encode(batch), words)
    assert len(logits) == words.count == batch.token_count
    torch.testing.assert_close(logits, words.pick(expected), rtol=1e-5, atol=1e-5)


def test_selected_hypotheses_continue_their_parents(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    parents = torch.tensor([[1, 0], [1, 1], [0, 0]])
    swapped = batch.tokens.gather(1, parents[..., None].expand_as(batch.tokens))
    swapped[..., 3:] = batch.tokens[..., 3:]
    with torch.inference_mode():
        memory = model.encode(batch)
        expected = model(memory, swapped)[:, :, 3]
        state = model.start(memory, S, L)
        for position in range(4):
            if position == 3:
                state = state.select(parents)
            logits, state = model.step(state, batch.tokens[..., position])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_logits_do_not_depend_on_later_words(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    before = logits_of(model, batch)
    batch.tokens[..., 3] = 5
    after = logits_of(model, batch)
    torch.testing.assert_close(after[:, :, :3], before[:, :, :3], rtol=0, atol=0)
    assert not torch.allclose(after[:, :, 3:], before[:, :, 3:])


def test_logits_do_not_depend_on_padding(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    padded = replace(
        batch,
        regions=torch.cat([batch.regions, torch.full((B, 2, 7), 1e3)], 1),
        region_mask=torch.cat([batch.region_mask, torch.zeros(B, 2, dtype=torch.bool)], 1),
        region_sets=torch.cat([batch.region_sets, torch.zeros(B, 2, dtype=torch.long)], 1),
        boxes=torch.cat([batch.boxes, torch.rand(B, 2, 4)], 1),
        class_ids=torch.cat([batch.class_ids, torch.ones(B, 2, T, dtype=torch.long)], 1),
        class_probs=torch.cat([batch.class_probs, torch.rand(B, 2, T)], 1),
        concepts=torch.cat([batch.concepts, torch.full((B, 3), 9)], 1),
        concept_mask=torch.cat([batch.concept_mask, torch.zeros(B, 3, dtype=torch.bool)], 1),
    )
    torch.testing.assert_close(
        logits_of(model, padded), logits_of(model, batch), rtol=1e-5, atol=1e-5
    )


def test_logits_do_not_depend_on_other_images(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    together = logits_of(model, batch)
    for i in range(B):
        alone = images_of(batch, slice(i, i + 1))
        torch.testing.assert_close(
            logits_of(model, alone), together[i : i + 1], rtol=1e-5, atol=1e-5
        )


def test_reads_exactly_the_members_that_it_needs(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    before = logits_of(model, batch)
    others = {
        "concepts": replace(
            batch,
            concepts=batch.concepts.flip(0).clamp_min(4),
            concept_mask=torch.ones_like(batch.concept_mask),
        ),
        "classes": replace(batch, class_ids=8 - batch.class_ids),
        "relations": replace(batch, relations=batch.relations.flip(1) * torch.tensor([1, 1, 0])),
    }
    assert model.needs <= set(others)
    for name, other in others.items():
        same = torch.allclose(logits_of(model, other), before, rtol=1e-6, atol=1e-7)
        assert same != (name in model.needs)


def test_every_parameter_gets_a_gradient(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    cross_entropy(model, batch, label_smoothing=0.1, sampled=0.0).backward()
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    # A key's bias moves all scores of a query alike, which the softmax does not see; so does W_p's
    # while its ReLU lets everything through.
    alike = ("key.bias", "spatial_semantic.place.bias")
    assert [name for name in idle if not name.endswith(alike)] == []


def test_dropout_is_the_fast_one(section: dict[str, Any]) -> None:
    plain = [m for m in build(section, DIMS).modules() if type(m) is torch.nn.Dropout]
    assert not plain, "take capdist.models.layers.Dropout"


def test_autocast_to_bf16_learns_the_same(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    losses = []
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses.append(cross_entropy(model, batch, label_smoothing=0.1, sampled=0.0))
    losses[1].backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_the_empty_batch_has_zero_gradients(section: dict[str, Any]) -> None:
    model = make(section)
    loss = cross_entropy(model, Batch.empty(7), label_smoothing=0.1, sampled=0.0)
    loss.backward()
    assert loss.item() == 0.0
    # Zeros, not None: ranks sum the gradients that they have, and all must have the same.
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_save_and_load_round_trip(section: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, batch = make(section), make_batch()
    save_file(dict(model.named_parameters()), tmp_path / "m.safetensors")
    torch.manual_seed(99)
    other = build(section, DIMS).eval()
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert torch.equal(logits_of(other, batch), logits_of(model, batch))


def test_attention_sums_to_one_over_real_parts(section: dict[str, Any]) -> None:
    model, batch = make(section), make_batch()
    masks = {"regions": batch.region_mask, "concepts": batch.concept_mask}
    for name, weights in model.attention(model.encode(batch), batch.inputs).items():
        mask = masks[name.partition("/")[0]]
        there = mask.any(1).float()[:, None, None].expand(weights.shape[:3])
        torch.testing.assert_close(weights.sum(-1), there, rtol=1e-5, atol=1e-5)
        assert not weights.masked_select(~mask[:, None, None]).any()


def test_the_attention_that_stands_for_a_model_is_one_of_its_named_ones(
    section: dict[str, Any],
) -> None:
    model, batch = make(section), make_batch()
    attention = model.attention(model.encode(batch), batch.inputs)
    for part in SIZES:
        named = [attention[name] for name in attention if name.startswith(f"{part}/")]
        assert not named or any(torch.equal(attention[part], each) for each in named)


def test_models_import_only_shared_modules() -> None:
    folder = Path(capdist.models.__path__[0])
    shared = {
        "base",
        "boxes",
        "layers",
        "lstm_decoders",
        "mia",
        "objects",
        "output",
        "prophet",
        "step_linear",
        "x_linear",
    } | {"updown"}  # which others extend
    for file in folder.glob("[!_]*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        sources = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        others = {s.rpartition(".")[2] for s in sources if s.startswith("capdist.models.")}
        assert others <= shared, f"{file.name} imports {others - shared}"
