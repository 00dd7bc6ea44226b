"""The beam step on a GPU, in Triton: equal to reference.py, but reads the logits only once.

Stage 1, one program per block of a row: its maximum m, Σ exp(x − m) and its K largest logits.
Stage 2, one program per image: merges the blocks' m and Σ to the log-sum-exp (the online normaliser
of Milakov and Gimelshein 2018) and their K largest logits to the next hypotheses.

A candidate is an int64 with its logit above its token, so that the largest integer is the best one.
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
#: Less than every candidate; its logit is NaN, so that it is dead.
_NONE = tl.constexpr(-(2**63))
#: The candidate of a finished hypothesis: logit 0 and token PAD.
_FINISHED = tl.constexpr(2**31 - 1 - PAD)


class LaunchSizes(NamedTuple):
    """Block and warp sizes of a step; all but ``splits`` are powers of two."""

    block: int  # logits of a program of stage 1
    splits: int  # blocks of a row
    beams: int  # at least K
    columns: int  # at least the candidates per hypothesis that stage 2 reads
    read_warps: int
    merge_warps: int


def launch_sizes(beam: int, vocabulary: int) -> LaunchSizes:
    """The sizes for K and V.

    Small blocks keep a GPU busy with few rows; large ones leave fewer candidates, K² per block, to
    stage 2. A thread keeps at most 8 logits, or 16 candidates, in registers.
    """
    block = min(1024 if beam <= 5 else 2048, triton.next_power_of_2(vocabulary))
    splits = triton.cdiv(vocabulary, block)
    beams, columns = triton.next_power_of_2(beam), triton.next_power_of_2(splits * beam)
    merge_warps = min(max(beams * columns // 512, 1), 16)
    return LaunchSizes(block, splits, beams, columns, max(block // 256, 1), merge_warps)


def beam_step(logits: Tensor, beams: Beams, rules: Rules) -> tuple[Beams, Tensor, Tensor]:
    """The next hypotheses, as `reference.beam_step`, but without overwriting the logits.

    The host does not wait for the GPU; a CUDA graph can capture the step after a first call.

    Args:
        logits: (B, K, V) fp32, fp16 or bf16, on the current GPU, with any strides; K at most 16.
        beams: the hypotheses before.
        rules: what may be written, and how candidates compare.

    Returns:
        The hypotheses after, best first; their parents' beams (B, K); and whether an image has a
        NaN or +inf logit (B,).
    """
    images, beam, vocabulary = logits.shape
    sizes = launch_sizes(beam, vocabulary)
    before = [state.contiguous() for state in (beams.scores, beams.lengths, beams.tokens)]
    # Nothing is read of an empty list, so any pointer will do.
    none = rules.forbidden[:0]
    banned = none if rules.banned is None else rules.banned.contiguous()
    penalised = none if rules.penalised is None else rules.penalised.contiguous()
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
        penalised,
        penalised.shape[-1],
        rules.penalty,
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
    nonfinite = logits.new_empty(images, dtype=torch.bool)
    _merge[(images,)](
        maxima,
        sums,
        best,
        sizes.splits,
        *before,
        rules.weights.contiguous(),
        penalised,
        penalised.shape[-1],
        rules.penalty,
        after.scores,
        after.lengths,
        after.tokens,
        parents,
        nonfinite,
        K=beam,
        BEAMS=sizes.beams,
        COLUMNS=sizes.columns,
        num_warps=sizes.merge_warps,
        enable_fp_fusion=False,
    )
    return after, parents, nonfinite


# These change from step to step; specialising on 1 or on multiples of 16 would recompile mid-run.
_COUNTS = ["banned_count", "penalised_count"]


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
    penalised: tl.tensor,
    penalised_count: tl.tensor,
    penalty: tl.tensor,
    maxima: tl.tensor,
    sums: tl.tensor,
    best: tl.tensor,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Stage 1: writes one block's entries of maxima, sums (B·K, splits) and best (B·K, splits, K).

    The entries of finished and dead hypotheses stay uninitialised.
    """
    row, part = tl.program_id(0), tl.program_id(1)
    _, alive = _state(tl.load(scores + row), tl.load(lengths + row), tl.load(tokens + row))
    if not alive:
        return
    token = part * BLOCK + tl.arange(0, BLOCK)
    # 32-bit offsets would overflow in a large batch.
    start = (row // K).to(tl.int64) * image_stride + (row % K).to(tl.int64) * beam_stride
    pointers = logits + start + token * token_stride
    x = tl.load(pointers, mask=token < vocabulary, other=_DEAD).to(tl.float32)
    entry = row * tl.num_programs(1) + part
    maximum = tl.max(x, axis=0)
    tl.store(maxima + entry, maximum)
    tl.store(sums + entry, tl.sum(tl.exp(x - _shift(maximum)), axis=0))
    x = _without(x, token, forbidden, forbidden_count)
    x = _without(x, token, banned + row * banned_count, banned_count)
    for index in range(penalised_count):
        x -= tl.where(
            token == tl.load(penalised + row // K * penalised_count + index), penalty, 0.0
        )
    candidates = _pack(x, token)
    for rank in range(K):
        first = tl.max(candidates, axis=0)
        tl.store(best + entry * K + rank, first)
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
    penalised: tl.tensor,
    penalised_count: tl.tensor,
    penalty: tl.tensor,
    next_scores: tl.tensor,
    next_lengths: tl.tensor,
    next_tokens: tl.tensor,
    parents: tl.tensor,
    nonfinite: tl.tensor,
    K: tl.constexpr,
    BEAMS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Stage 2: an image's next hypotheses, (B, K) each, and its mark in nonfinite (B,)."""
    image = tl.program_id(0)
    beam = tl.arange(0, BEAMS)
    column = tl.arange(0, COLUMNS)[None, :]
    row = image * K + beam
    here = beam < K
    score = tl.load(scores + row, mask=here, other=_DEAD)
    length = tl.load(lengths + row, mask=here, other=0)
    finished, alive = _state(score, length, tl.load(tokens + row, mask=here, other=_PAD))
    entries, there = row[:, None] * splits + column, alive[:, None] & (column < splits)
    maximum, log_sum = _normaliser(
        tl.load(maxima + entries, mask=there, other=_DEAD),
        tl.load(sums + entries, there, other=0.0),
    )
    # Rows that stage 1 skipped are −∞ here.
    nan = log_sum != log_sum
    tl.store(nonfinite + image, tl.max(nan.to(tl.int32), axis=0) != 0)
    entries, there = row[:, None] * splits * K + column, alive[:, None] & (column < splits * K)
    candidates = tl.load(best + entries, mask=there, other=_NONE)
    # 3: one candidate, the same in all columns, that changes neither score nor length.
    candidates = tl.where(finished[:, None], _FINISHED, candidates)
    log_sum = tl.where(finished, 0.0, log_sum)
    length += tl.where(finished, 0, 1)
    weight = tl.load(weights + length, mask=score > _DEAD, other=0.0)
    # 5: K times, the best of the hypotheses' best candidates wins and is replaced by its next.
    for rank in range(K):
        heads = tl.max(candidates, axis=1)
        logit, token = _unpack(heads)
        penalty_sum = tl.zeros_like(logit)
        for index in range(penalised_count):
            penalty_sum += tl.where(
                token == tl.load(penalised + image * penalised_count + index), penalty, 0.0
            )
        gain = logit + penalty_sum - maximum - log_sum
        # NaN fails the comparison too: neither rows with NaN nor rows of −∞ have candidates.
        total = tl.where(gain > _DEAD, score + gain, _DEAD)
        lives = total > _DEAD
        key = tl.where(lives, (total - penalty_sum) * weight, _DEAD)
        _, parent = _unpack(tl.max(_pack(key, beam), axis=0))
        won = beam == parent
        # 6: the best is dead only if all are; then it is beam 0's.
        slot = image * K + rank + tl.zeros_like(beam)
        tl.store(next_scores + slot, total, mask=won)
        tl.store(next_lengths + slot, tl.where(lives, length, 0), mask=won)
        tl.store(next_tokens + slot, tl.where(lives, token, _PAD), mask=won)
        tl.store(parents + slot, beam, mask=won)
        taken = won[:, None] & (candidates == heads[:, None])
        candidates = tl.where(taken, _NONE, candidates)


@triton.jit
def _state(scores: tl.tensor, lengths: tl.tensor, tokens: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """`Beams.finished` and `Beams.alive`."""
    finished = (tokens == _EOS) | ((tokens == _PAD) & (lengths > 0))
    return finished, (scores > _DEAD) & ~finished


@triton.jit
def _shift(maximum: tl.tensor) -> tl.tensor:
    """What is subtracted from exponents: the maximum, or 0 for −∞, as −∞ + ∞ would be NaN."""
    return tl.where(maximum == _DEAD, 0.0, maximum)


@triton.jit
def _normaliser(maxima: tl.tensor, sums: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Per row m and log Σ exp(x − m), from those of its blocks, whose Σ is 0 where m is −∞.

    They are not added up: if m is large, the sum would round the log away.
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
