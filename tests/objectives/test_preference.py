"""The loss of direct preference optimisation, against its definition written out in loops."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from capdist.batch import Batch
from capdist.config.base import validate
from capdist.losses.self_critical import policy_log_probs
from capdist.models.base import CaptionModel, build
from capdist.objectives.preference import (
    Preference,
    PreferenceStage,
    choose_pairs,
    reference_policy,
)
from capdist.objectives.sampled_captions import SampledCaptions
from capdist.vocab import BOS, EOS, PAD, UNK
from tests.support.models import DIMS, make_batch, small

BETA = 0.7
REWARDS = np.array([[0.1, 0.9, 0.4], [2.0, 2.0, 2.0], [0.3, 0.2, 0.25]])


def make_stage() -> PreferenceStage:
    section = {
        "objective": "dpo",
        "epochs": 1,
        "batch": {"images": 3, "micro": 3},
        "optimizer": {"lr": 0.1},
        "samples": 3,
        "beta": BETA,
    }
    return validate(PreferenceStage, section, "the test")


def make_models() -> tuple[CaptionModel[Any], CaptionModel[Any]]:
    torch.manual_seed(1)
    return build(small("glied"), DIMS).eval(), build(small("glied"), DIMS).eval()


def sampled() -> SampledCaptions:
    """Three captions of each image, of lengths that differ, ended or clipped."""
    batch = make_batch()
    tokens = torch.full((3, 3, 6), PAD)
    generator = torch.Generator().manual_seed(4)
    for image in range(3):
        for caption in range(3):
            length = 1 + (image + 2 * caption) % 4
            tokens[image, caption, 0] = BOS
            words = torch.randint(UNK + 1, 23, (length,), generator=generator)
            tokens[image, caption, 1 : 1 + length] = words
            if length < 4:
                tokens[image, caption, 1 + length] = EOS
    pending = SimpleNamespace(result=lambda: REWARDS.ravel())
    fields = {name: value for name, value in vars(batch).items() if name != "tokens"}
    return SampledCaptions(**fields, tokens=tokens, earned=pending)


def log_prob(model: CaptionModel[Any], batch: Batch, image: int, caption: int) -> float:
    """log π of one caption, word by word, without the words that are never sampled."""
    logits = model(model.encode(batch), batch.inputs).double()
    logits[..., [PAD, BOS, UNK]] = -math.inf
    total = 0.0
    for position, word in enumerate(batch.targets[image, caption].tolist()):
        if word != PAD:
            total += float(logits[image, caption, position].log_softmax(-1)[word].detach())
    return total


def submit_nothing(packed: Any, references: Any) -> Any:
    raise AssertionError("the captions are given")


def test_loss_equals_the_definition() -> None:
    model, reference = make_models()
    batch = sampled()
    expected = 0.0
    for image, (best, worst) in {0: (1, 0), 2: (0, 1)}.items():  # all rewards of image 1 are equal
        ratios = [
            log_prob(model, batch, image, caption) - log_prob(reference, batch, image, caption)
            for caption in (best, worst)
        ]
        expected -= math.log(1 / (1 + math.exp(-BETA * (ratios[0] - ratios[1]))))
    objective = Preference(model, make_stage(), 5, 1, submit_nothing, reference_policy(reference))
    assert float(objective(batch)) == pytest.approx(expected, rel=1e-5)
    assert objective.weight(batch) == 3


def test_a_step_prefers_the_best_caption_more() -> None:
    model, reference = make_models()
    batch = sampled()
    objective = Preference(model, make_stage(), 5, 1, submit_nothing, reference_policy(reference))
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    before = policy_log_probs(model, batch).sum(-1).detach()
    objective(batch).backward()
    optimizer.step()
    change = policy_log_probs(model, batch).sum(-1).detach() - before
    assert change[0, 1] > change[0, 0]
    assert change[2, 0] > change[2, 1]
    assert not any(p.requires_grad for p in reference.parameters())


def test_pairs_are_best_and_worst() -> None:
    batch = sampled()
    pairs, preferred = choose_pairs(batch, torch.tensor(REWARDS))
    assert preferred.tolist() == [True, False, True]
    assert pairs.tokens[0].tolist() == batch.tokens[0, [1, 0]].tolist()
    assert pairs.tokens[2].tolist() == batch.tokens[2, [0, 1]].tolist()


def test_reference_is_no_part_of_what_is_trained_or_saved() -> None:
    model, reference = make_models()
    objective = Preference(model, make_stage(), 5, 1, submit_nothing, reference_policy(reference))
    names = {name.removeprefix("model.") for name in objective.state_dict()}
    assert names == set(model.state_dict())


def test_image_whose_captions_earn_the_same_adds_nothing() -> None:
    model, reference = make_models()
    batch = replace(sampled(), earned=SimpleNamespace(result=lambda: np.ones(9)))
    objective = Preference(model, make_stage(), 5, 1, submit_nothing, reference_policy(reference))
    loss = objective(batch)
    loss.backward()
    assert float(loss) == 0
    assert not any(bool(p.grad.any()) for p in model.parameters() if p.grad is not None)
