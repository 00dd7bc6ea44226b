"""Constrained beam search: captions that must contain a word of each of several sets.

Anderson et al. 2017: which sets a hypothesis has satisfied is its state in a finite automaton, and
hypotheses compete within their state, K in each. So hypotheses that have paid for a rare word are
not displaced by those that have not.

Legend: B images, C sets, Z = 2^C states, K beams, W words of an image's sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from capdist.decoding.selection import Selected
from capdist.kernels.beam_step import Beams, Rules, beam_step, first_beams, first_largest
from capdist.vocab import EOS, PAD

#: Word ids of which a caption must contain one, and all such sets of an image.
WordSet = Sequence[int]
WordSets = Sequence[WordSet]


class ConstrainedBeam:
    """Selection within automaton states; state z has the slots z·K to z·K + K − 1.

    Args:
        beam: K.
        sets: of every image (B).
        device: of the search.
    """

    def __init__(self, beam: int, sets: Sequence[WordSets], device: torch.device) -> None:
        self.beam = beam
        self.states = 1 << max(map(len, sets), default=0)
        self.slots = beam * self.states
        words = [sorted({word for group in image for word in group}) for image in sets]
        most = max(map(len, words), default=0)
        rows = [row + [PAD] * (most - len(row)) for row in words]
        bits = [
            [satisfied(word, image) for word in row] for row, image in zip(rows, sets, strict=True)
        ]
        shape = (len(sets), most)
        #: (B, W) ids, padded with PAD, and the sets that each satisfies, as bits.
        self.words = torch.tensor(rows, dtype=torch.long).reshape(shape).to(device)
        self.bits = torch.tensor(bits, dtype=torch.long).reshape(shape).to(device)
        #: (B,) the state in which all sets are satisfied.
        self.goal = torch.tensor([(1 << len(image)) - 1 for image in sets]).to(device)
        #: (slots,) the state of a slot.
        self.state = torch.arange(self.slots, device=device) // beam
        self.exits = self._exits()

    def _exits(self) -> Tensor:
        """(B, slots, W + 1) words that leave a slot's state, EOS except in the goal; else -1."""
        target = self.state[:, None] | self.bits[:, None]
        words = self.words[:, None].expand_as(target)
        words = words.masked_fill(target == self.state[:, None], -1)
        ends = torch.where(self.state == self.goal[:, None], -1, EOS)
        return torch.cat([words, ends[..., None]], -1)

    def first(self, images: int, device: torch.device) -> Beams:
        """One empty hypothesis per image, in state 0."""
        return first_beams(images, self.slots, device)

    def step(self, logits: Tensor, beams: Beams, rules: Rules) -> Selected:
        """The K best of every state among the hypotheses that stay in it and those that enter."""
        entering = self._entering(logits, beams, rules)
        staying, parents, nonfinite = self._staying(logits, beams, rules)
        # Bits are only ever set: whatever enters a state comes from a smaller slot, so is first.
        scores = torch.cat([entering.scores, staying.scores], -1)
        lengths = torch.cat([entering.lengths, staying.lengths], -1)
        tokens = torch.cat([entering.tokens, staying.tokens], -1)
        slots = torch.arange(self.slots, device=logits.device).repeat_interleave(self.bits.shape[1])
        parents = torch.cat([slots.expand_as(entering.tokens), parents], -1)
        keys = (scores * rules.weights[lengths]).masked_fill(scores == -torch.inf, -torch.inf)
        chosen = first_largest(keys, self.beam)
        scores, lengths, tokens, parents = (
            candidates.gather(-1, chosen).flatten(1)
            for candidates in (scores, lengths, tokens, parents)
        )
        dead = scores == -torch.inf
        after = Beams(scores, lengths.masked_fill(dead, 0), tokens.masked_fill(dead, PAD))
        return after, parents.masked_fill(dead, 0), nonfinite

    def best(self, beams: Beams, rules: Rules) -> Tensor:
        """The hypotheses that satisfy all sets of their image, by score times length weight."""
        slots = self.goal[:, None] * self.beam + torch.arange(self.beam, device=self.goal.device)
        keys = (beams.scores * rules.weights[beams.lengths]).gather(1, slots)
        return slots.gather(1, keys.argsort(dim=1, descending=True, stable=True))

    def _staying(self, logits: Tensor, beams: Beams, rules: Rules) -> Selected:
        """(B, Z, K) the K best of each state that stay in it, and the slots of their parents."""
        banned = [self.exits] if rules.banned is None else [rules.banned, self.exits]
        per_state = replace(rules, banned=self._by_state(torch.cat(banned, -1)).flatten(0, 1))
        rows = [
            self._by_state(t).flatten(0, 1) for t in (beams.scores, beams.lengths, beams.tokens)
        ]
        states = self._by_state(logits).flatten(0, 1)
        after, parents, nonfinite = beam_step(states, Beams(*rows), per_state)
        shape = (len(logits), self.states)
        staying = Beams(
            *(t.unflatten(0, shape) for t in (after.scores, after.lengths, after.tokens))
        )
        slots = parents.unflatten(0, shape) + self.state[:: self.beam, None] * self.beam
        return staying, slots, nonfinite.unflatten(0, shape).any(1)

    def _entering(self, logits: Tensor, beams: Beams, rules: Rules) -> Beams:
        """(B, Z, slots·W) candidates of each state from other states; dead if not for this one."""
        words = self.words[:, None].expand(-1, self.slots, -1)
        logits = logits.float()
        gain = logits.gather(-1, words) - logits.logsumexp(-1, keepdim=True)
        target = self.state[:, None] | self.bits[:, None]
        out = (target == self.state[:, None]) | ~beams.alive[..., None]
        if rules.banned is not None:
            out |= (words[..., None] == rules.banned[:, :, None]).any(-1)
        scores = beams.scores[..., None] + gain.nan_to_num(-torch.inf, neginf=-torch.inf)
        scores = scores.masked_fill(out, -torch.inf).flatten(1)
        lengths = (beams.lengths[..., None] + ~out).flatten(1)
        into = (
            target.flatten(1)[:, None] == torch.arange(self.states, device=target.device)[:, None]
        )
        return Beams(
            scores[:, None].masked_fill(~into, -torch.inf),
            lengths[:, None].expand_as(into),
            words.flatten(1)[:, None].expand_as(into),
        )

    def _by_state(self, slots: Tensor) -> Tensor:
        """(B, slots, ...) to (B, Z, K, ...)."""
        return slots.unflatten(1, (self.states, self.beam))


def satisfied(word: int, sets: WordSets) -> int:
    """The sets that contain a word, as bits."""
    return sum(1 << number for number, group in enumerate(sets) if word in group)


def fewest_words(sets: WordSets) -> int:
    """The fewest words that satisfy all sets; one word may satisfy several."""
    masks = {satisfied(word, sets) for group in sets for word in group}
    reached, count = {0}, 0
    while (1 << len(sets)) - 1 not in reached:
        reached |= {state | mask for state in reached for mask in masks}
        count += 1
    return count
