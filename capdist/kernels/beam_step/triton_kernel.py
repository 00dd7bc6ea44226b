"""The beam step on a GPU, in Triton: reference.py's twin, which reads the logits once.

Stage 1, a program for each block of a row: its maximum m, Σ exp(x − m) and its K largest logits.
Stage 2, a program an image: the blocks' m and Σ become the log-sum-exp (the online normaliser of
Milakov and Gimelshein 2018), their K largest the next hypotheses.

A candidate is an int64, its logit above its token, so that the largest integer is the best one.
Numbers in comments are those of README.md's semantics.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from capdist.kernels.beam_step.reference import Beams, Rules
from capdist.vocab import EOS, PAD

_EOS, _PAD = tl.constexpr(EOS), tl.constexpr(PAD)
_DEAD = tl.constexpr(float("-inf"))
#: Less than every candidate; its logit reads as NaN, and so is dead.
_NONE = tl.constexpr(-(2**63))
#: Logit 0 and token PAD.
_ITSELF = tl.constexpr(2**31 - 1 - PAD)


class Plan(NamedTuple):
    """How a step is cut up; all sizes but ``splits`` are powers of two."""

    block: int  # logits of a program of stage 1
    splits: int  # blocks of a row
    beams: int  # at least K
    columns: int  # at least the candidates that one hypothesis leaves to stage 2
    read_warps: int
    merge_warps: int


def plan(beam: int, vocabulary: int) -> Plan:
    """The sizes for K and V.

    Small blocks keep a GPU busy with few rows; large ones leave stage 2, which gets K² candidates
    from each, less to do. A thread has at most 8 logits, or 16 candidates, in its registers.
    """
    block = min(1024 if beam <= 5 else 2048, triton.next_power_of_2(vocabulary))
    splits = triton.cdiv(vocabulary, block)
    beams, columns = triton.next_power_of_2(beam), triton.next_power_of_2(splits * beam)
    merge_warps = min(max(beams * columns // 512, 1), 16)
    return Plan(block, splits, beams, columns, max(block // 256, 1), merge_warps)


def beam_step(logits: Tensor, beams: Beams, rules: Rules) -> tuple[Beams, Tensor, Tensor]:
    """The next hypotheses: `reference.beam_step`, except that the logits stay as they are.

    Nothing waits for the GPU, and a CUDA graph can capture it after a first call.

    Args:
        logits: (B, K, V) fp32, fp16 or bf16, on the current GPU, with any strides; K at most 16.
        beams: the hypotheses before.
        rules: what may be written, and how candidates compare.

    Returns:
        The hypotheses after, best first; the beams (B, K) that they come from; and whether an
        image had a NaN logit (B,).
    """
    images, beam, vocabulary = logits.shape
    sizes = plan(beam, vocabulary)
    before = [state.contiguous() for state in (beams.scores, beams.lengths, beams.tokens)]
    # Of an empty list nothing is read, whatever it points to.
    none = rules.forbidden[:0]
    banned = none if rules.banned is None else rules.banned.contiguous()
    charged = none if rules.charged is None else rules.charged.contiguous()
    maxima = logits.new_empty(images * beam, sizes.splits, dtype=torch.float32)
    sums = torch.empty_like(maxima)
    best = logits.new_empty(images * beam, sizes.splits, beam, dtype=torch.long)
    _read[images * beam, sizes.splits](
        logits,
        *logits.stride(),
        vocabulary,
        *before,
        rules.forbidden.contiguous(),
        len(rules.forbidden),
        banned,
        banned.shape[-1],
        charged,
        charged.shape[-1],
        rules.charge,
        maxima,
        sums,
        best,
        K=beam,
        BLOCK=sizes.block,
        num_warps=sizes.read_warps,
        enable_fp_fusion=False,
    )
    after = Beams(*(torch.empty_like(state) for state in before))
    parents = torch.empty_like(after.tokens)
    spoilt = logits.new_empty(images, dtype=torch.bool)
    _merge[(images,)](
        maxima,
        sums,
        best,
        sizes.splits,
        *before,
        rules.weights.contiguous(),
        charged,
        charged.shape[-1],
        rules.charge,
        after.scores,
        after.lengths,
        after.tokens,
        parents,
        spoilt,
        K=beam,
        BEAMS=sizes.beams,
        COLUMNS=sizes.columns,
        num_warps=sizes.merge_warps,
        enable_fp_fusion=False,
    )
    return after, parents, spoilt


# Numbers that change from step to step; a version for 1 and one for multiples of 16 would be late.
_COUNTS = ["banned_count", "charged_count"]


@triton.jit(do_not_specialize=_COUNTS)
def _read(
    logits: tl.tensor,
    image_stride: tl.tensor,
    beam_stride: tl.tensor,
    token_stride: tl.tensor,
    vocabulary: tl.tensor,
    scores: tl.tensor,
    lengths: tl.tensor,
    tokens: tl.tensor,
    forbidden: tl.tensor,
    forbidden_count: tl.tensor,
    banned: tl.tensor,
    banned_count: tl.tensor,
    charged: tl.tensor,
    charged_count: tl.tensor,
    charge: tl.tensor,
    maxima: tl.tensor,
    sums: tl.tensor,
    best: tl.tensor,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Stage 1: fills one block's place in maxima, sums (B·K, splits) and best (B·K, splits, K).

    The places of finished and dead hypotheses stay as they are.
    """
    row, part = tl.program_id(0), tl.program_id(1)
    _, alive = _state(tl.load(scores + row), tl.load(lengths + row), tl.load(tokens + row))
    if not alive:
        return
    token = part * BLOCK + tl.arange(0, BLOCK)
    # Offsets of 32 bits would not reach the end of a large batch.
    start = (row // K).to(tl.int64) * image_stride + (row % K).to(tl.int64) * beam_stride
    places = logits + start + token * token_stride
    x = tl.load(places, mask=token < vocabulary, other=_DEAD).to(tl.float32)
    place = row * tl.num_programs(1) + part
    maximum = tl.max(x, axis=0)
    tl.store(maxima + place, maximum)
    tl.store(sums + place, tl.sum(tl.exp(x - _shift(maximum)), axis=0))
    x = _without(x, token, forbidden, forbidden_count)
    x = _without(x, token, banned + row * banned_count, banned_count)
    for index in range(charged_count):
        x -= tl.where(token == tl.load(charged + row // K * charged_count + index), charge, 0.0)
    candidates = _pack(x, token)
    for rank in range(K):
        first = tl.max(candidates, axis=0)
        tl.store(best + place * K + rank, first)
        candidates = tl.where(candidates == first, _NONE, candidates)


@triton.jit(do_not_specialize=_COUNTS[1:])
def _merge(
    maxima: tl.tensor,
    sums: tl.tensor,
    best: tl.tensor,
    splits: tl.tensor,
    scores: tl.tensor,
    lengths: tl.tensor,
    tokens: tl.tensor,
    weights: tl.tensor,
    charged: tl.tensor,
    charged_count: tl.tensor,
    charge: tl.tensor,
    next_scores: tl.tensor,
    next_lengths: tl.tensor,
    next_tokens: tl.tensor,
    parents: tl.tensor,
    spoilt: tl.tensor,
    K: tl.constexpr,
    BEAMS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Stage 2: an image's next hypotheses, (B, K) each, and its mark in spoilt (B,)."""
    image = tl.program_id(0)
    beam = tl.arange(0, BEAMS)
    column = tl.arange(0, COLUMNS)[None, :]
    row = image * K + beam
    here = beam < K
    score = tl.load(scores + row, mask=here, other=_DEAD)
    length = tl.load(lengths + row, mask=here, other=0)
    finished, alive = _state(score, length, tl.load(tokens + row, mask=here, other=_PAD))
    places, there = row[:, None] * splits + column, alive[:, None] & (column < splits)
    maximum, log_sum = _normaliser(
        tl.load(maxima + places, mask=there, other=_DEAD), tl.load(sums + places, there, other=0.0)
    )
    # Rows that nobody read have −∞.
    nan = log_sum != log_sum
    tl.store(spoilt + image, tl.max(nan.to(tl.int32), axis=0) != 0)
    places, there = row[:, None] * splits * K + column, alive[:, None] & (column < splits * K)
    candidates = tl.load(best + places, mask=there, other=_NONE)
    # 3: one candidate, all columns together, that changes neither score nor length.
    candidates = tl.where(finished[:, None], _ITSELF, candidates)
    log_sum = tl.where(finished, 0.0, log_sum)
    length += tl.where(finished, 0, 1)
    weight = tl.load(weights + length, mask=score > _DEAD, other=0.0)
    # 5: the hypotheses' best candidates compete, K times, and the winner's makes room for its next.
    for rank in range(K):
        heads = tl.max(candidates, axis=1)
        logit, token = _unpack(heads)
        toll = tl.zeros_like(logit)
        for index in range(charged_count):
            toll += tl.where(token == tl.load(charged + image * charged_count + index), charge, 0.0)
        gain = logit + toll - maximum - log_sum
        # NaN isn't larger either: no row with one, and no row of −∞, has candidates.
        total = tl.where(gain > _DEAD, score + gain, _DEAD)
        lives = total > _DEAD
        key = tl.where(lives, (total - toll) * weight, _DEAD)
        _, parent = _unpack(tl.max(_pack(key, beam), axis=0))
        won = beam == parent
        # 6: the best is dead only if all are, and then it is beam 0's.
        place = image * K + rank + tl.zeros_like(beam)
        tl.store(next_scores + place, total, mask=won)
        tl.store(next_lengths + place, tl.where(lives, length, 0), mask=won)
        tl.store(next_tokens + place, tl.where(lives, token, _PAD), mask=won)
        tl.store(parents + place, beam, mask=won)
        taken = won[:, None] & (candidates == heads[:, None])
        candidates = tl.where(taken, _NONE, candidates)


@triton.jit
def _state(scores: tl.tensor, lengths: tl.tensor, tokens: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """What `Beams` calls finished, and alive."""
    finished = (tokens == _EOS) | ((tokens == _PAD) & (lengths > 0))
    return finished, (scores > _DEAD) & ~finished


@triton.jit
def _shift(maximum: tl.tensor) -> tl.tensor:
    """What exponents are relative to: the maximum, but −∞ + ∞ would be NaN."""
    return tl.where(maximum == _DEAD, 0.0, maximum)


@triton.jit
def _normaliser(maxima: tl.tensor, sums: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Of rows, m and log Σ exp(x − m), from their blocks', whose Σ is 0 where m is −∞.

    They stay apart, for their sum would round the log away where m is large.
    """
    shift = _shift(tl.max(maxima, axis=1))
    return shift, tl.log(tl.sum(sums * tl.exp(maxima - shift[:, None]), axis=1))


@triton.jit
def _without(x: tl.tensor, token: tl.tensor, listed: tl.tensor, count: tl.tensor) -> tl.tensor:
    """−∞ at the listed tokens."""
    for index in range(count):
        x = tl.where(token == tl.load(listed + index), _DEAD, x)
    return x


@triton.jit
def _pack(value: tl.tensor, index: tl.tensor) -> tl.tensor:
    """An int64 that is larger for the larger fp32 value, then for the smaller int32 index."""
    # −0 equals 0.
    bits = tl.where(value == 0, 0, value.to(tl.int32, bitcast=True))
    # Of two negative numbers the larger has the smaller bits.
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@triton.jit
def _unpack(packed: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The value and the index."""
    ordered = (packed >> 32).to(tl.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.to(tl.float32, bitcast=True), 0x7FFFFFFF - packed.to(tl.int32)
