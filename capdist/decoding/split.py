"""Captions of a whole split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from capdist.config import DecodingConfig
from capdist.data.dataset import Batches
from capdist.decoding.beam import beam_search
from capdist.models.base import CaptionModel
from capdist.vocab import Vocabulary


def caption_split(
    model: CaptionModel[Any],
    batches: Batches,
    vocab: Vocabulary,
    decoding: DecodingConfig,
    device: torch.device,
    on_images: Callable[[int], None] = lambda images: None,
) -> dict[int, list[str]]:
    """The best caption of every image that this rank reads, as words by image id.

    Args:
        model: in evaluation mode, on ``device``.
        batches: of the split.
        vocab: the model's.
        decoding: beam, lengths and what may not be written.
        device: where to decode.
        on_images: told the number of images after every batch, for a progress bar.
    """
    captions: dict[int, list[str]] = {}
    forbidden = [vocab.id(word) for word in decoding.forbidden]
    for step in batches.epoch(0):
        for batch in step:
            found = beam_search(model, batch.to(device), decoding, forbidden)
            best = found.tokens[:, 0].tolist()
            # A batch that stands in for images that a rank lacks has no keys.
            for _, image, ids in zip(batch.keys, batch.image_ids.tolist(), best, strict=False):
                captions[image] = vocab.decode(ids)
            on_images(len(batch.keys))
    return captions
