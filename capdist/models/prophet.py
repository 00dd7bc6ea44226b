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

from collections.abc import Callable, Sequence
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
from capdist.words import Words


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
        self, batch: Batch, words: Words, targets: Tensor, attend: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """α̂ (T, R), and whether a word has L_Att (T,).

        Args:
            batch: with captions, and with objects if the span is a phrase.
            words: the places of its words.
            targets: (T, E), its embedded targets.
            attend: f_Att, of (T, D) to (T, R).
        """
        real = (batch.targets != PAD) & (batch.targets != EOS)
        position = torch.arange(real.shape[-1], device=real.device)
        start, end, found = position.expand_as(real), position.expand_as(real) + 1, real
        if self.config.span == "phrase":
            start, end, found = phrase_spans(batch, real)
        states = self.read(words, targets, words.pick(start), words.pick(end))
        weights = words.pad(attend(states))
        inside = (start[..., None] <= position) & (position < end[..., None])
        mean = inside.to(weights.dtype) / (end - start)[..., None]
        return words.pick(mean @ weights), words.pick(found)

    def read(self, words: Words, targets: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The state h' (T, D) of every word in its span, from ``start`` (T,) to ``end`` (T,)."""
        position, alive = words.positions, words.alive
        ahead = self._direction(0, targets.split(alive), (start < position).split(alive))
        goes_on = (position + 1 < end).split(alive)
        back = self._direction(1, targets.split(alive)[::-1], goes_on[::-1])
        return torch.cat([torch.cat(ahead), torch.cat(back[::-1])], -1)

    def _direction(
        self, number: int, words: Sequence[Tensor], goes_on: Sequence[Tensor]
    ) -> list[Tensor]:
        """The states of one direction, which begins anew where ``goes_on`` is False.

        Each position has words (N, E) and ``goes_on`` (N,) of the captions that have a word there.
        """
        h = c = words[0].new_zeros(0, self.sizes[number])
        states = []
        for word, keep in zip(words, goes_on, strict=True):
            # Captions end, or begin in the other direction, from the last one on.
            change = (0, 0, 0, len(word) - len(h))
            h, c = (functional.pad(part, change) * keep[:, None] for part in (h, c))
            gate = self.word_gates[number](word)
            if self.state_gates:
                gate = gate + self.state_gates[number](h)
            h, c = lstm_cell(gate, c)
            states.append(h)
        return states

    def loss(self, weights: Tensor, ideal: Tensor, has_loss: Tensor) -> Tensor:
        """λ L_Att, summed over all words.

        Args:
            weights: α, (T, R).
            ideal: α̂, (T, R).
            has_loss: where L_Att counts, (T,).
        """
        distance = (weights - ideal).abs().sum(-1) * has_loss
        return self.config.weight * full_precision(distance).sum()


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
        self, memory: Tensors, batch: Batch, words: Words
    ) -> tuple[Tensor, Tensor | None]:
        """The states, and the prophet's losses if there is one."""
        embedded, after = self.unroll(memory, words)
        states = words.pick(self.predict(memory, embedded, after))
        if self.prophet is None:
            return states, None

        def attend(h: Tensor) -> Tensor:
            keys, mask = (memory[name].index_select(0, words.images) for name in ("keys", "mask"))
            parts = [part[:, None] for part in h.split(words.alive)]
            found = [self.attend(part, keys[: len(part)], mask[: len(part)]) for part in parts]
            return torch.cat(found)[:, 0]

        targets = words.pick(batch.targets)
        ideal, has_loss = self.prophet(batch, words, self.words(targets), attend)
        again = words.pick(self.predict(memory, *self.unroll(memory, words, ideal)))
        weights = words.pick(after["weights"])
        own = self.output(again, targets) + self.prophet.loss(weights, ideal, has_loss)
        return states, own
