"""One step of beam search, as README.md specifies it."""

from __future__ import annotations

from torch import Tensor

from capdist.kernels.beam_step import reference
from capdist.kernels.beam_step.reference import (
    Beams,
    Rules,
    end_step,
    first_beams,
    first_largest,
)

__all__ = ["Beams", "Rules", "beam_step", "end_step", "first_beams", "first_largest"]

#: The kernel's widest beam.
MAX_BEAM = 16


def beam_step(logits: Tensor, beams: Beams, rules: Rules) -> tuple[Beams, Tensor, Tensor]:
    """As `reference.beam_step`; by the Triton kernel if the logits are on a GPU."""
    step = reference.beam_step
    if logits.is_cuda and logits.shape[1] <= MAX_BEAM:
        from capdist.kernels.beam_step.triton_kernel import beam_step as step
    return step(logits, beams, rules)
