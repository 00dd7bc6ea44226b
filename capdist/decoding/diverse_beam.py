"""How hypotheses compete: all of an image with one another, or in groups that shun each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from capdist.kernels.beam_step import Beams, Rules, beam_step, first_beams
from capdist.vocab import PAD

Step = tuple[Beams, Tensor, Tensor]


class Competition(Protocol):
    """The K hypotheses of an image stand in ``slots`` places, of which a step fills each anew."""

    @property
    def slots(self) -> int:
        """Places of an image."""

    def first(self, images: int, device: torch.device) -> Beams:
        """The hypotheses before the first step, (B, slots)."""

    def step(self, logits: Tensor, beams: Beams, rules: Rules) -> Step:
        """As `beam_step`, (B, slots) each."""

    def best(self, beams: Beams, rules: Rules) -> Tensor:
        """(B, K) the places of the final hypotheses, best first."""


class DiverseBeam:
    """DiverseBeam of hypotheses, one after the other (Vijayakumar et al. 2018, Eq. 4, Hamming).

    Hypotheses compete within their group alone, and a group is charged for every token that the
    groups before it have written at the same step. One group is plain beam search.

    Args:
        beam: K, hypotheses of all groups.
        groups: their number; it divides K.
        charge: λ, for each earlier hypothesis with the token.
    """

    def __init__(self, beam: int, groups: int, charge: float) -> None:
        self.slots = beam
        self.groups = groups
        self.charge = charge

    def first(self, images: int, device: torch.device) -> Beams:
        """One empty hypothesis in every group."""
        parts = [first_beams(images, self.slots // self.groups, device)] * self.groups
        return join(parts)

    def step(self, logits: Tensor, beams: Beams, rules: Rules) -> Step:
        """Every group's step."""
        if self.groups == 1:
            return beam_step(logits, beams, rules)
        after: list[Beams] = []
        parents, spoilt = [], torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        size = self.slots // self.groups
        for start in range(0, self.slots, size):
            here = slice(start, start + size)
            theirs = replace(rules, charge=self.charge)
            if rules.banned is not None:
                theirs = replace(theirs, banned=rules.banned[:, here])
            if after:
                written = join(after).tokens
                theirs = replace(theirs, charged=written.masked_fill(written == PAD, -1))
            part, parent, marked = beam_step(logits[:, here], cut(beams, here), theirs)
            after.append(part)
            parents.append((parent + start).masked_fill(part.scores == -torch.inf, 0))
            spoilt |= marked
        return join(after), torch.cat(parents, 1), spoilt

    def best(self, beams: Beams, rules: Rules) -> Tensor:
        """All groups' hypotheses in one order."""
        keys = beams.scores * rules.weights[beams.lengths]
        return keys.argsort(dim=1, descending=True, stable=True)


def cut(beams: Beams, slots: slice) -> Beams:
    """Some places of every image."""
    return Beams(beams.scores[:, slots], beams.lengths[:, slots], beams.tokens[:, slots])


def join(parts: list[Beams]) -> Beams:
    """Places beside one another."""
    columns = zip(*((part.scores, part.lengths, part.tokens) for part in parts), strict=True)
    return Beams(*(torch.cat(column, 1) for column in columns))
