"""The beam step in plain torch: the specification, and what runs where there is no GPU.

Numbers in comments are those of README.md's semantics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from capdist.vocab import BOS, EOS, PAD

#: Logits whose maximum is taken at once, in search of the largest.
BLOCK = 64


@dataclass(frozen=True)
class Beams:
    """The hypotheses of every image, each (B, K).

    ``scores`` fp32 sums of log-probabilities, −inf where dead; ``lengths`` int64 tokens with EOS;
    ``tokens`` int64 the last ones.
    """

    scores: Tensor
    lengths: Tensor
    tokens: Tensor

    @property
    def finished(self) -> Tensor:
        """Whose caption has its end."""
        return (self.tokens == EOS) | ((self.tokens == PAD) & (self.lengths > 0))

    @property
    def alive(self) -> Tensor:
        """Who can still go on."""
        return ~self.finished & (self.scores > -torch.inf)


@dataclass(frozen=True)
class Rules:
    """What a step's candidates must obey.

    Args:
        weights: (L + 1,) fp32 w by length, L the longest caption with EOS.
        forbidden: (T,) int64 token ids that are never written, PAD and BOS among them.
        banned: (B, K, N) int64 token ids that a hypothesis may not write now, -1 for none.
        charged: (B, M) int64 token ids that cost ``charge`` where candidates compete, for every
            time that they are listed; -1 for none.
        charge: what scores are lowered by for comparison.
    """

    weights: Tensor
    forbidden: Tensor
    banned: Tensor | None = None
    charged: Tensor | None = None
    charge: float = 0.0


def first_beams(images: int, beam: int, device: torch.device) -> Beams:
    """One empty hypothesis an image; the others are dead (1)."""
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
        The hypotheses after, best first; the beams (B, K) that they come from; and whether an
        image had a NaN logit (B,).
    """
    beam, logits = logits.shape[1], logits.float()
    log_probs = logits.log_softmax(-1)
    # A row of −inf has no log-probabilities either, but is in order.
    nan = log_probs[..., 0].isnan() & (logits.amax(-1) != -torch.inf)
    spoilt = (nan & beams.alive).any(-1)
    logits.index_fill_(-1, rules.forbidden, -torch.inf)
    if rules.banned is not None:
        logits = _ban(logits, rules.banned)
    if rules.charged is not None:
        costs = torch.where(rules.charged < 0, 0.0, -rules.charge)[:, None].expand(-1, beam, -1)
        logits.scatter_add_(-1, rules.charged.clamp(min=0)[:, None].expand_as(costs), costs)
    best, tokens = _largest(logits, beam)
    gain = log_probs.gather(-1, tokens).masked_fill(best == -torch.inf, -torch.inf)
    return (*_merge(beams, gain.nan_to_num(-torch.inf, neginf=-torch.inf), tokens, rules), spoilt)


def _merge(beams: Beams, gain: Tensor, tokens: Tensor, rules: Rules) -> tuple[Beams, Tensor]:
    """The K best of each beam's M <= K best, (B, K, M) log-probabilities and tokens in order."""
    beam, kept = gain.shape[1:]
    finished = beams.finished[..., None]
    itself = torch.arange(kept, device=gain.device) == 0
    gain = torch.where(finished, torch.where(itself, 0.0, -torch.inf), gain)  # 3
    tokens = torch.where(finished, PAD, tokens)
    scores = beams.scores[..., None] + gain
    lengths = beams.lengths[..., None] + (~finished).long()
    keys = (scores - _toll(tokens, rules)) * rules.weights[lengths]
    keys = keys.masked_fill(scores == -torch.inf, -torch.inf).flatten(1)
    # Candidates stand in the order of (5), and equal ones stay in it.
    chosen = first_largest(keys, beam)
    scores, tokens = scores.flatten(1).gather(1, chosen), tokens.flatten(1).gather(1, chosen)
    lengths = lengths.expand_as(gain).flatten(1).gather(1, chosen)
    dead = scores == -torch.inf  # 6
    after = Beams(scores, lengths.masked_fill(dead, 0), tokens.masked_fill(dead, PAD))
    return after, (chosen // kept).masked_fill(dead, 0)


def _toll(tokens: Tensor, rules: Rules) -> Tensor | float:
    """What candidates (B, ...) are charged."""
    if rules.charged is None:
        return 0.0
    listed = rules.charged.view(len(tokens), *[1] * (tokens.ndim - 1), -1)
    return rules.charge * (tokens[..., None] == listed).sum(-1)


def _largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of the last dimension and where they are; the first of equal ones.

    They lie in the ``count`` blocks with the largest maxima, so that only those are sorted.
    """
    size = rows.shape[-1]
    whole = size // BLOCK * BLOCK
    maxima = rows[..., :whole].unflatten(-1, (-1, BLOCK)).amax(-1)
    if whole < size:
        maxima = torch.cat([maxima, rows[..., whole:].amax(-1, keepdim=True)], -1)
    blocks = first_largest(maxima, min(count, maxima.shape[-1])).sort(-1).values
    places = (blocks[..., None] * BLOCK + torch.arange(BLOCK, device=rows.device)).flatten(-2)
    inside = places.clamp(max=size - 1)
    values = rows.gather(-1, inside).masked_fill(places >= size, -torch.inf)
    chosen = first_largest(values, count)
    return values.gather(-1, chosen), inside.gather(-1, chosen)


def first_largest(values: Tensor, count: int) -> Tensor:
    """Where the ``count`` largest are, largest first, the first of equal ones first."""
    # What is taken falls below everything, −inf included, which fp64 has room for between it and
    # fp32's least. Sorting would cost more.
    left = values.double().clamp(min=torch.finfo(torch.float64).min)
    found = []
    for _ in range(min(count, values.shape[-1])):
        found.append(left.argmax(-1, keepdim=True))
        left.scatter_(-1, found[-1], -torch.inf)
    return torch.cat(found, -1)


def _ban(logits: Tensor, banned: Tensor) -> Tensor:
    """−inf at the banned tokens of every row."""
    # -1 becomes a column of its own, that is cut off again.
    spare = torch.nn.functional.pad(logits, (0, 1))
    places = banned.masked_fill(banned < 0, logits.shape[-1])
    return spare.scatter(-1, places, -torch.inf)[..., :-1]
