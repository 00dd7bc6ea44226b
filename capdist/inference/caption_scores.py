"""Final scores of captions, on tokens of the same tokeniser as their references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from capdist.data.dataset import References
from capdist.metrics.coco import Scores, score
from shards.tokenisers import CaptionText


def score_words(
    refs: References, captions: Mapping[int, Sequence[str]], text: CaptionText
) -> Scores:
    """Every metric of the captions of a split.

    English captions are split as the COCO evaluation splits them. For all others, tokens are those
    of the shards and those that the model wrote, as in validation.

    Args:
        refs: of the split.
        captions: image id to the words of the caption to score; the same ids.
        text: of the shards.

    Raises:
        ScoreError: as `score`.
    """
    if text.is_ptb:
        return score(refs.raw, {image: text.join(words) for image, words in captions.items()})
    tokens = {
        image: [" ".join(caption) for caption in every] for image, every in refs.tokens.items()
    }
    return score(tokens, {image: " ".join(words) for image, words in captions.items()}, text=text)
