"""CIDEr-D with the document frequency of the training references, and EOS as a word.

Papers print 1.0 as CIDEr 100. It differs by construction from the evaluation's CIDEr, which takes
document frequencies from the split being scored and has no end token.
"""

from __future__ import annotations

from capdist.metrics.captions import Captions, Floats, Ints, References
from capdist.metrics.coco import ScoreError
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.metrics.ngrams import cider_d, inverse_norms
from capdist.rewards.base import CaptionReward, register
from capdist.vocab import EOS, Vocabulary

#: Width of the length penalty, in words.
SIGMA = 6.0


@register("cider_d")
class CiderDReward(CaptionReward):
    """`capdist.metrics.cider_d.CiderD` with sigma 6; needs ``df``, counted with EOS."""

    def __init__(self, vocabulary: Vocabulary, df: DocumentFrequency | None = None) -> None:
        super().__init__(vocabulary, df)
        if df is None:
            raise ScoreError("cider_d needs a document frequency; count that of the training set")
        if df.frequency([EOS]) != df.images:
            raise ScoreError(
                f"the document frequency has EOS (id {EOS}) in {df.frequency([EOS])} of "
                f"{df.images} images; count it again with EOS at the end of every reference"
            )
        self._table, self._hash = df.table(), df.hash

    @property
    def signature(self) -> str:
        return f"cider_d(sigma={SIGMA:g}, eos, df={self._hash})"

    def score(self, image_ids: Ints, captions: Captions, references: References) -> Floats:
        indices = references.indices(image_ids)
        norms = inverse_norms(references.captions, self._table)
        return cider_d(captions, indices, references, norms, self._table, SIGMA)
