"""Noisy-OR in log space against the product itself, in fp64 and with Python's big numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from capdist.losses.concepts import (
    absence_nll,
    log_presence,
    noisy_or,
    noisy_or_cross_entropy,
)


def logits(*shape: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*shape, generator=generator)


def product(z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Eq. 1 as it stands, in fp64."""
    each = (1 - torch.sigmoid(z.double())).masked_fill(~mask[..., None], 1)
    return 1 - each.prod(1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 50, 3)])
def test_equals_the_product(shape: tuple[int, int, int]) -> None:
    z = logits(*shape)
    mask = torch.arange(shape[1]) < torch.tensor([[shape[1]], [1], [2]])[: shape[0]]
    expected = product(z, mask)
    torch.testing.assert_close(
        noisy_or(absence_nll(z, mask)), expected.float(), rtol=1e-5, atol=1e-6
    )


def test_noisy_or_equals_hand_computed_values() -> None:
    # Two regions that say a word with probabilities 1/2 and 1/4: 1 - 1/2 · 3/4 = 5/8.
    z = torch.tensor([[[0.0], [-math.log(3)]]])
    s = absence_nll(z, torch.ones(1, 2, dtype=torch.bool))
    assert noisy_or(s).item() == pytest.approx(5 / 8)
    said = torch.tensor([[1.0]])
    assert noisy_or_cross_entropy(s, said).item() == pytest.approx(-math.log(5 / 8))
    assert noisy_or_cross_entropy(s, 1 - said).item() == pytest.approx(-math.log(3 / 8))


def test_loss_and_gradient_equal_those_of_the_product() -> None:
    z, said = logits(4, 6, 5).double().requires_grad_(), (logits(4, 5, seed=1) > 0).double()
    mask = torch.arange(6) < torch.tensor([[6], [1], [3], [5]])
    p = product(z, mask)
    expected = torch.nn.functional.binary_cross_entropy(p, said, reduction="none").sum(-1)
    (wanted,) = torch.autograd.grad(expected.sum(), z)
    ours = z.detach().float().requires_grad_()
    loss = noisy_or_cross_entropy(absence_nll(ours, mask), said.float())
    loss.sum().backward()
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad.double(), wanted, rtol=1e-4, atol=1e-6)
    assert not ours.grad[~mask].any()


@pytest.mark.parametrize("z", [-80.0, -30.0, -8.0, -0.4, 0.0, 5.0, 30.0, 200.0])
@pytest.mark.parametrize("said", [0.0, 1.0])
def test_loss_is_accurate_where_the_product_saturates(z: float, said: float) -> None:
    """With one region the loss is log(1 + exp(∓z)), and its gradient σ(z) - y."""
    x = torch.tensor([[[z]]], requires_grad=True)
    loss = noisy_or_cross_entropy(
        absence_nll(x, torch.ones(1, 1, dtype=torch.bool)), torch.tensor(said)
    )
    loss.sum().backward()
    away = -z if said else z
    expected = max(away, 0.0) + math.log1p(math.exp(-abs(away)))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    slope = (-1 if said else 1) / (1 + math.exp(-away))
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(slope, rel=1e-4, abs=1e-37)


@pytest.mark.parametrize("value", [1e-30, 1e-6, 0.3, 0.69, 0.7, 3.0, 15.0])
def test_log_presence_equals_an_exact_series(value: float) -> None:
    x, term, total = Fraction(torch.tensor(value).item()), Fraction(1), Fraction(0)
    for k in range(1, 80):  # 1 - exp(-x) = Σ (-1)^(k+1) x^k / k!
        term *= x / k
        total += term if k % 2 else -term
    expected = math.log1p(float(total) - 1) if value > 1 else math.log(total)
    found = log_presence(torch.tensor(value)).item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_gradient_is_finite_at_probability_zero() -> None:
    x = torch.full((1, 2, 1), -1000.0, requires_grad=True)
    s = absence_nll(x, torch.ones(1, 2, dtype=torch.bool))
    noisy_or_cross_entropy(s, torch.ones(1, 1)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_half_precision_logits_are_summed_in_fp32() -> None:
    s = absence_nll(logits(2, 9, 4).bfloat16(), torch.ones(2, 9, dtype=torch.bool))
    assert s.dtype == torch.float32
