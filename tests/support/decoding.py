"""Small models to decode with, and every caption that they can say."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch

from capdist.batch import Batch, Hypotheses
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import beam_search
from capdist.decoding.constraints import Constraints
from capdist.models.base import CaptionModel, Dims, build
from capdist.vocab import BOS, EOS, PAD, UNK
from tests.support.models import B, make_batch, small

V, WORDS = 8, 3


def make(name: str) -> CaptionModel[Any]:
    torch.manual_seed(4)
    model = build(small(name), Dims(7, V, 9)).eval()
    # Spread the probabilities, so that captions differ by more than rounding.
    model.get_parameter("output.weight").data.mul_(4)
    return model


def batch_of(v: int) -> Batch:
    batch = make_batch()
    batch.tokens.clamp_(max=v - 1)
    batch.concepts.clamp_(max=v - 1)
    return batch


def search(
    model: CaptionModel[Any], batch: Batch, beam: int, max_words: int, **options: Any
) -> Hypotheses:
    limits = Constraints(tuple(options.pop("never", ())), options.pop("sets", ()))
    decoding = DecodingConfig(beam=beam, max_words=max_words, **options)
    return beam_search(model, batch, decoding, limits)


def enumerate_all(model: CaptionModel[Any], batch: Batch) -> list[list[tuple[float, list[int]]]]:
    """Every caption of at most WORDS words (or cut there) by score, for every image."""
    inner = [t for t in range(V) if t not in (PAD, BOS, EOS, UNK)]
    captions = [[*words, EOS] for n in range(WORDS + 1) for words in product(inner, repeat=n)]
    captions += [list(words) for words in product(inner, repeat=WORDS + 1)]
    tokens = torch.full((1, len(captions), WORDS + 1), PAD)
    for i, caption in enumerate(captions):
        tokens[0, i, : len(caption)] = torch.tensor(caption)
    inputs = torch.cat([torch.full((1, len(captions), 1), BOS), tokens[..., :-1]], -1)
    with torch.inference_mode():
        log_probs = model(model.encode(batch), inputs.expand(B, -1, -1)).log_softmax(-1)
    chosen = log_probs.gather(-1, tokens.expand(B, -1, -1)[..., None])[..., 0]
    scores = chosen.masked_fill(tokens == PAD, 0).sum(-1)
    return [
        sorted(zip(row, captions, strict=True), key=lambda pair: -pair[0])
        for row in scores.tolist()
    ]


def captions_of(found: Hypotheses) -> list[list[int]]:
    return [[t for t in row if t != PAD] for row in found.tokens.flatten(0, 1).tolist()]
