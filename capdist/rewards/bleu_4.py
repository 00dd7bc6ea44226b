"""BLEU-4 of single captions (Papineni et al. 2002), with EOS as a word.

With c_n matched and g_n generated n-grams of a caption of l words, and r the length of the
reference that is closest to l (of two, the shorter),

    BLEU-4 = (prod_{n=1..4} (c_n + 1e-15) / (g_n + 1e-9))^(1/4) min(1, exp(1 - r / l)).

The small terms are pycocoevalcap's, whose ``Bleu`` gives each image the same score on the same
tokens: without a match of four words, a caption scores almost 0.
"""

from __future__ import annotations

import numpy as np

from capdist.metrics.captions import Captions, Floats, Ints, References
from capdist.metrics.ngrams import ORDERS, clipped_matches, closest_lengths
from capdist.rewards.base import CaptionReward, register

_SMALL, _TINY = 1e-9, 1e-15


@register("bleu_4")
class Bleu4(CaptionReward):
    """BLEU-4, 0 to 1."""

    @property
    def signature(self) -> str:
        return "bleu_4(eos)"

    def score(self, image_ids: Ints, captions: Captions, references: References) -> Floats:
        indices, lengths = references.indices(image_ids), captions.lengths
        matched = clipped_matches(captions, indices, references)
        generated = (lengths[:, None] - np.arange(ORDERS)).clip(min=0)
        precision = ((matched + _TINY) / (generated + _SMALL)).prod(1) ** (1 / ORDERS)
        ratio = (lengths + _TINY) / (closest_lengths(captions, indices, references) + _SMALL)
        return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))
