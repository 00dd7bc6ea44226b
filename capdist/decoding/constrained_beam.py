"""ConstrainedBeam words: captions that must have a word of each of several sets.

Constrained beam search (Anderson et al. 2017): which sets a hypothesis has met is its state in an
automaton, and the hypotheses of a state compete with one another alone, K in each. So those that
have still to pay for a rare word are not driven out by those that never will.

Legend: B images, C sets, Z = 2^C states, K beams, W words of an image's sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from capdist.decoding.diverse_beam import Step
from capdist.kernels.beam_step import Beams, Rules, beam_step, first_beams, first_largest
from capdist.vocab import EOS, PAD

#: The ids of one of which a caption must have, and all such sets of an image.
WordSet = Sequence[int]
WordSets = Sequence[WordSet]


class ConstrainedBeam:
    """Competition within states; state z has the places z·K to z·K + K − 1.

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
        bits = [[met(word, image) for word in row] for row, image in zip(rows, sets, strict=True)]
        shape = (len(sets), most)
        #: (B, W) ids, PAD behind the last, and which sets each meets, as bits.
        self.words = torch.tensor(rows, dtype=torch.long).reshape(shape).to(device)
        self.bits = torch.tensor(bits, dtype=torch.long).reshape(shape).to(device)
        #: (B,) the state in which all sets are met.
        self.goal = torch.tensor([(1 << len(image)) - 1 for image in sets]).to(device)
        #: (slots,) the state of a place.
        self.state = torch.arange(self.slots, device=device) // beam
        self.leaving = self._leaving()

    def _leaving(self) -> Tensor:
        """(B, slots, W + 1) what leads out of a place's state: its words, and a caption's end."""
        target = self.state[:, None] | self.bits[:, None]
        words = self.words[:, None].expand_as(target)
        words = words.masked_fill(target == self.state[:, None], -1)
        ends = torch.where(self.state == self.goal[:, None], -1, EOS)
        return torch.cat([words, ends[..., None]], -1)

    def first(self, images: int, device: torch.device) -> Beams:
        """One empty hypothesis, that has met nothing."""
        return first_beams(images, self.slots, device)

    def step(self, logits: Tensor, beams: Beams, rules: Rules) -> Step:
        """Each state's K best of those that stay in it and those that come into it."""
        came = self._came(logits, beams, rules)
        stayed, parents, spoilt = self._stayed(logits, beams, rules)
        # States are met in rising order: whoever comes, comes from a smaller place.
        scores = torch.cat([came.scores, stayed.scores], -1)
        lengths = torch.cat([came.lengths, stayed.lengths], -1)
        tokens = torch.cat([came.tokens, stayed.tokens], -1)
        places = torch.arange(self.slots, device=logits.device).repeat_interleave(
            self.bits.shape[1]
        )
        parents = torch.cat([places.expand_as(came.tokens), parents], -1)
        keys = (scores * rules.weights[lengths]).masked_fill(scores == -torch.inf, -torch.inf)
        chosen = first_largest(keys, self.beam)
        scores, lengths, tokens, parents = (
            found.gather(-1, chosen).flatten(1) for found in (scores, lengths, tokens, parents)
        )
        dead = scores == -torch.inf
        after = Beams(scores, lengths.masked_fill(dead, 0), tokens.masked_fill(dead, PAD))
        return after, parents.masked_fill(dead, 0), spoilt

    def best(self, beams: Beams, rules: Rules) -> Tensor:
        """The hypotheses that have met all sets of their image."""
        return self.goal[:, None] * self.beam + torch.arange(self.beam, device=self.goal.device)

    def _stayed(self, logits: Tensor, beams: Beams, rules: Rules) -> Step:
        """(B, Z, K) the K best of each state that stay in it, and their parents' places."""
        kept = [self.leaving] if rules.banned is None else [rules.banned, self.leaving]
        banned = self._by_state(torch.cat(kept, -1)).flatten(0, 1)
        rows = [
            self._by_state(t).flatten(0, 1) for t in (beams.scores, beams.lengths, beams.tokens)
        ]
        states = self._by_state(logits).flatten(0, 1)
        after, parents, spoilt = beam_step(states, Beams(*rows), replace(rules, banned=banned))
        shape = (len(logits), self.states)
        stayed = Beams(
            *(t.unflatten(0, shape) for t in (after.scores, after.lengths, after.tokens))
        )
        places = parents.unflatten(0, shape) + self.state[:: self.beam, None] * self.beam
        return stayed, places, spoilt.unflatten(0, shape).any(1)

    def _came(self, logits: Tensor, beams: Beams, rules: Rules) -> Beams:
        """(B, Z, slots·W) candidates for a state from other states, dead where they are not."""
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

    def _by_state(self, places: Tensor) -> Tensor:
        """(B, slots, ...) to (B, Z, K, ...)."""
        return places.unflatten(1, (self.states, self.beam))


def met(word: int, sets: WordSets) -> int:
    """Which of the sets a word meets, as bits."""
    return sum(1 << number for number, group in enumerate(sets) if word in group)


def fewest(sets: WordSets) -> int:
    """Words that a caption needs to meet all sets; one may meet several."""
    masks = {met(word, sets) for group in sets for word in group}
    reached, count = {0}, 0
    while (1 << len(sets)) - 1 not in reached:
        reached |= {state | mask for state in reached for mask in masks}
        count += 1
    return count
