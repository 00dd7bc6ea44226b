"""Batched beam search over any model, as kernels/beam_step/README.md specifies it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch, Hypotheses
from capdist.config.decoding import DecodingConfig, LengthConfig
from capdist.decoding.constrained_beam import ConstrainedBeam
from capdist.decoding.constraints import Constraints
from capdist.decoding.diverse_beam import DiverseBeam
from capdist.decoding.selection import Selection
from capdist.errors import CapdistError
from capdist.kernels.beam_step import Rules, end_step
from capdist.models.base import CaptionModel
from capdist.vocab import BOS, EOS, PAD, UNK

NO_CONSTRAINTS = Constraints()


class DecodingError(CapdistError):
    """Decoding failed; the message names the image or the option."""


@torch.inference_mode()
def beam_search(
    model: CaptionModel[Any],
    batch: Batch,
    decoding: DecodingConfig,
    constraints: Constraints = NO_CONSTRAINTS,
    *,
    attention: bool = False,
) -> Hypotheses:
    """The ``decoding.beam`` best captions of every image; UNK is never written.

    Args:
        model: in evaluation mode.
        batch: its captions are not read.
        decoding: beam, lengths, and what may not repeat.
        constraints: ids of the words that ``decoding`` forbids and forces.
        attention: whether to return the attention weights.

    Returns:
        tokens (B, K, max_words + 1), and scores (B, K) that are sums of log-probabilities, best
        first; every caption ends with EOS, after ``max_words`` words at the latest.

    Raises:
        DecodingError: if a logit is NaN or +inf.
    """
    result = Search(model, batch, decoding, constraints).run(batch)
    result.check_finite(batch)
    weights = replay_attention(model, batch, result.tokens) if attention else {}
    return Hypotheses(result.tokens, result.scores, weights)


def replay_attention(model: CaptionModel[Any], batch: Batch, tokens: Tensor) -> dict[str, Tensor]:
    """The attention before each of (B, K, L) decoded tokens, by teacher forcing."""
    return model.attention(model.encode(batch), torch.nn.functional.pad(tokens, (1, -1), value=BOS))


@torch.inference_mode()
def attended_boxes(model: CaptionModel[Any], batch: Batch, tokens: Tensor) -> Tensor:
    """(B, K, L, 4) the box of the region with most attention before each of (B, K, L) tokens.

    Raises:
        DecodingError: if the model does not attend to regions.
    """
    weights = replay_attention(model, batch, tokens)
    if "regions" not in weights:
        raise DecodingError(
            "the model does not attend to regions, so its words have no boxes; choose another "
            "model, or leave out --grounding"
        )
    images = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    return batch.boxes[images, weights["regions"].argmax(-1)]


@dataclass(frozen=True)
class SearchResult:
    """Tokens (B, K, L), scores (B, K), and which images had NaN or +inf logits by step (L, B)."""

    tokens: Tensor
    scores: Tensor
    nonfinite: Tensor

    def check_finite(self, batch: Batch) -> None:
        """Refuse captions of images with NaN or +inf logits.

        Raises:
            DecodingError: naming the first image and the word.
        """
        nonfinite = self.nonfinite.cpu()
        if nonfinite.any():
            position, image = nonfinite.nonzero()[0].tolist()
            name = batch.keys[image] if batch.keys else "of padding"
            raise DecodingError(
                f"sample {name}: the logits of word {position + 1} are NaN "
                "or infinite; check the image's features and the checkpoint's weights"
            )


class Search:
    """A search with all of its tables on the device, so that it never waits for the host.

    Args:
        model: in evaluation mode.
        batch: its image ids select the forced words.
        decoding: beam, lengths, and what may not repeat.
        constraints: ids of the words that ``decoding`` forbids and forces.
    """

    def __init__(
        self,
        model: CaptionModel[Any],
        batch: Batch,
        decoding: DecodingConfig,
        constraints: Constraints,
    ) -> None:
        device = batch.regions.device
        self.model = model
        self.decoding = decoding
        self.length = decoding.max_words + 1
        self.selection = make_selection(batch, decoding, constraints)
        weights = length_weights(decoding.length, self.length, device)
        forbidden = [PAD, BOS, UNK, *constraints.forbidden]
        self.rules = Rules(weights, torch.tensor(forbidden, device=device))
        self.rules_without_end = replace(
            self.rules, forbidden=torch.tensor([*forbidden, EOS], device=device)
        )

    def run(self, batch: Batch) -> SearchResult:
        """Search captions; with forced words, only for the images that the search was made for."""
        selection, history = self.selection, BeamHistory(self.decoding)
        state = self.model.start(self.model.encode(batch), selection.slots, self.length)
        beams = selection.first(len(batch.image_ids), batch.regions.device)
        for position in range(self.length):
            logits, state = self.model.step(state, beams.tokens)
            if position == self.decoding.max_words:
                beams, parents, nonfinite = end_step(logits, beams)
            else:
                rules = self._rules(history.banned(beams.tokens, position), position)
                beams, parents, nonfinite = selection.step(logits, beams, rules)
            history.append(beams.tokens, parents, nonfinite)
            # Not on a GPU: it would have to wait for the host to read the result.
            if logits.device.type == "cpu" and not beams.alive.any():
                break
            state = state.select(parents)
        best = selection.best(beams, self.rules)
        tokens = history.captions(self.length, best)
        return SearchResult(tokens, beams.scores.gather(1, best), torch.stack(history.nonfinite))

    def _rules(self, banned: Tensor | None, position: int) -> Rules:
        end_allowed = position >= self.decoding.min_words
        return replace(self.rules if end_allowed else self.rules_without_end, banned=banned)


def make_selection(batch: Batch, decoding: DecodingConfig, constraints: Constraints) -> Selection:
    """Constrained beam search if words are forced, else (diverse) beam search."""
    sets = [constraints.sets(image) for image in batch.image_ids.tolist()]
    if any(sets):
        return ConstrainedBeam(decoding.beam, sets, batch.regions.device)
    return DiverseBeam(decoding.beam, decoding.groups, decoding.diversity)


def length_weights(config: LengthConfig, length: int, device: torch.device) -> Tensor:
    """(length + 1,) the factor of a score, by the hypothesis's length."""
    lengths = torch.arange(length + 1, device=device).clamp(min=1)
    match config.name:
        case "none":
            return torch.ones(length + 1, device=device)
        case "average":
            return 1 / lengths
        case "gnmt":
            return ((5 + lengths) / 6) ** -config.alpha


class BeamHistory:
    """Tokens and back-pointers of every step, from which captions are read at the end."""

    def __init__(self, decoding: DecodingConfig) -> None:
        self.decoding = decoding
        self.tokens: list[Tensor] = []
        self.parents: list[Tensor] = []
        self.nonfinite: list[Tensor] = []

    def append(self, tokens: Tensor, parents: Tensor, nonfinite: Tensor) -> None:
        """Add a step: tokens and parents (B, K), and which images had NaN or +inf logits (B,)."""
        self.tokens.append(tokens)
        self.parents.append(parents)
        self.nonfinite.append(nonfinite)

    def captions(self, length: int, slot: Tensor) -> Tensor:
        """(B, K, length) the tokens of the hypotheses in slots (B, K), padded with PAD."""
        words = []
        for tokens, parents in zip(reversed(self.tokens), reversed(self.parents), strict=True):
            words.append(tokens.gather(1, slot))
            slot = parents.gather(1, slot)
        caption = torch.stack(words[::-1], -1)
        return torch.nn.functional.pad(caption, (0, length - len(words)), value=PAD)

    def banned(self, last: Tensor, position: int) -> Tensor | None:
        """(B, K, N) tokens that hypotheses may not write at a position, padded with -1."""
        n, parts = self.decoding.no_repeat_ngram, []
        if self.decoding.no_immediate_repeat and position:
            parts.append(last[..., None])
        if n and position >= n:
            slots = torch.arange(last.shape[1], device=last.device).expand_as(last)
            parts.append(repeats(self.captions(position, slots), n))
        return torch.cat(parts, -1) if parts else None


def repeats(captions: Tensor, n: int) -> Tensor:
    """(B, K, L - n + 1) next words that would repeat an n-gram of (B, K, L) captions, else -1."""
    windows = captions.unfold(-1, n, 1)
    tail = captions[..., captions.shape[-1] - n + 1 :]
    repeated = (windows[..., :-1] == tail[..., None, :]).all(-1)
    return windows[..., -1].masked_fill(~repeated, -1)
