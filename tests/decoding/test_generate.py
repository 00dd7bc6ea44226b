"""The boxes with most attention before each word, against a decoding step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capdist.batch import Batch
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import DecodingError
from capdist.decoding.generate import caption_images
from capdist.models.base import build
from capdist.models.updown import UpDown
from capdist.vocab import BOS, Vocabulary
from tests.support.models import DIMS, images_of, make_batch, small

VOCAB = Vocabulary([f"w{number}" for number in range(DIMS.vocabulary - 4)])
DECODING = DecodingConfig(beam=3, max_words=6)
CPU = torch.device("cpu")


def step_by_step(model: UpDown, batch: Batch, image: int, words: list[str]) -> list[list[float]]:
    """The box with most attention before each word, step by step."""
    memory = model.encode(images_of(batch, slice(image, image + 1)))
    cells, found = model.start(memory, 1, 1).cache, []
    for token in [BOS, *map(VOCAB.id, words)][: len(words)]:
        cells, attention = model.advance(memory, model.embed(torch.tensor([[token]])), cells)
        weights = attention[0, 0].tolist()
        found.append(batch.boxes[image, weights.index(max(weights))].tolist())
    return found


@pytest.mark.parametrize("name", ["updown", "ss_updown"])
def test_boxes_are_those_attended_to_before_each_word(name: str) -> None:
    torch.manual_seed(2)
    model, batch = build(small(name), DIMS).eval(), make_batch()
    assert isinstance(model, UpDown)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.7)
    seen: set[Any] = set()
    with torch.inference_mode():
        for image, captions in caption_images(model, [batch], VOCAB, DECODING, CPU, boxes=True):
            assert len(captions) == 3
            for caption in captions:
                assert caption.boxes == step_by_step(model, batch, image, caption.words)
                seen |= set(map(tuple, caption.boxes))
    # Attention moves, or the positions would not be tested.
    assert len(seen) > 3


def test_boxes_are_empty_unless_requested() -> None:
    model = build(small("updown"), DIMS).eval()
    for _, captions in caption_images(model, [make_batch()], VOCAB, DECODING, CPU):
        assert [caption.boxes for caption in captions] == [[], [], []]


def test_boxes_of_a_model_without_attention_are_refused() -> None:
    model = build(small("lstm"), DIMS).eval()
    with pytest.raises(DecodingError, match="does not attend to regions"):
        list(caption_images(model, [make_batch()], VOCAB, DECODING, CPU, boxes=True))
