"""Attention, embeddings and other layers that several models share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from capdist.models.step_linear import StepLinear
from capdist.words import Words


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of (..., N) scores over the places where ``mask`` is True; zeros elsewhere."""
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    # This changes only rows that are masked as a whole, for which the softmax is uniform.
    return weights.masked_fill(~mask, 0.0)


def masked_mean(rows: Tensor, mask: Tensor) -> Tensor:
    """(B, D) mean of the (B, N, D) rows where ``mask`` (B, N) is True; zeros if there is none."""
    count = mask.sum(1, keepdim=True).clamp(min=1)
    return rows.masked_fill(~mask[..., None], 0).sum(1) / count


def full_precision(x: Tensor) -> Tensor:
    """The tensor in float32, for sums and logarithms, unless it is in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Dropout(nn.Dropout):
    """Zeroes elements with probability p, a multiple of 2^-16 on a CPU, and scales the others.

    It draws 16 random bits for an element there, which takes less time than torch's own draws.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same one; the input itself in evaluation."""
        if not self.training or not self.p or input.device.type != "cpu":
            return super().forward(input)
        zeroed = min(round(self.p * 2**16), 2**16 - 1)  # of the values of 16 bits
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: input.numel()].view(input.shape)
        kept = bits >= zeroed - 2**15
        return input * kept.to(input.dtype).mul_(1 / (1 - zeroed / 2**16))


class MultiHeadAttention(nn.Module):
    """H(Q, K, V) = [A_1; ...; A_n] W with A_i = softmax(Q W_i^Q (K W_i^K)^T / sqrt(d_k)) V W_i^V.

    GLIED's Eq. 1 and 2 (Vaswani et al. 2017). Keys and values are projected separately from the
    attention, so that an image's are computed once and a caption's are cached.

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
        self.dropout = Dropout(dropout)

    def project(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N, D) sources to their keys and values, of the same shape."""
        return self.key(source), self.value(source)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """(..., Q, D) queries over (..., N, D) projected keys and values.

        ``mask`` (..., Q or 1, N) is True where a query may attend; the output of a query that is
        masked everywhere is the output layer's bias.
        """
        return self.output(self._attended(self.query(query), keys, values, mask))

    def of_words(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, words: Words
    ) -> Tensor:
        """As `forward` for the T queries (T, D) of words over their image's (B, N, D).

        They are padded only where they meet keys and values.
        """
        q = words.pad(self.query(query)).flatten(1, 2)
        attended = self._attended(q, keys, values, mask).unflatten(1, words.shape[1:])
        return self.output(words.pick(attended))

    def among_words(self, x: Tensor, words: Words) -> Tensor:
        """(T, D), every word over those of its caption up to itself."""
        q, k, v = (words.pad(part) for part in (self.query(x), *self.project(x)))
        mask = causal_mask(words.shape[2], x.device)
        return self.output(words.pick(self._attended(q, k, v, mask)))

    def weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """(..., Q, N) the attention weights, averaged over the heads."""
        return self._weights(self.query(query), keys, mask).mean(-3)

    def _attended(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        weights = self.dropout(self._weights(q, keys, mask))
        return (weights @ self._split(values)).transpose(-3, -2).flatten(-2)

    def _weights(self, q: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        q, k = self._split(q), self._split(keys)
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
        self.dropout = Dropout(dropout)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """``y`` is the output of the sub-layer, ``x`` the shortcut."""
        return self.norm(x + self.dropout(y))


class RegionEmbedding(nn.Linear):
    """Maps regions to the model's width.

    Those of several feature sets have a map each, and a learned vector tells the sets apart. With
    one set it is a linear layer.

    Args:
        features: width of each set's regions.
        width: D.
    """

    def __init__(self, features: Sequence[int], width: int) -> None:
        first, *further = features
        super().__init__(first, width)
        self.further = nn.ModuleList(nn.Linear(size, width) for size in further)
        if further:
            self.sets = nn.Embedding(len(features), width)

    def forward(self, regions: Tensor, sets: Tensor | None = None) -> Tensor:
        """(B, R, D) of regions (B, R, F) and the numbers of their sets, (B, R)."""
        regions = regions.to(self.weight.dtype)
        if sets is None or not len(self.further):
            return super().forward(regions)
        embedded = super().forward(regions[..., : self.in_features])
        for number, layer in enumerate(self.further, 1):
            of_set = layer(regions[..., : layer.in_features])
            embedded = torch.where((sets == number)[..., None], of_set, embedded)
        known: Tensor = embedded + self.sets(sets)
        return known


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


def positions(start: int, length: int, width: int, device: torch.device) -> Tensor:
    """(length, D) sinusoids of positions start, start + 1, ... (Vaswani et al. 2017, 3.5)."""
    position = torch.arange(start, start + length, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    return torch.stack([(position * rate).sin(), (position * rate).cos()], -1).flatten(-2)


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(length, length): position i may attend to positions up to i."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


class AdditiveAttention(nn.Module):
    """a_i = w^T f(W_v v_i + W_h h), α = softmax(a): the attention of a query h to every region.

    Xu et al., ICML 2015, Eq. 4 and 5; Lu et al., CVPR 2017, Eq. 6 and 7; Anderson et al., CVPR
    2018, Eq. 3 and 4.

    Args:
        region: width of v.
        query: width of h.
        hidden: width of the hidden layer.
        function: f.
    """

    def __init__(
        self, region: int, query: int, hidden: int, function: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.key = nn.Linear(region, hidden, bias=False)
        self.query = StepLinear(query, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.function = function

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """α (B, N, R) of queries (B, N, ...) and keys (B, R, H), which are ``self.key(regions)``.

        It is 0 where ``mask`` (B, R) is False.
        """
        hidden = self.function(keys[:, None] + self.query(query)[:, :, None])
        return masked_softmax(self.score(hidden)[..., 0], mask[:, None])
