"""Generates captions for many images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from capdist.batch import Batch
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import attended_boxes
from capdist.decoding.constraints import Constraints, ForcedWords
from capdist.decoding.cuda_graph import make_search
from capdist.models.base import CaptionModel
from capdist.vocab import Vocabulary


@dataclass(frozen=True)
class Caption:
    """Words, and the sum of the log-probabilities of their tokens, EOS included.

    ``boxes``, if requested: that of the region with most attention before each word, x1 y1 x2 y2
    in 0..1.
    """

    words: list[str]
    score: float
    boxes: list[list[float]] = field(default_factory=list)


def caption_images(
    model: CaptionModel[Any],
    batches: Iterable[Batch],
    vocab: Vocabulary,
    decoding: DecodingConfig,
    device: torch.device,
    forced: ForcedWords | None = None,
    *,
    boxes: bool = False,
    graphs: bool = True,
) -> Iterator[tuple[int, list[Caption]]]:
    """Every image's id and captions, best first: at most ``decoding.beam``.

    Args:
        model: in evaluation mode, on ``device``.
        batches: the images.
        vocab: the model's.
        decoding: beam, lengths, and what may not be written.
        device: where to decode.
        forced: words that captions of single images must contain.
        boxes: whether to return the box with most attention before each word.
        graphs: whether a GPU captures the search as a graph, which takes longer than a single
            batch.

    Raises:
        ConfigError: if no caption can satisfy the constraints.
        DecodingError: if a logit is NaN or +inf, or boxes are requested of a model that does not
            attend to regions.
    """
    constraints = Constraints.of(decoding, vocab, forced)
    search = make_search(model, decoding, constraints, device, graphs=graphs)
    for batch in batches:
        on_device = batch.to(device)
        result = search(on_device)
        result.check_finite(batch)
        attended = result.tokens.new_zeros(*result.scores.shape, 0)
        if boxes:
            attended = attended_boxes(model, on_device, result.tokens)
        columns = (result.tokens, result.scores, attended)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        # `Batch.empty` has an image, but no key.
        for _, image, row in zip(batch.keys, batch.image_ids.tolist(), rows, strict=False):
            hypotheses = zip(*row, strict=True)
            yield image, [_caption(vocab, *h) for h in hypotheses if h[1] > -torch.inf]


def _caption(
    vocab: Vocabulary, tokens: list[int], score: float, boxes: list[list[float]]
) -> Caption:
    words = vocab.decode(tokens)
    return Caption(words, score, boxes[: len(words)])
