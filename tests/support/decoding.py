"""Small models to decode with, and all captions that they can write."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch

from capdist.batch import Batch, Hypotheses
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import beam_search
from capdist.decoding.constraints import Constraints
from capdist.decoding.ensemble import Ensemble
from capdist.models.base import CaptionModel, Dims, build
from capdist.vocab import BOS, EOS, PAD, UNK
from tests.support.models import B, make_batch, small

V, WORDS = 8, 3
INNER = [token for token in range(V) if token not in (PAD, BOS, EOS, UNK)]
#: Hypotheses before the last step of a search for WORDS words: so wide a beam prunes none of them.
UNPRUNED = sum(len(INNER) ** n for n in range(WORDS + 1))

#: One model per kind of decoding state. tests/contract checks of every registered model that `step`
#: equals `forward` and that `State.select` follows the parents; what decoding makes of the states
#: differs only by their kind.
#: - glied: keys and values that stay in their slot, masked by ``ancestors``; reads concepts
#: - ss_updown: a carried cache of two LSTMs, stepped word by word; reads classes
#: - nic: a carried cache that begins with the image's state and decodes captions at once; by MIA it
#:   reads concepts
#: - ensemble: the states of several models, of the two kinds
DECODERS = ("glied", "ss_updown", "nic", "ensemble")
MIA = {"name": "mia", "heads": 4, "hidden": 48}


def make(name: str) -> CaptionModel[Any]:
    """A model with widely spread probabilities, so that captions differ by more than rounding."""
    if name == "ensemble":
        return Ensemble([make("transformer"), make("lstm")]).eval()
    torch.manual_seed(4)
    model = build(small(name, **{"refine": MIA} if name == "nic" else {}), Dims(7, V, 9)).eval()
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
    constraints = Constraints(tuple(options.pop("forbidden_ids", ())), options.pop("sets", ()))
    decoding = DecodingConfig(beam=beam, max_words=max_words, **options)
    return beam_search(model, batch, decoding, constraints)


def enumerate_all(model: CaptionModel[Any], batch: Batch) -> list[list[tuple[float, list[int]]]]:
    """For every image all captions of at most WORDS words, best first."""
    captions = [[*words, EOS] for n in range(WORDS + 1) for words in product(INNER, repeat=n)]
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
