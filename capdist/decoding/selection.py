"""How the next hypotheses of an image are selected: the protocol of all selection strategies."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from capdist.kernels.beam_step import Beams, Rules

#: As of `beam_step`: the hypotheses, their parents (B, slots), images with NaN or +inf logits (B,).
Selected = tuple[Beams, Tensor, Tensor]


class Selection(Protocol):
    """Keeps ``slots`` hypotheses per image, and selects new ones at every step."""

    @property
    def slots(self) -> int:
        """Hypotheses per image during the search, at least the K that it returns."""

    def first(self, images: int, device: torch.device) -> Beams:
        """The (B, slots) hypotheses before the first step."""

    def step(self, logits: Tensor, beams: Beams, rules: Rules) -> Selected:
        """The (B, slots) hypotheses after a step, as `beam_step`."""

    def best(self, beams: Beams, rules: Rules) -> Tensor:
        """(B, K) the slots of the final hypotheses, best first."""
