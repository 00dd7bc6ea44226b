"""One step of beam search: see README.md."""

from capdist.kernels.beam_step.reference import Beams, beam_step, first_beams

__all__ = ["Beams", "beam_step", "first_beams"]
