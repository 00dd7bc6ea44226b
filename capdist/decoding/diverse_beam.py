"""Diverse beam search: groups of hypotheses that avoid one another's words."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from capdist.decoding.selection import Selected
from capdist.kernels.beam_step import Beams, Rules, beam_step, first_beams
from capdist.vocab import PAD


class DiverseBeam:
    """Selection within groups (Vijayakumar et al. 2018, Eq. 4, Hamming diversity).

    Hypotheses compete within their own group. At every step the groups take turns, and a group's
    candidates are penalised for tokens that earlier groups have written at the same step. One
    group is plain beam search.

    Args:
        beam: K, hypotheses of all groups.
        groups: their number; it divides K.
        penalty: λ, for each earlier hypothesis with the token.
    """

    def __init__(self, beam: int, groups: int, penalty: float) -> None:
        self.slots = beam
        self.groups = groups
        self.penalty = penalty

    def first(self, images: int, device: torch.device) -> Beams:
        """One empty hypothesis per group."""
        return join([first_beams(images, self.slots // self.groups, device)] * self.groups)

    def step(self, logits: Tensor, beams: Beams, rules: Rules) -> Selected:
        """The step of every group, one after another."""
        if self.groups == 1:
            return beam_step(logits, beams, rules)
        after: list[Beams] = []
        parents, nonfinite = [], torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        size = self.slots // self.groups
        for start in range(0, self.slots, size):
            slots = slice(start, start + size)
            group_rules = replace(rules, penalty=self.penalty)
            if rules.banned is not None:
                group_rules = replace(group_rules, banned=rules.banned[:, slots])
            if after:
                tokens = join(after).tokens
                penalised = tokens.masked_fill(tokens == PAD, -1)
                group_rules = replace(group_rules, penalised=penalised)
            group, parent, bad = beam_step(logits[:, slots], cut(beams, slots), group_rules)
            after.append(group)
            parents.append((parent + start).masked_fill(group.scores == -torch.inf, 0))
            nonfinite |= bad
        return join(after), torch.cat(parents, 1), nonfinite

    def best(self, beams: Beams, rules: Rules) -> Tensor:
        """All groups' hypotheses, ordered by score times length weight."""
        keys = beams.scores * rules.weights[beams.lengths]
        return keys.argsort(dim=1, descending=True, stable=True)


def cut(beams: Beams, slots: slice) -> Beams:
    """Some slots of every image."""
    return Beams(beams.scores[:, slots], beams.lengths[:, slots], beams.tokens[:, slots])


def join(groups: list[Beams]) -> Beams:
    """The slots of all groups, in order."""
    columns = zip(*((group.scores, group.lengths, group.tokens) for group in groups), strict=True)
    return Beams(*(torch.cat(column, 1) for column in columns))
