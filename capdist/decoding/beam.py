"""Batched beam search.

K hypotheses an image. A finished one keeps its score and competes with the unfinished;
log-probabilities are fp32 whatever the model's type. The score is the sum of log-probabilities,
EOS included, without length normalisation. UNK is never written. K = 1 is greedy decoding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch, Hypotheses
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, EOS, PAD, UNK


@torch.inference_mode()
def beam_search(model: CaptionModel[Any], batch: Batch, *, beam: int, max_words: int) -> Hypotheses:
    """The ``beam`` best captions of every image, of at most ``max_words`` words.

    Returns:
        tokens (B, K, max_words + 1) and scores (B, K), best first; a caption without EOS was
        cut at the maximum.
    """
    length = max_words + 1
    state = model.start(model.encode(batch), beam, length)
    images, device = len(batch.image_ids), batch.regions.device
    tokens = torch.full((images, beam, length), PAD, device=device)
    # Hypotheses are alike before the first word: only the first may go on.
    scores = torch.full((images, beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    token = torch.full((images, beam), BOS, device=device)
    for position in range(length):
        logits, state = model.step(state, token)
        finished = (token == EOS) | (token == PAD)
        scores, parents, token = _extend(scores, logits.float().log_softmax(-1), finished)
        state = state.select(parents)
        tokens = tokens.gather(1, parents[..., None].expand_as(tokens))
        tokens[:, :, position] = token
        if bool(((token == EOS) | (token == PAD)).all()):
            break
    return Hypotheses(tokens, scores)


def _extend(scores: Tensor, log_probs: Tensor, finished: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The K best of all one-word extensions: scores, parents and tokens, each (B, K).

    A finished hypothesis has one extension, PAD, at no cost.
    """
    beam, vocabulary = log_probs.shape[1:]
    log_probs[..., [PAD, BOS, UNK]] = -torch.inf
    log_probs = log_probs.masked_fill(finished[..., None], -torch.inf)
    log_probs[..., PAD] = log_probs[..., PAD].masked_fill(finished, 0.0)
    total = (scores[..., None] + log_probs).flatten(1)
    best, chosen = total.topk(beam)
    return best, chosen // vocabulary, chosen % vocabulary
