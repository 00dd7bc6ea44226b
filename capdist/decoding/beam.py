"""Batched beam search over any model, by the semantics of kernels/beam_step/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch, Hypotheses
from capdist.config import DecodingConfig, LengthConfig
from capdist.kernels.beam_step import beam_step, first_beams
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, EOS, PAD, UNK


class DecodingError(RuntimeError):
    """Captions that can't be decoded; the message names the image or the option."""


@torch.inference_mode()
def beam_search(
    model: CaptionModel[Any],
    batch: Batch,
    decoding: DecodingConfig,
    forbidden: Sequence[int] = (),
) -> Hypotheses:
    """The ``decoding.beam`` best captions of every image; UNK is never written.

    Args:
        model: in evaluation mode.
        batch: its captions are not read.
        decoding: beam, lengths and what may not repeat.
        forbidden: ids of ``decoding.forbidden``.

    Returns:
        tokens (B, K, max_words + 1), and scores (B, K) that are sums of log-probabilities, best
        first; a caption without EOS was cut at the maximum.

    Raises:
        DecodingError: if a logit is not a number.
    """
    length, images, device = decoding.max_words + 1, len(batch.image_ids), batch.regions.device
    weights = length_weights(decoding.length, length, device)
    never = torch.tensor([PAD, BOS, UNK, *forbidden], device=device)
    not_yet = torch.tensor([PAD, BOS, UNK, EOS, *forbidden], device=device)
    state = model.start(model.encode(batch), decoding.beam, length)
    beams = first_beams(images, decoding.beam, device)
    past = Past(decoding)
    for position in range(length):
        logits, state = model.step(state, beams.tokens)
        banned = past.banned(beams.tokens, position)
        out = not_yet if position < decoding.min_words else never
        beams, parents, spoilt = beam_step(logits, beams, weights, out, banned)
        past.append(beams.tokens, parents, spoilt)
        # A GPU goes on rather than wait for the host to look.
        if device.type == "cpu" and not beams.alive.any():
            break
        state = state.select(parents)
    past.check(batch)
    return Hypotheses(past.captions(length), beams.scores)


def length_weights(config: LengthConfig, length: int, device: torch.device) -> Tensor:
    """(length + 1,) what a score is multiplied by, by the hypothesis's length."""
    lengths = torch.arange(length + 1, device=device).clamp(min=1)
    match config.name:
        case "none":
            return torch.ones(length + 1, device=device)
        case "average":
            return 1 / lengths
        case "gnmt":
            return ((5 + lengths) / 6) ** -config.alpha


class Past:
    """What the hypotheses wrote: back-pointers, read out at the end."""

    def __init__(self, decoding: DecodingConfig) -> None:
        self.decoding = decoding
        self.tokens: list[Tensor] = []
        self.parents: list[Tensor] = []
        self.spoilt: list[Tensor] = []

    def append(self, tokens: Tensor, parents: Tensor, spoilt: Tensor) -> None:
        """Tokens and parents (B, K) of a step, and which images (B,) had a NaN."""
        self.tokens.append(tokens)
        self.parents.append(parents)
        self.spoilt.append(spoilt)

    def captions(self, length: int) -> Tensor:
        """(B, K, length) the tokens of every hypothesis, PAD behind its end."""
        slot = torch.arange(self.tokens[0].shape[1], device=self.tokens[0].device)
        slot = slot.expand_as(self.tokens[0])
        words = []
        for tokens, parents in zip(reversed(self.tokens), reversed(self.parents), strict=True):
            words.append(tokens.gather(1, slot))
            slot = parents.gather(1, slot)
        caption = torch.stack(words[::-1], -1)
        return torch.nn.functional.pad(caption, (0, length - len(words)), value=PAD)

    def banned(self, last: Tensor, position: int) -> Tensor | None:
        """(B, K, N) what hypotheses may not write at a position, -1 for nothing."""
        n, parts = self.decoding.no_repeat_ngram, []
        if self.decoding.no_immediate_repeat and position:
            parts.append(last[..., None])
        if n and position >= n:
            parts.append(repeats(self.captions(position), n))
        return torch.cat(parts, -1) if parts else None

    def check(self, batch: Batch) -> None:
        """Refuse captions behind a logit that is not a number.

        Raises:
            DecodingError: naming the first image and the word.
        """
        spoilt = torch.stack(self.spoilt).cpu()
        if spoilt.any():
            position, image = spoilt.nonzero()[0].tolist()
            raise DecodingError(
                f"image {int(batch.image_ids[image])}: the logits of word {position + 1} are not "
                "numbers; look at its features, or at the checkpoint's weights"
            )


def repeats(captions: Tensor, n: int) -> Tensor:
    """(B, K, L - n + 1) the words that would repeat n words of (B, K, L) captions, else -1."""
    windows = captions.unfold(-1, n, 1)
    tail = captions[..., captions.shape[-1] - n + 1 :]
    again = (windows[..., :-1] == tail[..., None, :]).all(-1)
    return windows[..., -1].masked_fill(~again, -1)
