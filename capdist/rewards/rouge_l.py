"""ROUGE-L of single captions (Lin 2004, Section 3.1), with EOS as a word.

With p and r the longest common subsequence's share of the caption and of a reference, each the
largest over the image's references,

    ROUGE-L = (1 + beta^2) p r / (r + beta^2 p),    beta = 1.2,

as in pycocoevalcap, whose ``Rouge`` gives each image the same score on the same tokens.
"""

from __future__ import annotations

import numpy as np

from capdist.metrics.captions import Captions, Floats, Ints, References
from capdist.metrics.subsequence import best_shares
from capdist.rewards.base import CaptionReward, register

BETA = 1.2


@register("rouge_l")
class RougeL(CaptionReward):
    """ROUGE-L, 0 to 1."""

    @property
    def signature(self) -> str:
        return f"rouge_l(beta={BETA:g}, eos)"

    def score(self, image_ids: Ints, captions: Captions, references: References) -> Floats:
        indices = references.indices(image_ids)
        precision, recall = best_shares(captions, indices, references).T
        denominator = recall + BETA**2 * precision
        return (1 + BETA**2) * precision * recall / np.where(denominator > 0, denominator, 1.0)
