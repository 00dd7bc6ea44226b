"""Prophet attention (Liu et al., NeurIPS 2020), a component for models with attention.

A model attends before it has written word y_t, so that its attention depends on the words before
y_t and not on y_t itself. In training y_t is known, and so is the attention that it should have:

    h'_i, ..., h'_j = BiLSTM(y_i, ..., y_j)                          i ≤ t ≤ j
    α̂_t = 1 / (j - i + 1) Σ_{k=i}^{j} f_Att(h'_k, V)
    L_Att = Σ_t ‖α_t - α̂_t‖₁                    L = L_CE + λ L_Att

f_Att is the host's own attention, with its own weights, and α_t what it returns for the host's
state. Nothing changes when captions are written; only the BiLSTM's parameters are added.

``span`` chooses i and j. "word" is the paper's constant prophet attention, i = j = t. "phrase" is
its dynamic one: a word of a noun phrase has the whole phrase, and words that name nothing visible
have no L_Att. The paper finds phrases with a parser; here they are those of the member grounding,
and words outside of them have no L_Att.

L_Att alone would be smallest if α̂ imitated α. So here the host predicts every caption a second
time, with α̂_t in the place of α_t, and the cross entropy of these predictions is part of the loss,
from which α̂ learns where the words are. L_Att leaves out EOS.

Parameters with words of width E and states of width D: 4 D (E + D/2 + 1), for one word without D/2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from capdist.batch import Batch
from capdist.config.base import Section
from capdist.models.layers import AdditiveAttention, full_precision
from capdist.models.lstm_decoders import (
    StepwiseLstmDecoder,
    Tensors,
    initialise_gates,
    lstm_cell,
)
from capdist.vocab import EOS, PAD


class ProphetConfig(Section):
    """Prophet attention, a loss of cross-entropy training."""

    weight: float = Field(0.1, gt=0, description="λ.")
    span: Literal["word", "phrase"] = Field(
        "word", description="The word itself, or its phrase, on shards that have grounding."
    )


class Prophet(nn.Module):
    """The BiLSTM, and the losses.

    Args:
        config: of the host's section ``prophet``.
        embedding: E, width of the host's words.
        width: D, of the states that the host's attention reads.
    """

    def __init__(self, config: ProphetConfig, embedding: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.sizes = width - width // 2, width // 2
        self.word_gates = nn.ModuleList(nn.Linear(embedding, 4 * size) for size in self.sizes)
        # A span of one word never reads a state.
        directions = self.sizes if config.span == "phrase" else ()
        self.state_gates = nn.ModuleList(
            nn.Linear(size, 4 * size, bias=False) for size in directions
        )
        for layer in (*self.word_gates, *self.state_gates):
            assert isinstance(layer, nn.Linear)
            initialise_gates(layer.out_features // 4, layer)

    @property
    def supervision(self) -> frozenset[str]:
        """As `CaptionModel.supervision`."""
        return frozenset({"grounding"} if self.config.span == "phrase" else ())

    def forward(
        self, batch: Batch, words: Tensor, attend: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """α̂ (B, S, L, R), and whether a position has L_Att (B, S, L).

        Args:
            batch: with captions, and with objects if the span is a phrase.
            words: (B, S, L, E), its embedded targets.
            attend: f_Att, of (B, N, D) to (B, N, R).
        """
        real = (batch.targets != PAD) & (batch.targets != EOS)
        position = torch.arange(real.shape[-1], device=real.device)
        start, end, found = position.expand_as(real), position.expand_as(real) + 1, real
        if self.config.span == "phrase":
            start, end, found = phrase_spans(batch, real)
        weights = attend(self.read(words, start, end).flatten(1, 2)).unflatten(1, real.shape[1:])
        inside = (start[..., None] <= position) & (position < end[..., None])
        mean = inside.to(weights.dtype) / (end - start)[..., None]
        return mean @ weights, found

    def read(self, words: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The state h' (B, S, L, D) of every word in its span, from ``start`` to ``end``."""
        position = torch.arange(words.shape[2], device=words.device)
        ahead = self._direction(0, words, start < position)
        back = self._direction(1, words.flip(2), (position + 1 < end).flip(2))
        return torch.cat([ahead, back.flip(2)], -1)

    def _direction(self, number: int, words: Tensor, goes_on: Tensor) -> Tensor:
        """The states of one direction, which begins anew where ``goes_on`` (B, S, L) is False."""
        gates, size = self.word_gates[number](words), self.sizes[number]
        h = c = words.new_zeros(*words.shape[:2], size)
        states = []
        for gate, keep in zip(gates.unbind(2), goes_on[..., None].unbind(2), strict=True):
            if self.state_gates:
                gate = gate + self.state_gates[number](h * keep)
            h, c = lstm_cell(gate, c * keep)
            states.append(h)
        return torch.stack(states, 2)

    def loss(
        self, batch: Batch, weights: Tensor, ideal: Tensor, has_loss: Tensor, again: Tensor
    ) -> Tensor:
        """λ L_Att and the cross entropy of the second prediction, summed over all captions.

        Args:
            batch: the captions.
            weights: α, (B, S, L, R).
            ideal: α̂, (B, S, L, R).
            has_loss: where L_Att counts, (B, S, L).
            again: the logits with α̂ in the place of α, (B, S, L, V).
        """
        distance = (weights - ideal).abs().sum(-1) * has_loss
        logits = full_precision(again).flatten(0, 2)
        nll = functional.cross_entropy(
            logits, batch.targets.flatten(), ignore_index=PAD, reduction="sum"
        )
        return nll + self.config.weight * full_precision(distance).sum()


def phrase_spans(batch: Batch, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First position, last position + 1 and whether there is a phrase, each (B, S, L).

    A target outside of all phrases is a span of its own; of overlapping phrases the later counts.

    Args:
        batch: with objects.
        words: which targets are words, (B, S, L).
    """
    captions, length = words.shape[1:]
    position = torch.arange(length, device=words.device)
    first, last, _ = batch.object_words.unbind(-1)
    # A caption that was clipped has fewer words than its phrases.
    last = torch.minimum(last, words.sum(-1).gather(1, batch.object_captions.clamp(min=0)))
    first, last = first[..., None, None], last[..., None, None]
    caption = torch.arange(captions, device=words.device)[:, None]
    inside = batch.object_captions[..., None, None] == caption
    inside = inside & (first <= position) & (position < last)
    none = first.new_full((len(words), 1, captions, length), -1)
    start = torch.cat([none, torch.where(inside, first, -1)], 1).amax(1)
    end = torch.cat([none, torch.where(inside, last, -1)], 1).amax(1)
    found = start >= 0
    return torch.where(found, start, position), torch.where(found, end, position + 1), found


def prophet(config: ProphetConfig | None, embedding: int, width: int) -> Prophet | None:
    """The module for a host's section ``prophet``."""
    return Prophet(config, embedding, width) if config else None


class ProphetHost(StepwiseLstmDecoder):
    """An LSTM decoder whose `AdditiveAttention` reads its last state, with a prophet if it has one.

    The attention is ``attend``, and `advance` returns what `look` returns as "weights"; the memory
    has "keys" and "mask".
    """

    attend: AdditiveAttention
    prophet: Prophet | None

    @property
    def supervision(self) -> frozenset[str]:
        return self.prophet.supervision if self.prophet else frozenset()

    def look(self, memory: Tensors, h: Tensor) -> Tensor:
        """α (B, K, R) of states (B, K, D), or the weights that the memory has in its place."""
        if "weights" in memory:
            return memory["weights"]
        return self.attend(h, memory["keys"], memory["mask"])

    def supervised(
        self, memory: Tensors, batch: Batch, inputs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The logits, and the prophet's losses."""
        words, after = self.unroll(memory, inputs)
        logits = self.predict(memory, words, after)
        if self.prophet is None:
            return logits, None

        def attend(h: Tensor) -> Tensor:
            return self.attend(h, memory["keys"], memory["mask"])

        ideal, has_loss = self.prophet(batch, self.words(batch.targets), attend)
        again = self.predict(memory, *self.unroll(memory, inputs, ideal))
        return logits, self.prophet.loss(batch, after["weights"], ideal, has_loss, again)
