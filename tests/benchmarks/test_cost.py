"""The cost model counts what is computed, and adds it up by its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.cost import Network, Processor, Work, count
from benchmarks.scale import RANKS, Figures, Rates
from benchmarks.scale_check import STEPS, Trial, captioned, new_model, run
from benchmarks.scale_program import Program
from capdist.losses.cross_entropy import cross_entropy
from capdist.vocab import BOS, EOS, PAD


def test_operations_are_counted_and_views_are_not() -> None:
    left, right = torch.randn(3, 5), torch.randn(7, 5)
    work = count(lambda: (left @ right.T).relu())
    assert work.flops.tolist() == [2 * 3 * 5 * 7, 0]
    assert work.bytes.tolist() == [4 * (15 + 35 + 21), 4 * (21 + 21)]


def test_a_gradient_is_counted_too() -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    images = torch.randn(6, 4)
    work = count(lambda: (images @ weight).sum().backward())
    assert work.flops.sum() == 2 * (2 * 6 * 4 * 4)


def test_an_operation_takes_as_long_as_its_slowest_part() -> None:
    work = Work(np.array([0.0, 100.0, 100.0]), np.array([1.0, 1.0, 900.0]))
    processor = Processor(launch=2.0, flops=10.0, bytes=30.0)
    assert processor.seconds(work) == 2 + 10 + 30
    assert processor.seconds(work + work) == 84


@pytest.mark.parametrize(
    ("ranks", "expected"), [(2, 2 * 1 + 100 / 10), (8, 2 * 3 + 1.75 * 10), (9, 2 * 4 + 16 / 9 * 50)]
)
def test_an_all_reduce(ranks: int, expected: float) -> None:
    network = Network(latency=1.0, inside=10.0, across=2.0, node=8)
    assert network.all_reduce(100.0, ranks) == pytest.approx(expected, rel=1e-12)


def test_captions_look_like_a_batch_of_training() -> None:
    tokens = captioned(3).tokens
    assert tokens.shape[:2] == (3, 5)
    assert (tokens[..., 0] == BOS).all()
    assert ((tokens == EOS).sum(-1) == 1).all()
    behind = (tokens == EOS).cumsum(-1).bool() & (tokens != EOS)
    assert (tokens[behind] == PAD).all()


@pytest.fixture(scope="module")
def program() -> Program:
    return Program.of("lstm", (1, 4, 16, 64))


def test_the_program_is_the_models(program: Program) -> None:
    model, batch = new_model("lstm"), captioned(4)

    def step() -> Any:
        cross_entropy(model, batch, label_smoothing=0.0, sampled=0.0).backward()

    assert program.micro[4].flops.sum() == count(step).flops.sum()
    numbers = sum(p.numel() for p in model.parameters())
    assert sum(program.parameters) == numbers
    # Adam reads and writes weights and two moments, and reads gradients.
    assert program.update.bytes.sum() >= 4 * 7 * numbers


def test_the_tables_follow_from_the_program(program: Program) -> None:
    figures = Figures("lstm", program, [], Rates(1e4, 1e-2, 1e-3), 0.0)
    for rows in (figures.weak, figures.strong, figures.critical):
        assert len(rows) == len(RANKS)
        for row in rows.values():
            found = {name: value or 0.0 for name, value in row.items()}
            parts = [f"{part} ms" for part in ("compute", "late", "reduce", "agree", "wait")]
            assert sum(found.get(part, 0.0) for part in parts) == pytest.approx(found["step ms"])
            speed = 5 * found["batch"] / found["step ms"] * 1e3
            assert found["captions/s"] == pytest.approx(speed)
        efficiency = [row["efficiency %"] or 0.0 for row in rows.values()]
        assert efficiency[0] == pytest.approx(100)
        assert efficiency == sorted(efficiency, reverse=True)


def test_steps_are_taken_on_two_ranks() -> None:
    timed = run(Trial("lstm", "torch", 2, 1))
    assert len(timed.steps) == STEPS
    assert timed.network
    assert min(timed.step, timed.processor.flops, timed.network.inside) > 0
    # What the engine computes, clipping included, is more than the gradient alone.
    alone = count(
        lambda: cross_entropy(
            new_model("lstm"), captioned(1), label_smoothing=0.0, sampled=0.0
        ).backward()
    )
    assert timed.work.flops.sum() == alone.flops.sum()
    assert len(timed.work.flops) > len(alone.flops)
