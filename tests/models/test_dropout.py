"""Dropout's distribution, gradient and independence, on sizes that do not fill whole words."""

from __future__ import annotations

import math

import pytest
import torch

from capdist.models.layers import Dropout


def draw(p: float, *shape: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return Dropout(p)(torch.ones(shape))


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_shares_and_pairs_of_neighbours_are_those_of_independent_draws(p: float) -> None:
    zeroed = (draw(p, 1_000_001) == 0).double()
    for distance in (0, 1, 2, 3, 4, 16):
        pairs = zeroed[distance:] * zeroed[: len(zeroed) - distance]
        expected = p**2 if distance else p
        error = math.sqrt(expected * (1 - expected) / len(pairs))
        assert abs(pairs.mean() - expected) < 5 * error + 2**-16, distance


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5), (7, 3, 11)])
def test_values_are_zero_or_scaled_and_so_is_the_gradient(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    layer = Dropout(0.3)
    for _ in range(20):
        (gradient,) = torch.autograd.grad((y := layer(x)).sum(), x)
        torch.testing.assert_close(y, x * gradient, rtol=0, atol=0)
        kept = gradient[gradient != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.7), rtol=2**-15, atol=0)


def test_the_mean_is_kept() -> None:
    # 0.1 is no multiple of 2^-16, and values are scaled by the share that is.
    draws = draw(0.1, 4_000_000).double()
    assert abs(draws.mean() - 1) < 5 * math.sqrt(0.1 / 0.9 / len(draws))


def test_draws_depend_on_torchs_seed_alone() -> None:
    threads = torch.get_num_threads()
    first = draw(0.4, 50, 1001)
    try:
        torch.set_num_threads(1)
        torch.testing.assert_close(draw(0.4, 50, 1001), first, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(draw(0.4, 50, 1001, seed=1), first)
    torch.manual_seed(0)
    layer = Dropout(0.4)
    assert not torch.equal(layer(torch.ones(50)), layer(torch.ones(50)))


def test_evaluation_and_p_0_change_nothing() -> None:
    x = torch.randn(3, 5)
    assert Dropout(0.5).eval()(x) is x
    torch.testing.assert_close(Dropout(0.0)(x), x, rtol=0, atol=0)
