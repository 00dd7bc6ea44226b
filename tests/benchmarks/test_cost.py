"""The cost model counts operations and adds up their times by its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import scale_program
from benchmarks.cost import Network, Processor, Work, count
from benchmarks.scale import RANKS, Figures, Rates
from benchmarks.scale_check import STEPS, Trial, captioned_batch, new_model, run
from benchmarks.scale_program import Program
from capdist.losses.cross_entropy import cross_entropy
from capdist.vocab import BOS, EOS, PAD


def test_operations_are_counted_and_views_are_not() -> None:
    left, right = torch.randn(3, 5), torch.randn(7, 5)
    work = count(lambda: (left @ right.T).relu())
    assert work.flops.tolist() == [2 * 3 * 5 * 7, 0]
    assert work.bytes.tolist() == [4 * (15 + 35 + 21), 4 * (21 + 21)]


def test_the_backward_pass_is_counted() -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    images = torch.randn(6, 4)
    work = count(lambda: (images @ weight).sum().backward())
    assert work.flops.sum() == 2 * (2 * 6 * 4 * 4)


def test_an_operation_takes_the_longest_of_its_three_times() -> None:
    work = Work(np.array([0.0, 100.0, 100.0]), np.array([1.0, 1.0, 900.0]))
    processor = Processor(launch=2.0, flops=10.0, bytes=30.0)
    assert processor.seconds(work) == 2 + 10 + 30
    assert processor.seconds(work + work) == 84


@pytest.mark.parametrize(
    ("ranks", "expected"), [(2, 2 * 1 + 100 / 10), (8, 2 * 3 + 1.75 * 10), (9, 2 * 4 + 16 / 9 * 50)]
)
def test_all_reduce_time_follows_the_formula(ranks: int, expected: float) -> None:
    network = Network(latency=1.0, inside=10.0, across=2.0, node=8)
    assert network.all_reduce(100.0, ranks) == pytest.approx(expected, rel=1e-12)


def test_synthetic_captions_have_the_form_of_a_training_batch() -> None:
    tokens = captioned_batch(3).tokens
    assert tokens.shape[:2] == (3, 5)
    assert (tokens[..., 0] == BOS).all()
    assert ((tokens == EOS).sum(-1) == 1).all()
    after_end = (tokens == EOS).cumsum(-1).bool() & (tokens != EOS)
    assert (tokens[after_end] == PAD).all()


def test_a_program_counts_the_model_and_its_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_program, "IMAGES_PER_RANK", 1)
    program = Program.of("lstm", (4,))
    model, batch = new_model("lstm"), captioned_batch(4)

    def step() -> Any:
        cross_entropy(model, batch, label_smoothing=0.0, sampled=0.0).backward()

    assert program.micro[4].flops.sum() == count(step).flops.sum()
    parameters = sum(p.numel() for p in model.parameters())
    assert sum(program.parameters) == parameters
    # Adam reads and writes weights and two moments, and reads gradients.
    assert program.update.bytes.sum() >= 4 * 7 * parameters


def operations(images: int) -> Work:
    """50 operations, limited by arithmetic for 64 images and by the launch for 1."""
    return Work(np.full(50, 1e9 * images), np.full(50, 1e6))


def test_rows_of_the_tables_add_up() -> None:
    micro = {images: operations(images) for images in (1, 4, 16, 64)}
    program = Program(micro, operations(1), operations(64), operations(16), [10**7])
    figures = Figures("lstm", program, [], Rates(1e4, 1e-2, 1e-3), 0.0)
    for rows in (figures.weak, figures.strong, figures.critical):
        assert len(rows) == len(RANKS)
        for row in rows.values():
            values = {name: value or 0.0 for name, value in row.items()}
            parts = [f"{part} ms" for part in ("compute", "late", "reduce", "agree", "wait")]
            assert sum(values.get(part, 0.0) for part in parts) == pytest.approx(values["step ms"])
            speed = 5 * values["batch"] / values["step ms"] * 1e3
            assert values["captions/s"] == pytest.approx(speed)
        efficiency = [row["efficiency %"] or 0.0 for row in rows.values()]
        assert efficiency[0] == pytest.approx(100)
        assert efficiency == sorted(efficiency, reverse=True)


def test_steps_run_on_two_ranks() -> None:
    timed = run(Trial("lstm", "torch", 2, 1, rounds=2))
    assert len(timed.steps) == STEPS
    assert timed.network
    assert min(timed.step, timed.processor.flops, timed.network.inside) > 0
    # Besides the gradient, the engine computes its norm and the update.
    model, batch = new_model("lstm"), captioned_batch(1)
    gradient = count(
        lambda: cross_entropy(model, batch, label_smoothing=0.0, sampled=0.0).backward()
    )
    assert timed.work.flops.sum() == gradient.flops.sum()
    assert timed.work.bytes.sum() > gradient.bytes.sum()
