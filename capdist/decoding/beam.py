"""Batched beam search over any model, by the semantics of kernels/beam_step/README.md."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch, Hypotheses
from capdist.config.decoding import DecodingConfig, LengthConfig
from capdist.decoding.constrained_beam import ConstrainedBeam
from capdist.decoding.constraints import Constraints
from capdist.decoding.diverse_beam import Competition, DiverseBeam
from capdist.errors import CapdistError
from capdist.kernels.beam_step import Rules
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, EOS, PAD, UNK

NO_LIMITS = Constraints()


class DecodingError(CapdistError):
    """Captions that can't be decoded; the message names the image or the option."""


@torch.inference_mode()
def beam_search(
    model: CaptionModel[Any],
    batch: Batch,
    decoding: DecodingConfig,
    limits: Constraints = NO_LIMITS,
    *,
    attention: bool = False,
) -> Hypotheses:
    """The ``decoding.beam`` best captions of every image; UNK is never written.

    Args:
        model: in evaluation mode.
        batch: its captions are not read.
        decoding: beam, lengths and what may not repeat.
        limits: ids of the words that ``decoding`` forbids and forces.
        attention: whether to return where the model looked.

    Returns:
        tokens (B, K, max_words + 1), and scores (B, K) that are sums of log-probabilities, best
        first; a caption without EOS was cut at the maximum.

    Raises:
        DecodingError: if a logit is not a number.
    """
    found = Search(model, batch, decoding, limits).run(batch)
    found.check(batch)
    looks = look_back(model, batch, found.tokens) if attention else {}
    return Hypotheses(found.tokens, found.scores, looks)


def look_back(model: CaptionModel[Any], batch: Batch, tokens: Tensor) -> dict[str, Tensor]:
    """The attention before each of (B, K, L) tokens, by the model's twin for teacher forcing."""
    return model.attention(model.encode(batch), torch.nn.functional.pad(tokens, (1, -1), value=BOS))


@torch.inference_mode()
def looked_at(model: CaptionModel[Any], batch: Batch, tokens: Tensor) -> Tensor:
    """(B, K, L, 4) the box of the region that got most attention before each of (B, K, L) tokens.

    Raises:
        DecodingError: if the model looks at no regions.
    """
    looks = look_back(model, batch, tokens)
    if "regions" not in looks:
        raise DecodingError(
            "the model gives regions no attention, so its words can't be found in the picture; "
            "leave grounding out"
        )
    images = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    return batch.boxes[images, looks["regions"].argmax(-1)]


@dataclass(frozen=True)
class Found:
    """Tokens (B, K, L), scores (B, K) and which images had a NaN at which step, (L, B)."""

    tokens: Tensor
    scores: Tensor
    spoilt: Tensor

    def check(self, batch: Batch) -> None:
        """Refuse captions behind a logit that is not a number.

        Raises:
            DecodingError: naming the first image and the word.
        """
        spoilt = self.spoilt.cpu()
        if spoilt.any():
            position, image = spoilt.nonzero()[0].tolist()
            raise DecodingError(
                f"image {int(batch.image_ids[image])}: the logits of word {position + 1} are not "
                "numbers; look at its features, or at the checkpoint's weights"
            )


class Search:
    """A search whose tables are on the device already, so that it never waits for the host.

    Args:
        model: in evaluation mode.
        batch: its image ids say what is forced.
        decoding: beam, lengths and what may not repeat.
        limits: ids of the words that ``decoding`` forbids and forces.
    """

    def __init__(
        self, model: CaptionModel[Any], batch: Batch, decoding: DecodingConfig, limits: Constraints
    ) -> None:
        device = batch.regions.device
        self.model = model
        self.decoding = decoding
        self.length = decoding.max_words + 1
        self.competition = compete(batch, decoding, limits)
        weights = length_weights(decoding.length, self.length, device)
        never = [PAD, BOS, UNK, *limits.forbidden]
        self.rules = Rules(weights, torch.tensor(never, device=device))
        self.not_yet = replace(self.rules, forbidden=torch.tensor([*never, EOS], device=device))

    def run(self, batch: Batch) -> Found:
        """The hypotheses of a batch of the same images, or of one without forced words."""
        competition, past = self.competition, BeamHistory(self.decoding)
        state = self.model.start(self.model.encode(batch), competition.slots, self.length)
        beams = competition.first(len(batch.image_ids), batch.regions.device)
        for position in range(self.length):
            logits, state = self.model.step(state, beams.tokens)
            rules = self.not_yet if position < self.decoding.min_words else self.rules
            rules = replace(rules, banned=past.banned(beams.tokens, position))
            beams, parents, spoilt = competition.step(logits, beams, rules)
            past.append(beams.tokens, parents, spoilt)
            # A GPU goes on rather than wait for the host to look.
            if logits.device.type == "cpu" and not beams.alive.any():
                break
            state = state.select(parents)
        best = competition.best(beams, self.rules)
        tokens = past.captions(self.length, best)
        return Found(tokens, beams.scores.gather(1, best), torch.stack(past.spoilt))


def compete(batch: Batch, decoding: DecodingConfig, limits: Constraints) -> Competition:
    """In states where words are forced, else in groups."""
    sets = [limits.sets(image) for image in batch.image_ids.tolist()]
    if any(sets):
        return ConstrainedBeam(decoding.beam, sets, batch.regions.device)
    return DiverseBeam(decoding.beam, decoding.groups, decoding.diversity)


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


class BeamHistory:
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

    def captions(self, length: int, slot: Tensor) -> Tensor:
        """(B, K, length) the tokens of the hypotheses in places (B, K), PAD behind their ends."""
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
            every = torch.arange(last.shape[1], device=last.device).expand_as(last)
            parts.append(repeats(self.captions(position, every), n))
        return torch.cat(parts, -1) if parts else None


def repeats(captions: Tensor, n: int) -> Tensor:
    """(B, K, L - n + 1) the words that would repeat n words of (B, K, L) captions, else -1."""
    windows = captions.unfold(-1, n, 1)
    tail = captions[..., captions.shape[-1] - n + 1 :]
    again = (windows[..., :-1] == tail[..., None, :]).all(-1)
    return windows[..., -1].masked_fill(~again, -1)
