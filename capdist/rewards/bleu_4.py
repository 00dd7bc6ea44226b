"""BLEU-4 of single captions (Papineni et al. 2002), the end token a word.

With c_n matched and g_n written n-grams of a caption of l words, and r the number of words of the
reference whose number is closest to l (of two, the shorter),

    BLEU-4 = (prod_{n=1..4} (c_n + 1e-15) / (g_n + 1e-9))^(1/4) min(1, exp(1 - r / l)).

The small terms are pycocoevalcap's, whose ``Bleu`` gives the same for each image on the same
tokens: a caption without a match of four words gets almost nothing.
"""

from __future__ import annotations

import numpy as np

from capdist.metrics.captions import Captions, Floats, Ints
from capdist.metrics.ngrams import ORDERS, clipped_matches, closest_lengths
from capdist.rewards.base import CaptionReward, register

_SMALL, _TINY = 1e-9, 1e-15


@register("bleu_4")
class Bleu4(CaptionReward):
    """BLEU-4, 0 to 1."""

    @property
    def signature(self) -> str:
        """The end token is all there is to say."""
        return "bleu_4(eos)"

    def score(self, image_ids: Ints, captions: Captions) -> Floats:
        """(N,) BLEU-4."""
        places, lengths = self.references.places(image_ids), captions.lengths
        matched = clipped_matches(captions, places, self.references)
        written = (lengths[:, None] - np.arange(ORDERS)).clip(min=0)
        precision = ((matched + _TINY) / (written + _SMALL)).prod(1) ** (1 / ORDERS)
        ratio = (lengths + _TINY) / (closest_lengths(captions, places, self.references) + _SMALL)
        return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))
