"""CIDEr-D of token ids (Vedantam et al. 2015: Eq. 1 to 3, the variant that is robust to gaming).

With g_k(c) the tf-idf vector of a caption's k-grams, where tf is an n-gram's count and its
idf = log(images) - log(max(1, df)),

    CIDEr-D_k(c, S) = 10 / m sum_j exp(-(l(c) - l(s_j))^2 / (2 sigma^2))
                              min(g_k(c), g_k(s_j)) . g_k(s_j) / (|g_k(c)| |g_k(s_j)|)
    CIDEr-D(c, S)   = 1/4 sum_{k=1..4} CIDEr-D_k(c, S)

over the m references s_j of the image. l is the number of bigrams, as in pycocoevalcap 1.2, whose
``Cider`` this equals on the same tokens when the document frequency is that of the scored images.
"""

from __future__ import annotations

from collections.abc import Sequence

from capdist.metrics.captions import Captions, Floats, Ints, ReferenceIds, References
from capdist.metrics.coco import ScoreError
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.metrics.ngrams import cider_d, inverse_norms


class CiderD:
    """Scores captions; the tf-idf vectors of the references are computed once.

    Scores have the scale of pycocoevalcap's ``Cider``: papers print 1.0 as CIDEr 100, and a caption
    equal to all references has 10. An n-gram that is not in the document frequency counts as one
    that occurs in one image. Scoring changes no state, and several threads may score at a time.

    Args:
        references: token ids of each image's captions, with end tokens where the scored captions
            have them.
        sigma: width of the length penalty, in words.
        df: document frequency of a training set; that of ``references`` by default.

    Raises:
        ScoreError: if an image has no reference, an id is out of range, or sigma is not positive.
    """

    def __init__(
        self,
        references: ReferenceIds | References,
        *,
        sigma: float = 6.0,
        df: DocumentFrequency | None = None,
    ) -> None:
        if not sigma > 0:
            raise ScoreError(f"CIDEr-D's sigma is {sigma}; expected more than 0")
        self.references = References.of(references)
        self.sigma = float(sigma)
        self.df = DocumentFrequency.count(self.references) if df is None else df
        self._table = self.df.table()
        self._norms = inverse_norms(self.references.captions, self._table)

    def score(self, image_ids: Sequence[int] | Ints, hypotheses: Sequence[Sequence[int]]) -> Floats:
        """(N,) CIDEr-D of N captions.

        Args:
            image_ids: (N,) the image of each caption.
            hypotheses: N lists of token ids, with the end token where the references have it.

        Raises:
            ScoreError: if the lengths differ, an image has no references, or an id is not in
                0..2**31 - 1.
        """
        if len(image_ids) != len(hypotheses):
            raise ScoreError(
                f"{len(image_ids)} image ids for {len(hypotheses)} captions; expected one each"
            )
        return self.score_captions(image_ids, Captions.of(hypotheses, image_ids))

    def score_captions(self, image_ids: Sequence[int] | Ints, captions: Captions) -> Floats:
        """(N,) CIDEr-D of captions in flat arrays.

        Raises:
            ScoreError: if an image has no references.
        """
        indices = self.references.indices(image_ids)
        return cider_d(captions, indices, self.references, self._norms, self._table, self.sigma)
