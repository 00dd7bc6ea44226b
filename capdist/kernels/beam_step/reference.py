"""The beam step in plain torch: the reference implementation, which also runs without a GPU.

Numbers in comments are those of README.md's semantics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from capdist.vocab import BOS, EOS, PAD

#: Logits per block: the largest ones are found by the maxima of blocks.
BLOCK = 64


@dataclass(frozen=True)
class Beams:
    """The hypotheses of every image, each (B, K).

    ``scores`` fp32 sums of log-probabilities, −inf if dead; ``lengths`` int64 numbers of tokens,
    EOS included; ``tokens`` int64 last tokens.
    """

    scores: Tensor
    lengths: Tensor
    tokens: Tensor

    @property
    def finished(self) -> Tensor:
        """(B, K) whether the caption has ended with EOS."""
        return (self.tokens == EOS) | ((self.tokens == PAD) & (self.lengths > 0))

    @property
    def alive(self) -> Tensor:
        """(B, K) whether the hypothesis can be extended."""
        return ~self.finished & (self.scores > -torch.inf)


@dataclass(frozen=True)
class Rules:
    """What a step's candidates may be, and how they compare.

    Args:
        weights: (L + 1,) fp32 w by length; L is the longest caption, EOS included.
        forbidden: (T,) int64 token ids that are never written, PAD and BOS among them.
        banned: (B, K, N) int64 token ids that a hypothesis may not write now, padded with -1.
        penalised: (B, M) int64 token ids whose candidates are compared with ``penalty`` subtracted,
            as often as they are listed; padded with -1.
        penalty: λ.
    """

    weights: Tensor
    forbidden: Tensor
    banned: Tensor | None = None
    penalised: Tensor | None = None
    penalty: float = 0.0


def first_beams(images: int, beam: int, device: torch.device) -> Beams:
    """One empty hypothesis per image; the others are dead (1)."""
    scores = torch.full((images, beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    lengths = torch.zeros(images, beam, dtype=torch.long, device=device)
    return Beams(scores, lengths, torch.full_like(lengths, BOS))


def beam_step(logits: Tensor, beams: Beams, rules: Rules) -> tuple[Beams, Tensor, Tensor]:
    """The next hypotheses.

    Args:
        logits: (B, K, V) of any float type; fp32 ones may be overwritten.
        beams: the hypotheses before.
        rules: what may be written, and how candidates compare.

    Returns:
        The hypotheses after, best first; their parents' beams (B, K); and whether an image has a
        NaN or +inf logit (B,).
    """
    beam, logits = logits.shape[1], logits.float()
    log_probs, nonfinite = _log_probs(logits, beams)
    logits.index_fill_(-1, rules.forbidden, -torch.inf)
    if rules.banned is not None:
        logits = _ban(logits, rules.banned)
    if rules.penalised is not None:
        costs = torch.where(rules.penalised < 0, 0.0, -rules.penalty)[:, None].expand(-1, beam, -1)
        logits.scatter_add_(-1, rules.penalised.clamp(min=0)[:, None].expand_as(costs), costs)
    best, tokens = _largest(logits, beam)
    gain = log_probs.gather(-1, tokens).masked_fill(best == -torch.inf, -torch.inf)
    return (
        *_merge(beams, gain.nan_to_num(-torch.inf, neginf=-torch.inf), tokens, rules),
        nonfinite,
    )


def end_step(logits: Tensor, beams: Beams) -> tuple[Beams, Tensor, Tensor]:
    """The step after the longest caption's words: every live hypothesis ends (8).

    There is nothing to choose, so hypotheses keep their places. It is torch on a GPU too.

    Args, returns: as of `beam_step`.
    """
    log_probs, nonfinite = _log_probs(logits.float(), beams)
    gain = log_probs[..., EOS].nan_to_num(-torch.inf, neginf=-torch.inf)
    scores = beams.scores + gain.masked_fill(~beams.alive, 0.0)
    dead = scores == -torch.inf
    tokens = torch.full_like(beams.tokens, PAD).masked_fill(beams.alive & ~dead, EOS)
    lengths = (beams.lengths + beams.alive).masked_fill(dead, 0)
    parents = torch.arange(beams.tokens.shape[1], device=tokens.device).expand_as(tokens)
    return Beams(scores, lengths, tokens), parents.masked_fill(dead, 0), nonfinite


def _log_probs(logits: Tensor, beams: Beams) -> tuple[Tensor, Tensor]:
    """log_softmax of fp32 logits (B, K, V), and whether an image has a NaN or +inf logit (B,)."""
    log_probs = logits.log_softmax(-1)
    # A row of −inf has no log-probabilities either, but is allowed.
    nan = log_probs[..., 0].isnan() & (logits.amax(-1) != -torch.inf)
    return log_probs, (nan & beams.alive).any(-1)


def _merge(beams: Beams, gain: Tensor, tokens: Tensor, rules: Rules) -> tuple[Beams, Tensor]:
    """The K best of each beam's M <= K best, (B, K, M) log-probabilities and tokens in order."""
    beam, kept = gain.shape[1:]
    finished = beams.finished[..., None]
    first = torch.arange(kept, device=gain.device) == 0
    gain = torch.where(finished, torch.where(first, 0.0, -torch.inf), gain)  # 3
    tokens = torch.where(finished, PAD, tokens)
    scores = beams.scores[..., None] + gain
    lengths = beams.lengths[..., None] + (~finished).long()
    keys = (scores - _penalties(tokens, rules)) * rules.weights[lengths]
    keys = keys.masked_fill(scores == -torch.inf, -torch.inf).flatten(1)
    # Candidates are in the order of (5), and equal ones stay in it.
    chosen = first_largest(keys, beam)
    scores, tokens = scores.flatten(1).gather(1, chosen), tokens.flatten(1).gather(1, chosen)
    lengths = lengths.expand_as(gain).flatten(1).gather(1, chosen)
    dead = scores == -torch.inf  # 6
    after = Beams(scores, lengths.masked_fill(dead, 0), tokens.masked_fill(dead, PAD))
    return after, (chosen // kept).masked_fill(dead, 0)


def _penalties(tokens: Tensor, rules: Rules) -> Tensor | float:
    """What is subtracted from candidates (B, ...) for comparison."""
    if rules.penalised is None:
        return 0.0
    listed = rules.penalised.view(len(tokens), *[1] * (tokens.ndim - 1), -1)
    return rules.penalty * (tokens[..., None] == listed).sum(-1)


def _largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of the last dimension and their indices; the first of equal ones.

    They are in the ``count`` blocks with the largest maxima, so that only those are searched.
    """
    size = rows.shape[-1]
    whole = size // BLOCK * BLOCK
    maxima = rows[..., :whole].unflatten(-1, (-1, BLOCK)).amax(-1)
    if whole < size:
        maxima = torch.cat([maxima, rows[..., whole:].amax(-1, keepdim=True)], -1)
    blocks = first_largest(maxima, min(count, maxima.shape[-1])).sort(-1).values
    indices = (blocks[..., None] * BLOCK + torch.arange(BLOCK, device=rows.device)).flatten(-2)
    inside = indices.clamp(max=size - 1)
    values = rows.gather(-1, inside).masked_fill(indices >= size, -torch.inf)
    chosen = first_largest(values, count)
    return values.gather(-1, chosen), inside.gather(-1, chosen)


def first_largest(values: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest, largest first; of equal ones the first comes first."""
    # Faster than sorting. A number that was taken becomes −inf; an fp32 −inf becomes the least
    # finite fp64, which is still less than every fp32.
    left = values.double().clamp(min=torch.finfo(torch.float64).min)
    indices = []
    for _ in range(min(count, values.shape[-1])):
        indices.append(left.argmax(-1, keepdim=True))
        left.scatter_(-1, indices[-1], -torch.inf)
    return torch.cat(indices, -1)


def _ban(logits: Tensor, banned: Tensor) -> Tensor:
    """−inf at the banned tokens of every row."""
    # -1 is written to an additional column, which is then dropped.
    widened = torch.nn.functional.pad(logits, (0, 1))
    columns = banned.masked_fill(banned < 0, logits.shape[-1])
    return widened.scatter(-1, columns, -torch.inf)[..., :-1]
