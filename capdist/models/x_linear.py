"""The X-Linear attention block (Pan et al., CVPR 2020), of X-LAN and the X-Transformer.

A query Q is multiplied by every key k_i and value v_i, channel by channel (section 3):

    B^k_i = σ(W_k k_i) ⊙ σ(W_q^k Q)                B^v_i = σ(W_v v_i) ⊙ σ(W_q^v Q)
    B'_i = ReLU(W_B B^k_i)
    β^s = softmax over i of W_b B'_i               spatial attention
    β^c = sigmoid(W_e mean_i B'_i)                 channel-wise attention
    v̂ = β^c ⊙ Σ_i β^s_i B^v_i

σ is an exponential linear unit, whose series makes the interactions of infinite order. As in the
authors' code, it is CELU with α = 1.3, followed by a normalisation of each head, and the block has
heads: each has a share of the channels and attentions of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capdist.config.base import ConfigError
from capdist.models.layers import AddNorm, Dropout, FeedForward, causal_mask, masked_softmax
from capdist.words import Words

#: α of CELU.
ALPHA = 1.3


class Projection(nn.Module):
    """σ(W x), normalised in every head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.activation = nn.CELU(ALPHA)
        self.norm = nn.GroupNorm(heads, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        rows: Tensor = self.norm(self.activation(self.linear(x)).flatten(0, -2))
        return rows.view_as(x)


class XLinearAttention(nn.Module):
    """The block.

    Args:
        width: D of queries, keys, values and result.
        heads: D is a multiple of it.
        dropout: of B'.

    Raises:
        ConfigError: if the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"model.heads: {heads} heads do not divide the width {width}; choose a number "
                "that does"
            )
        self.heads, size = heads, width // heads
        self.query = Projection(width, heads)  # W_q^k
        self.value_query = Projection(width, heads)  # W_q^v
        self.key = Projection(width, heads)
        self.value = Projection(width, heads)
        self.joint = nn.Linear(size, size // 2)  # W_B
        self.spatial = nn.Linear(size // 2, 1, bias=False)  # W_b
        self.channel = nn.Linear(size // 2, size)  # W_e
        self.dropout = Dropout(dropout)

    def project(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N, D) sources to σ(W_k k) and σ(W_v v) of the same shape."""
        return self.key(source), self.value(source)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """V̂ (..., Q, D) of queries (..., Q, D) and projected keys and values (..., N, D).

        ``mask`` (..., Q or 1, N) is True where a query may attend, somewhere for every query.
        """
        attended = self._attended(self.query(query), keys, values, mask)
        return attended * self.value_query(query)

    def of_words(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, words: Words
    ) -> Tensor:
        """As `forward` for the T queries (T, D) of words over their image's (B, N, D).

        They are padded only where they meet keys and values.
        """
        q = words.pad(self.query(query)).flatten(1, 2)
        attended = self._attended(q, keys, values, mask).unflatten(1, words.shape[1:])
        return words.pick(attended) * self.value_query(query)

    def among_words(self, query: Tensor, x: Tensor, words: Words) -> Tensor:
        """(T, D), every query (T, D) over the rows x (T, D) of its caption up to its own."""
        q, k, v = (words.pad(part) for part in (self.query(query), *self.project(x)))
        attended = self._attended(q, k, v, causal_mask(words.shape[2], x.device))
        return words.pick(attended) * self.value_query(query)

    def weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """β^s (..., Q, N), averaged over the heads."""
        return self._weights(self._joint(self.query(query), keys), mask).mean(-3)

    def _attended(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """β^c ⊙ Σ_i β^s_i σ(W_v v_i), (..., Q, D), of projected queries."""
        joint = self._joint(q, keys)
        shown = mask[..., None, :, :, None]
        mean = (joint * shown).sum(-2) / shown.sum(-2)
        attended = self._weights(joint, mask) @ self._split(values)
        return (attended * self.channel(mean).sigmoid()).transpose(-3, -2).flatten(-2)

    def _joint(self, q: Tensor, keys: Tensor) -> Tensor:
        """B' (..., heads, Q, N, D / heads / 2)."""
        q, k = self._split(q), self._split(keys)
        return self.dropout(self.joint(q[..., None, :] * k[..., None, :, :]).relu())

    def _weights(self, joint: Tensor, mask: Tensor) -> Tensor:
        return masked_softmax(self.spatial(joint)[..., 0], mask.unsqueeze(-3))

    def _split(self, x: Tensor) -> Tensor:
        """(..., N, D) to (..., heads, N, D / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class Mix(nn.Module):
    """LayerNorm(ReLU(W [v̂; row]) + row), then a feed-forward layer if ``hidden`` is given."""

    def __init__(self, width: int, dropout: float, hidden: int | None = None) -> None:
        super().__init__()
        self.both = nn.Linear(2 * width, width)
        self.norm = AddNorm(width, 0.3)
        self.feed_forward = FeedForward(width, hidden) if hidden else None
        self.norm_fed = AddNorm(width, dropout) if hidden else None

    def forward(self, query: Tensor, rows: Tensor) -> Tensor:
        """What a block returned (..., N or 1, D), and the rows (..., N, D) that it read."""
        mixed = self.both(torch.cat([query.expand_as(rows), rows], -1)).relu()
        rows = self.norm(mixed, rows)
        if self.feed_forward is None or self.norm_fed is None:
            return rows
        return self.norm_fed(self.feed_forward(rows), rows)


class XLinearEncoder(nn.Module):
    """Regions and image through M blocks, each of which reads what the last one wrote.

        v̂^(m) = block of query v̂^(m-1) over the rows of m - 1            v̂^(0) = their mean
        rows ← LayerNorm(ReLU(W_m [v̂^(m); row]) + row)
        image = LayerNorm(W_G [v̂^(0); ...; v̂^(M)])

    Dropout of 0.3 follows the ReLU, and ``dropout`` every v̂, as in the authors' code. If ``hidden``
    is given, a feed-forward layer of that width follows, with a shortcut and its norm.
    """

    def __init__(
        self, width: int, layers: int, heads: int, dropout: float, hidden: int | None = None
    ) -> None:
        super().__init__()
        blocks = [XLinearAttention(width, heads, 0.1) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.mix = nn.ModuleList(Mix(width, dropout, hidden) for _ in range(layers))
        self.image = nn.Linear((layers + 1) * width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B, R, D) with ``mask`` (B, 1, R) to the image (B, 1, D) and rows (B, R, D)."""
        shown = mask.to(rows.dtype)
        image = shown @ rows / shown.sum(-1, keepdim=True)
        images = [image]
        for block, mix in zip(self.blocks, self.mix, strict=True):
            assert isinstance(block, XLinearAttention)
            image = self.dropout(block(image, *block.project(rows), mask))
            rows = mix(image, rows)
            images.append(image)
        return self.norm(self.image(torch.cat(images, -1))), rows
