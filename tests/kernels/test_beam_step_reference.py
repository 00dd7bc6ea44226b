"""The reference beam step against its semantics, computed candidate by candidate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from capdist.kernels.beam_step import Beams, Rules, beam_step, end_step, first_beams
from capdist.vocab import BOS, EOS, PAD

FORBIDDEN = [PAD, BOS]
PENALTY = 0.75


def literal(
    logits: Tensor,
    beams: Beams,
    weights: list[float],
    banned: list[list[list[int]]],
    penalised: list[list[int]],
) -> list[list[tuple[int, int, int, float]]]:
    """(beam, token, length, score) of every image's next hypotheses, by README.md."""
    after = []
    images, beam, size = logits.shape
    for b in range(images):
        candidates = []
        for k in range(beam):
            score, length = float(beams.scores[b, k]), int(beams.lengths[b, k])
            last, row = int(beams.tokens[b, k]), logits[b, k].double().tolist()
            if score == -math.inf:
                continue
            if last == EOS or (last == PAD and length):
                candidates.append((-score * weights[length], k, 0.0, PAD, length, score))
                continue
            largest = max(row)
            if math.isnan(sum(row)) or largest == -math.inf:
                continue
            total = largest + math.log(sum(math.exp(x - largest) for x in row))
            for v in range(size):
                if v in FORBIDDEN or v in banned[b][k] or row[v] == -math.inf:
                    continue
                new, penalty = score + row[v] - total, PENALTY * penalised[b].count(v)
                key = -(new - penalty) * weights[length + 1]
                candidates.append((key, k, penalty - row[v], v, length + 1, new))
        candidates.sort()
        best = [(k, v, length, score) for _, k, _, v, length, score in candidates[:beam]]
        after.append(best + [(0, PAD, 0, -math.inf)] * (beam - len(best)))
    return after


def middle(images: int, beam: int, generator: torch.Generator) -> Beams:
    """Hypotheses of all kinds: live, just finished, long finished, dead."""
    kinds = torch.randint(4, (images, beam), generator=generator)
    tokens = torch.tensor([7, EOS, PAD, PAD])[kinds]
    scores = -torch.randint(1, 9, (images, beam), generator=generator).float() / 2
    lengths = torch.randint(1, 6, (images, beam), generator=generator)
    dead = kinds == 3
    return Beams(scores.masked_fill(dead, -torch.inf), lengths.masked_fill(dead, 0), tokens)


@pytest.mark.parametrize("size", [5, 64, 65, 200, 1000])
@pytest.mark.parametrize("beam", [1, 2, 3, 16])
@pytest.mark.parametrize("weights", [[1.0] * 8, [1.0] + [1 / n for n in range(1, 8)]])
def test_equals_the_semantics(size: int, beam: int, weights: list[float]) -> None:
    generator = torch.Generator().manual_seed(size * beam)
    logits = torch.randn(6, beam, size, generator=generator) * 3
    # Ties within a beam and between beams, rows of −∞, gaps.
    logits[1] = torch.randint(3, (beam, size), generator=generator).float()
    logits[2] = 0.0
    logits[3, :, ::2] = -torch.inf
    logits[4, 0] = -torch.inf
    beams = middle(6, beam, generator)
    beams.tokens[2], beams.scores[2], beams.lengths[2] = 7, -1.0, 3
    banned = torch.randint(-1, size, (6, beam, 3), generator=generator)
    penalised = torch.randint(1, size, (6, 4), generator=generator)
    penalised[:2] = -1
    penalised[4] = penalised[4, 0]
    expected = literal(logits, beams, weights, banned.tolist(), penalised.tolist())
    rules = Rules(torch.tensor(weights), torch.tensor(FORBIDDEN), banned, penalised, PENALTY)
    after, parents, nonfinite = beam_step(logits.clone(), beams, rules)
    assert not nonfinite.any()
    for b in range(6):
        for k, (parent, token, length, score) in enumerate(expected[b]):
            assert (int(parents[b, k]), int(after.tokens[b, k])) == (parent, token), (b, k)
            assert int(after.lengths[b, k]) == length
            assert float(after.scores[b, k]) == pytest.approx(score, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_fp32(kind: torch.dtype) -> None:
    logits = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(1)).to(kind)
    beams, weights = middle(2, 3, torch.Generator().manual_seed(2)), torch.ones(8)
    half, _, _ = beam_step(logits.clone(), beams, Rules(weights, torch.tensor(FORBIDDEN)))
    full, _, _ = beam_step(logits.float(), beams, Rules(weights, torch.tensor(FORBIDDEN)))
    assert half.scores.dtype == torch.float32
    assert torch.equal(half.scores, full.scores)
    assert torch.equal(half.tokens, full.tokens)


def test_the_first_step_has_one_parent() -> None:
    logits = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(3))
    after, parents, _ = beam_step(
        logits, first_beams(2, 4, logits.device), Rules(torch.ones(5), torch.tensor(FORBIDDEN))
    )
    assert not parents.any()
    assert (after.lengths == 1).all()
    assert (after.scores.diff(dim=1) <= 0).all()


def test_nan_marks_the_image_of_a_live_hypothesis() -> None:
    logits = torch.zeros(3, 2, 9)
    logits[:, 1, 4] = torch.nan
    beams = first_beams(3, 2, logits.device)
    beams.scores[0, 1] = -1.0  # image 0: alive
    beams.scores[1, 1], beams.tokens[1, 1], beams.lengths[1, 1] = -1.0, EOS, 2  # 1: finished
    after, parents, nonfinite = beam_step(
        logits, beams, Rules(torch.ones(5), torch.tensor(FORBIDDEN))
    )
    assert nonfinite.tolist() == [True, False, False]
    assert not parents[0].any()
    assert not after.scores.isnan().any()


def test_the_least_fp32_is_not_minus_infinity() -> None:
    logits = torch.full((1, 2, 8), -torch.inf)
    logits[..., 7] = torch.finfo(torch.float32).min
    beams = Beams(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1, 1]]), torch.tensor([[4, 5]]))
    after, parents, nonfinite = beam_step(
        logits, beams, Rules(torch.ones(4), torch.tensor(FORBIDDEN))
    )
    assert after.tokens.tolist() == [[7, 7]]
    assert after.scores.tolist() == [[-1.0, -2.0]]
    assert parents.tolist() == [[0, 1]]
    assert not nonfinite.any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nonfinite_logits_of_forbidden_tokens_are_marked_too(value: float) -> None:
    logits = torch.full((2, 1, 9), -torch.inf)
    logits[1, 0, PAD] = value
    after, _, nonfinite = beam_step(
        logits, first_beams(2, 1, logits.device), Rules(torch.ones(4), torch.tensor(FORBIDDEN))
    )
    assert nonfinite.tolist() == [False, True]
    assert (after.scores == -torch.inf).all()


def test_finished_hypotheses_stay_as_they_are() -> None:
    beams = Beams(
        torch.tensor([[-1.0, -1.0, -3.0]]),
        torch.tensor([[2, 4, 3]]),
        torch.tensor([[EOS, PAD, EOS]]),
    )
    after, parents, _ = beam_step(
        torch.randn(1, 3, 30), beams, Rules(torch.ones(6), torch.tensor(FORBIDDEN))
    )
    assert torch.equal(after.scores, beams.scores)
    assert torch.equal(after.lengths, beams.lengths)
    assert parents.tolist() == [[0, 1, 2]]
    assert not after.tokens.any()
    assert not after.alive.any()


def test_the_last_step_ends_what_is_alive() -> None:
    inf = torch.inf
    beams = Beams(
        torch.tensor([[-1.0, -2.0, -3.0, -inf]]),
        torch.tensor([[2, 3, 1, 0]]),
        torch.tensor([[5, PAD, EOS, PAD]]),  # alive, finished, finished, dead
    )
    logits = torch.zeros(1, 4, 8)
    logits[0, 0, EOS] = 1.5
    after, parents, nonfinite = end_step(logits, beams)
    gain = 1.5 - math.log(7 + math.exp(1.5))
    torch.testing.assert_close(after.scores, torch.tensor([[-1.0 + gain, -2.0, -3.0, -inf]]))
    assert after.lengths.tolist() == [[3, 3, 1, 0]]
    assert after.tokens.tolist() == [[EOS, PAD, PAD, PAD]]
    assert parents.tolist() == [[0, 1, 2, 0]]
    assert nonfinite.tolist() == [False]
    logits[0, :, 3] = torch.nan
    after, _, nonfinite = end_step(logits, beams)
    assert nonfinite.tolist() == [True]
    assert after.scores[0, 0] == -inf
    logits[0, 0] = -inf  # no token is possible, which is not an error
    assert end_step(logits, beams)[2].tolist() == [False]
