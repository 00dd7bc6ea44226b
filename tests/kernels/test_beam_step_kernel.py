"""The Triton kernel against the reference: in Triton's interpreter, and on a GPU if there is one.

Tokens, parents, lengths and marks are equal; scores are within 1e-5 of their size. That requires
that no two keys differ only by rounding, which kernel and reference do differently. So keys of
different beams are either equal, because their rows and scores are, or far apart: rows and scores
are drawn at random, or scores differ by no sum of logits' differences.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from capdist.kernels.beam_step import reference
from capdist.kernels.beam_step.reference import Beams, Rules, first_beams
from capdist.vocab import BOS, EOS, PAD, UNK

Run = Callable[..., None]

INF = float("inf")
LONGEST = 9
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
WEIGHTS: dict[str, Callable[[int], float]] = {
    "none": lambda length: 1.0,
    "average": lambda length: 1 / max(length, 1),
    "gnmt": lambda length: (6 / (5 + length)) ** 0.7,
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    # The interpreter runs on NumPy, which warns of log 0 and ∞ − ∞.
    warnings.simplefilter("ignore", RuntimeWarning)


@pytest.fixture(scope="module", params=["interpreter", "gpu"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Calls a function of this module with the kernel interpreted, or on the GPU.

    The interpreter runs in its own process: a kernel imported for it can't be compiled.
    """
    if request.param == "interpreter":
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=interpret) as pool:
            yield lambda check, *arguments: pool.submit(check, *arguments).result()
    elif torch.cuda.is_available():
        yield on_gpu
    else:
        pytest.skip("no GPU")


def on_gpu(check: Run, *arguments: Any) -> None:
    with torch.device("cuda"):
        check(*arguments)


def agree(
    logits: Tensor,
    beams: Beams,
    weights: str = "none",
    banned: Tensor | None = None,
    penalised: Tensor | None = None,
) -> None:
    """Kernel and reference agree, and the kernel does not change the logits."""
    from capdist.kernels.beam_step import triton_kernel

    table = torch.tensor([WEIGHTS[weights](length) for length in range(LONGEST + 1)])
    forbidden = torch.tensor([token for token in (PAD, BOS, UNK) if token < logits.shape[-1]])
    before = logits.clone()
    rules = Rules(table, forbidden, banned, penalised, 0.75)
    after, parents, nonfinite = triton_kernel.beam_step(logits, beams, rules)
    expected = reference.beam_step(before.clone(), beams, rules)
    same = partial(assert_close, rtol=0, atol=0, equal_nan=True)
    same(logits, before)
    same(after.tokens, expected[0].tokens)
    same(parents, expected[1])
    same(after.lengths, expected[0].lengths)
    same(nonfinite, expected[2])
    assert_close(after.scores, expected[0].scores, rtol=1e-5, atol=0)


def live(images: int, beam: int) -> Beams:
    """Unfinished hypotheses of different scores and lengths."""
    lengths = torch.randint(1, LONGEST, (images, beam))
    return Beams(-5 * torch.rand(images, beam) - lengths, lengths, torch.full_like(lengths, 4))


def mixed(images: int, beam: int) -> Beams:
    """Live, dead, just finished and long finished hypotheses."""
    beams, state = live(images, beam), torch.randint(5, (images, beam))
    beams.scores[state == 0] = -INF
    beams.lengths[state == 0] = 0
    beams.tokens[(state == 0) | (state == 1)] = PAD
    beams.tokens[state == 2] = EOS
    return beams


def rows(images: int, beam: int, vocabulary: int, dtype: torch.dtype = FP32) -> Tensor:
    return (3 * torch.randn(images, beam, vocabulary)).to(dtype)


def random(
    images: int, beam: int, vocabulary: int, dtype: torch.dtype, weights: str, ids: int
) -> None:
    torch.manual_seed(beam * vocabulary)
    banned = torch.randint(-1, vocabulary, (images, beam, ids)) if ids else None
    agree(rows(images, beam, vocabulary, dtype), mixed(images, beam), weights, banned)


@pytest.mark.parametrize(
    "case",
    [
        (4, 1, 5, FP32, "average", 0),
        (4, 2, 1, FP32, "none", 0),
        (2, 3, 9487, FP32, "average", 3),
        (1, 2, 9488, BF16, "gnmt", 0),
        (1, 2, 30522, FP16, "none", 1),
        (4, 5, 1000, FP16, "gnmt", 2),
        (2, 5, 1025, BF16, "none", 16),
        (2, 16, 1000, FP32, "gnmt", 1),
        (1, 16, 2500, BF16, "average", 2),
        (3, 16, 5, FP16, "none", 1),
    ],
    ids=lambda case: "-".join(map(str, case)).replace("torch.", ""),
)
def test_kernel_equals_the_reference_on_random_logits(run: Run, case: tuple[Any, ...]) -> None:
    run(random, *case)


def first_step(beam: int) -> None:
    torch.manual_seed(0)
    agree(rows(2, beam, 1000), first_beams(2, beam, torch.get_default_device()))
    # Fewer words than beams.
    agree(rows(2, beam, 6), first_beams(2, beam, torch.get_default_device()), "gnmt")


@pytest.mark.parametrize("beam", [1, 3, 16])
def test_first_step_reads_one_hypothesis_per_image(run: Run, beam: int) -> None:
    run(first_step, beam)


def ties(beam: int, vocabulary: int, dtype: torch.dtype, weights: str) -> None:
    """The beams of an image have the same row, of few values."""
    torch.manual_seed(1)
    row = torch.randint(-1, 2, (2, 1, vocabulary))
    row[1] = 0
    logits = row.to(dtype).expand(2, beam, vocabulary)
    equal = live(1, 1)
    equal = Beams(*(t.expand(2, beam) for t in (equal.scores, equal.lengths, equal.tokens)))
    agree(logits, equal, weights)
    # No multiple of 0.37 up to the 15th is near a whole number.
    apart = Beams(equal.scores - 0.37 * torch.arange(beam), equal.lengths, equal.tokens)
    agree(logits, apart, weights)
    # Two zeros are one.
    agree((logits * 0).where(torch.rand(logits.shape) < 0.5, -logits * 0), equal, weights)


@pytest.mark.parametrize(
    "case",
    [
        (1, 70, FP32, "none"),
        (2, 1030, FP16, "gnmt"),
        (3, 70, BF16, "average"),
        (5, 70, FP32, "gnmt"),
        (16, 70, FP16, "none"),
    ],
    ids=lambda case: "-".join(map(str, case)).replace("torch.", ""),
)
def test_ties_are_ordered_as_in_the_reference(run: Run, case: tuple[Any, ...]) -> None:
    run(ties, *case)


def finished(beam: int) -> None:
    torch.manual_seed(2)
    beams = live(4, beam)
    beams.tokens.fill_(PAD)
    beams.tokens[0] = EOS
    # By average these are equal exactly.
    beams.lengths[1:3] = 2 ** torch.randint(4, (2, beam))
    beams.scores[1:3] = -beams.lengths[1:3].float()
    agree(rows(4, beam, 70), beams, "average")
    # The logits of finished hypotheses are not read.
    agree(torch.full((4, beam, 70), torch.nan), beams, "gnmt")


@pytest.mark.parametrize("beam", [1, 3])
def test_finished_hypotheses_are_carried_over(run: Run, beam: int) -> None:
    run(finished, beam)


def minus_infinity(beam: int) -> None:
    torch.manual_seed(3)
    logits, beams = rows(5, beam, 1100), live(5, beam)
    logits[0] = -INF
    logits[1, 0] = -INF
    logits[2, :, :1030] = -INF
    logits[3, :, 4:] = -INF
    logits[4, torch.rand(beam, 1100) < 0.995] = -INF
    agree(logits, beams)
    agree(logits, mixed(5, beam), "average")


@pytest.mark.parametrize("beam", [1, 3, 5])
def test_logits_of_minus_infinity_are_never_chosen(run: Run, beam: int) -> None:
    run(minus_infinity, beam)


def nan(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    logits, beams = rows(8, 3, 1100, dtype), live(8, 3)
    logits[0, 1, 1050] = torch.nan
    logits[1, :, 7] = -torch.nan
    logits[2, 0] = torch.nan
    logits[3, 2, PAD] = torch.nan  # forbidden
    logits[4, 1, 7] = torch.nan
    beams.tokens[4, 1] = EOS
    logits[5, 1, 7] = torch.nan
    beams.scores[5, 1], beams.lengths[5, 1], beams.tokens[5, 1] = -INF, 0, PAD
    logits[6, 0] = -INF
    logits[6, 0, 9] = torch.nan
    logits[7, 1, 9] = INF  # whose log-softmax is NaN
    agree(logits, beams)


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_nan_logits_give_what_the_reference_gives(run: Run, dtype: torch.dtype) -> None:
    run(nan, dtype)


def large() -> None:
    torch.manual_seed(8)
    logits = rows(2, 3, 1030) + 10000
    agree(logits, first_beams(2, 3, torch.get_default_device()))


def test_large_logits_keep_their_precision(run: Run) -> None:
    run(large)


def everything_banned() -> None:
    torch.manual_seed(5)
    banned = torch.tensor([-1, EOS, 4, 5, 4]).expand(2, 3, 5).clone()
    banned[1, 2] = -1
    agree(rows(2, 3, 6), live(2, 3), banned=banned)


def test_row_whose_words_are_all_banned_equals_the_reference(run: Run) -> None:
    run(everything_banned)


def penalised(beam: int, weights: str) -> None:
    torch.manual_seed(9)
    listed = torch.tensor([[-1, EOS, 4, 5, 4], [7, 7, 7, -1, 9], [-1] * 5])
    agree(rows(3, beam, 12), mixed(3, beam), weights, penalised=listed)
    agree(rows(3, beam, 1030), live(3, beam), weights, torch.full((3, beam, 1), 4), listed)


@pytest.mark.parametrize(("beam", "weights"), [(1, "none"), (3, "average"), (16, "none")])
def test_penalties_are_applied_as_in_the_reference(run: Run, beam: int, weights: str) -> None:
    run(penalised, beam, weights)


def strides() -> None:
    torch.manual_seed(6)
    logits, beams = rows(3, 2, 2300), mixed(2, 3)
    agree(logits.transpose(0, 1)[..., :1030], beams)
    agree(logits.transpose(0, 1)[..., ::2], beams)
    turned = Beams(*(t.T.contiguous().T for t in (beams.scores, beams.lengths, beams.tokens)))
    agree(logits.transpose(0, 1)[..., 5:100], turned)


def test_strided_logits_give_the_same_beams(run: Run) -> None:
    run(strides)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_cuda_graph_captures_the_step() -> None:
    from capdist.kernels.beam_step import triton_kernel

    torch.manual_seed(7)
    with torch.device("cuda"):
        logits, beams, table = rows(4, 3, 9487, BF16), mixed(4, 3), torch.ones(LONGEST + 1)
        rules = Rules(table, torch.tensor([PAD, BOS, UNK]))
        step = partial(triton_kernel.beam_step, logits, beams, rules)
        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            after, parents, _ = step()
        logits.copy_(rows(4, 3, 9487, BF16))
        graph.replay()
        expected, expected_parents, _ = step()
    assert_close(after.tokens, expected.tokens, rtol=0, atol=0)
    assert_close(after.scores, expected.scores, rtol=0, atol=0)
    assert_close(parents, expected_parents, rtol=0, atol=0)
