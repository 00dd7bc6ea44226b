"""CIDEr-D of token ids (Vedantam et al. 2015: Eq. 1 to 3, in their variant against gaming).

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

from capdist.metrics.captions import (
    ID_LIMIT,
    Captions,
    Floats,
    Ints,
    ReferenceIds,
    References,
)
from capdist.metrics.coco import ScoreError
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.metrics.ngrams import cider_d, inverse_norms


class CiderD:
    """Scores captions of images whose references were made into tf-idf vectors once.

    Scores are those of pycocoevalcap's ``Cider``: 1.0 is what papers print as CIDEr 100, 10 is a
    caption equal to all references. Nothing grows while captions are scored; an n-gram that is not
    in the document frequency counts as one of one image. Several threads may score at a time.

    Args:
        references: token ids of each image's captions, with end tokens where the scored captions
            have them.
        sigma: of the length penalty, in words.
        df: of a training set; without it, that of ``references``.
        vocabulary_size: V; scored ids must be less. Without it they must be less than 2**31.

    Raises:
        ScoreError: if an image has no reference, an id does not fit, or sigma is not positive.
    """

    def __init__(
        self,
        references: ReferenceIds | References,
        *,
        sigma: float = 6.0,
        df: DocumentFrequency | None = None,
        vocabulary_size: int = ID_LIMIT,
    ) -> None:
        if not sigma > 0:
            raise ScoreError(f"CIDEr-D's sigma is {sigma}; expected more than 0")
        self.references = References.of(references)
        self.sigma = float(sigma)
        self.df = DocumentFrequency.count(self.references) if df is None else df
        self.vocabulary_size = vocabulary_size
        self._table = self.df.table()
        self._norms = inverse_norms(self.references.captions, self._table)

    def score(self, image_ids: Sequence[int] | Ints, hypotheses: Sequence[Sequence[int]]) -> Floats:
        """(N,) CIDEr-D of N captions.

        Args:
            image_ids: (N,) image of each.
            hypotheses: N lists of token ids, with the end token where the references have it.

        Raises:
            ScoreError: if the lengths differ, an image has no references, or an id is not in the
                vocabulary.
        """
        if len(image_ids) != len(hypotheses):
            raise ScoreError(f"{len(image_ids)} image ids for {len(hypotheses)} captions")
        captions = Captions.of(hypotheses, image_ids, self.vocabulary_size)
        return self.score_captions(image_ids, captions)

    def score_captions(self, image_ids: Sequence[int] | Ints, captions: Captions) -> Floats:
        """The same of captions in flat arrays, whose ids are in the vocabulary.

        Raises:
            ScoreError: if an image has no references.
        """
        places = self.references.places(image_ids)
        return cider_d(captions, places, self.references, self._norms, self._table, self.sigma)
