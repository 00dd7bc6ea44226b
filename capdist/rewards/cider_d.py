"""CIDEr-D with the document frequency of the training references, and EOS as a word.

Papers print 1.0 as CIDEr 100. It differs by construction from the evaluation's CIDEr, which takes
document frequencies from the split being scored and has no end token.
"""

from __future__ import annotations

from capdist.metrics.captions import Captions, Floats, Ints, ReferenceIds, References
from capdist.metrics.cider_d import CiderD
from capdist.metrics.coco import ScoreError
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.rewards.base import CaptionReward, register
from capdist.vocab import EOS, Vocabulary


@register("cider_d")
class CiderDReward(CaptionReward):
    """`capdist.metrics.cider_d.CiderD` with sigma 6; needs ``df``, counted with EOS."""

    def __init__(
        self,
        references: ReferenceIds | References,
        vocabulary: Vocabulary,
        df: DocumentFrequency | None = None,
    ) -> None:
        super().__init__(references, vocabulary, df)
        if df is None:
            raise ScoreError("cider_d needs a document frequency; count that of the training set")
        if df.frequency([EOS]) != df.images:
            raise ScoreError(
                f"the document frequency has EOS (id {EOS}) in {df.frequency([EOS])} of "
                f"{df.images} images; count it again with EOS at the end of every reference"
            )
        self._scorer = CiderD(self.references, df=df)

    @property
    def signature(self) -> str:
        return f"cider_d(sigma={self._scorer.sigma:g}, eos, df={self._scorer.df.hash})"

    def score(self, image_ids: Ints, captions: Captions) -> Floats:
        return self._scorer.score_captions(image_ids, captions)
