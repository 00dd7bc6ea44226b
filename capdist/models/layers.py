"""Parts that several models share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from capdist.models.base import CaptionModel, State

Tensors = dict[str, Tensor]


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of (..., N) scores over where ``mask`` is True; zeros elsewhere."""
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    # Only rows without anything to look at are changed here: there softmax was uniform.
    return weights.masked_fill(~mask, 0.0)


def masked_mean(rows: Tensor, mask: Tensor) -> Tensor:
    """(B, D) the mean of those of (B, N, D) rows where ``mask`` (B, N) is True; zeros of none."""
    count = mask.sum(1, keepdim=True).clamp(min=1)
    return rows.masked_fill(~mask[..., None], 0).sum(1) / count


class MultiHeadAttention(nn.Module):
    """H(Q, K, V) = [A_1; ...; A_n] W with A_i = softmax(Q W_i^Q (K W_i^K)^T / sqrt(d_k)) V W_i^V.

    GLIED's Eq. 1 and 2 (Vaswani et al. 2017). Keys and values are projected apart from the
    attention, so that an image's are made once and a caption's are cached.

    Args:
        width: D of queries, keys, values and output.
        heads: n; D must be a multiple of it.
        dropout: of the attention weights.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def project(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N, D) sources to their keys and values, of the same shape."""
        return self.key(source), self.value(source)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """(..., Q, D) queries over (..., N, D) projected keys and values.

        ``mask`` (..., Q or 1, N) is True where a query may look; a query that may look nowhere
        gets the output's bias alone.
        """
        weights = self.dropout(self._weights(query, keys, mask))
        attended = weights @ self._split(values)
        return self.output(attended.transpose(-3, -2).flatten(-2))

    def weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """(..., Q, N) the attention weights, averaged over the heads."""
        return self._weights(query, keys, mask).mean(-3)

    def _weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        q, k = self._split(self.query(query)), self._split(keys)
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        return masked_softmax(scores, mask.unsqueeze(-3))

    def _split(self, x: Tensor) -> Tensor:
        """(..., N, D) to (..., heads, N, D / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class FeedForward(nn.Sequential):
    """F: two linear layers with a rectifier between them, D to hidden to D."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class AddNorm(nn.Module):
    """G(y, x) = LayerNorm(x + dropout(y)): dropout, shortcut, layer normalisation."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """``y`` is the new part and ``x`` the shortcut."""
        return self.norm(x + self.dropout(y))


class WordEmbedding(nn.Module):
    """A word table and the learned projection from its width to the model's.

    Args:
        vocabulary: V.
        embedding: width of the table.
        width: D.
    """

    def __init__(self, vocabulary: int, embedding: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, embedding)
        self.projection = nn.Linear(embedding, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) ids to (..., D)."""
        return self.projection(self.table(tokens))


class OpenLoop(CaptionModel[Tensors]):
    """An LSTM decoder whose inputs are words and the image, never its own state.

    It reads a caption at once, and a single word in the same way. Its memory has the state after
    what stands before the first word, "h" and "c" (B, 1, D), and whatever else `read` looks at.

    Args:
        inputs: width of the LSTM's inputs.
        width: D, of its state.
    """

    recurrent: ClassVar[bool] = True

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, width, batch_first=True)

    @abstractmethod
    def read(self, memory: Tensors, tokens: Tensor, hidden: Tensors) -> tuple[Tensor, Tensors]:
        """(B, N, L) tokens, after states (B, N, D): logits (B, N, L, V), and the states then."""

    def recur(self, x: Tensor, hidden: Tensors | None = None) -> tuple[Tensor, Tensors]:
        """(B, N, L, inputs) to h_t (B, N, L, D) and the last h and c (B, N, D); zero before."""
        before = None
        if hidden is not None:
            before = (hidden["h"].flatten(0, 1)[None], hidden["c"].flatten(0, 1)[None])
        states, (h, c) = self.lstm(x.flatten(0, 1), before)
        rows = x.shape[:2]
        after = {"h": h[0].unflatten(0, rows), "c": c[0].unflatten(0, rows)}
        return states.unflatten(0, rows), after

    def forward(self, memory: Tensors, tokens: Tensor) -> Tensor:
        """Every caption goes on from what stands before the first word."""
        state = self.start(memory, tokens.shape[1], tokens.shape[2])
        return self.read(memory, tokens, state.cache)[0]

    def start(self, memory: Tensors, beams: int, length: int) -> State[Tensors]:
        """Every hypothesis goes on from there."""
        return State(memory, {name: memory[name].expand(-1, beams, -1) for name in ("h", "c")})

    def step(self, state: State[Tensors], token: Tensor) -> tuple[Tensor, State[Tensors]]:
        """Captions of one word."""
        logits, hidden = self.read(state.memory, token[..., None], state.cache)
        return logits[:, :, 0], replace(state, cache=hidden, position=state.position + 1)

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """Nothing, unless the model attends."""
        return {}


class Stepwise(CaptionModel[Tensors]):
    """An LSTM decoder that goes word by word, because a step needs what the last one found.

    What words add to the gates is computed for whole captions, and so is what is written from the
    states. The memory has the first state, "h" and "c" (B, 1, D), and whatever else `advance` and
    `write` look at.

    Args:
        vocabulary: V.
        embedding: width of the word table.
        gates: width of all gates together.
        dropout: of words, and for what a model adds.
    """

    recurrent: ClassVar[bool] = True

    def __init__(self, vocabulary: int, embedding: int, gates: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, embedding)
        self.word_gates = nn.Linear(embedding, gates)
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def advance(self, memory: Tensors, word: Tensor, past: Tensors) -> Tensors:
        """What stands after a word that adds ``word`` (B, K, gates): each (B, K, ...).

        The state, "h" and "c", and whatever `write` and `attention` read.
        """

    @abstractmethod
    def write(self, memory: Tensors, words: Tensor, after: Tensors) -> Tensor:
        """Logits after embedded words (..., E), from what `advance` found, each (..., D)."""

    def unroll(self, memory: Tensors, tokens: Tensor) -> tuple[Tensor, Tensors]:
        """Embedded captions (B, S, L, E), and what stands after each word, (B, S, L, ...)."""
        words = self.dropout(self.words(tokens))
        after, steps = self.start(memory, tokens.shape[1], tokens.shape[2]).cache, []
        for word in self.word_gates(words).unbind(2):
            after = self.advance(memory, word, after)
            steps.append(after)
        return words, {name: torch.stack([step[name] for step in steps], 2) for name in after}

    def forward(self, memory: Tensors, tokens: Tensor) -> Tensor:
        """All words, then all logits."""
        return self.write(memory, *self.unroll(memory, tokens))

    def start(self, memory: Tensors, beams: int, length: int) -> State[Tensors]:
        """Every hypothesis begins with its image's first state."""
        return State(memory, {name: memory[name].expand(-1, beams, -1) for name in ("h", "c")})

    def step(self, state: State[Tensors], token: Tensor) -> tuple[Tensor, State[Tensors]]:
        """One position of `forward`."""
        words = self.dropout(self.words(token))
        after = self.advance(state.memory, self.word_gates(words), state.cache)
        cache = {name: after[name] for name in state.cache}
        logits = self.write(state.memory, words, after)
        return logits, replace(state, cache=cache, position=state.position + 1)


def positions(start: int, length: int, width: int, device: torch.device) -> Tensor:
    """(length, D) sinusoids of positions start, start + 1, ... (Vaswani et al. 2017, 3.5)."""
    place = torch.arange(start, start + length, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    return torch.stack([(place * rate).sin(), (place * rate).cos()], -1).flatten(-2)


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(length, length): position i may look at positions up to i."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


class AdditiveAttention(nn.Module):
    """a_i = w^T f(W_v v_i + W_h h), α = softmax(a): how much a query h looks at every region.

    Xu et al., ICML 2015, Eq. 4 and 5; Lu et al., CVPR 2017, Eq. 6 and 7; Anderson et al., CVPR
    2018, Eq. 3 and 4.

    Args:
        region: width of v.
        query: width of h.
        hidden: width inside.
        function: f.
    """

    def __init__(
        self, region: int, query: int, hidden: int, function: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.key = nn.Linear(region, hidden, bias=False)
        self.query = nn.Linear(query, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.function = function

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """α (B, N, R) of queries (B, N, ...) and keys (B, R, H), which are ``self.key(regions)``.

        It is 0 where ``mask`` (B, R) has no region.
        """
        hidden = self.function(keys[:, None] + self.query(query)[:, :, None])
        return masked_softmax(self.score(hidden)[..., 0], mask[:, None])


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """H' = σ(o) ⊙ tanh(c') and c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g), both (..., D).

    ``gates`` (..., 4 D) are what all inputs add up to, in the order i, f, o, g. A model projects
    its inputs apart, so that what no step changes is projected once.
    """
    i, f, o, g = gates.chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell
