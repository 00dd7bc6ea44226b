"""Meshed-memory Transformer (Cornia et al., CVPR 2020).

The encoder attends to the regions and to learned memory slots M, in every layer i:

    M_mem(X) = Attention(W_q X, [W_k X; M_k], [W_v X; M_v])                          (3) and (4)
    Z = AddNorm(M_mem(X))      X^i = AddNorm(F(Z))                                   (5) and (6)

and every block of the decoder attends to the outputs of all N encoder layers, gated by

    α_i = σ(W_i [Y; C(X^i, Y)] + b_i)                                                       (9)
    M_mesh(Y) = Σ_i α_i ⊙ C(X^i, Y)                                                         (7)
    Y ← AddNorm(S_mask(Y))     Z = AddNorm(M_mesh(Y))     Y ← AddNorm(F(Z))        (10) and (11)

with C the cross attention, which has the same weights for all i, and S_mask attention to the words
so far. The authors' code divides Eq. 7 by sqrt(N), scales the slots by sqrt(d_k) for keys and
sqrt(m) for values, and embeds regions by LayerNorm(dropout(ReLU(W F))); so does this module.

Parameters at the paper's sizes (V = 9,487 words, F = 2048, D = 512, hidden 2048, N = 3, m = 40):
word table 4.9 M + output 4.9 M + region embedding 1.1 M + three encoder layers 9.6 M + three
decoder blocks 17.3 M = 37.7 M.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.base import ConfigError, Positive
from capdist.models.base import CaptionModel, Dims, ModelConfig, State, register
from capdist.models.layers import (
    AddNorm,
    Dropout,
    FeedForward,
    MultiHeadAttention,
    positions,
)
from capdist.models.output import Output
from capdist.words import Words


class MeshedMemoryConfig(ModelConfig):
    """The paper's sizes."""

    name: Literal["meshed_memory"]
    width: int = Field(512, description="D, also of the word table.")
    layers: Positive = Field(3, description="N, layers of the encoder and of the decoder.")
    heads: Positive = Field(8, description="Heads of every attention; they must divide the width.")
    hidden: int = Field(2048, description="Width inside the feed-forward layers.")
    slots: int = Field(40, ge=0, description="m, memory slots of every encoder layer.")
    dropout: float = Field(0.1, ge=0, lt=1)


class MemoryAttention(MultiHeadAttention):
    """Eq. 4: keys and values of the source are followed by learned ones."""

    def __init__(self, width: int, heads: int, dropout: float, slots: int) -> None:
        super().__init__(width, heads, dropout)
        self.slots = slots
        if slots:
            self.key_slots = nn.Parameter(torch.randn(slots, width) / math.sqrt(width // heads))
            self.value_slots = nn.Parameter(torch.randn(slots, width) / math.sqrt(slots))

    def remember(self, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values (B, N, D) and their mask (B, 1, N), each with the slots at its end."""
        if not self.slots:
            return keys, values, mask
        rows, scale = (len(keys), -1, -1), math.sqrt(keys.shape[-1] // self.heads)
        slots = (scale * self.key_slots, math.sqrt(self.slots) * self.value_slots)
        keys, values = (
            torch.cat([own, more.expand(rows)], 1)
            for own, more in zip((keys, values), slots, strict=True)
        )
        return keys, values, torch.cat([mask, mask.new_ones(len(mask), 1, self.slots)], 2)


class EncoderLayer(nn.Module):
    """Eq. 4 to 6."""

    def __init__(self, config: MeshedMemoryConfig) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.attend = MemoryAttention(width, config.heads, dropout, config.slots)
        self.norm_attended = AddNorm(width, dropout)
        self.feed_forward = FeedForward(width, config.hidden)
        self.norm = AddNorm(width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """X (B, R, D) of the layer below to X^i; ``mask`` (B, 1, R) is True for real regions."""
        attended = self.attend(x, *self.attend.remember(*self.attend.project(x), mask))
        z = self.norm_attended(attended, x)
        return self.norm(self.feed_forward(z), z)


class DecoderBlock(nn.Module):
    """Eq. 7 to 11; its callers apply the attention to words, to whole captions or to a cache."""

    def __init__(self, config: MeshedMemoryConfig) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.attend_words = MultiHeadAttention(width, config.heads, dropout)
        self.norm_words = AddNorm(width, dropout)
        self.attend_image = MultiHeadAttention(width, config.heads, dropout)
        gates = [nn.Linear(2 * width, width) for _ in range(config.layers)]
        self.gates = nn.ModuleList(gates)  # W_i
        self.norm_image = AddNorm(width, dropout)
        self.feed_forward = FeedForward(width, config.hidden)
        self.norm = AddNorm(width, dropout)

    def forward(
        self,
        y: Tensor,
        layers: list[tuple[Tensor, Tensor]],
        mask: Tensor,
        words: Words | None = None,
    ) -> Tensor:
        """Y (B, N, D), or (T, D) of words, after attention to words to Y of the next block.

        ``layers`` are C's keys and values (B, R, D) of every encoder layer.
        """
        mesh = torch.zeros_like(y)
        for gate, (keys, values) in zip(self.gates, layers, strict=True):
            if words is None:
                seen = self.attend_image(y, keys, values, mask)
            else:
                seen = self.attend_image.of_words(y, keys, values, mask, words)
            mesh = mesh + gate(torch.cat([y, seen], -1)).sigmoid() * seen
        z = self.norm_image(mesh / math.sqrt(len(layers)), y)
        return self.norm(self.feed_forward(z), z)


Tensors = dict[str, Tensor]


@register("meshed_memory")
class MeshedMemory(CaptionModel[Tensors]):
    """The memory: keys and values of every encoder layer for every block, and the regions' mask.

    Raises:
        ConfigError: if the heads do not divide the width.
    """

    Config = MeshedMemoryConfig

    def __init__(self, config: MeshedMemoryConfig, dims: Dims) -> None:
        super().__init__()
        width = config.width
        if width % config.heads:
            raise ConfigError(
                f"model.heads: {config.heads} heads do not divide the width {width}; choose a "
                "number that does"
            )
        self.config = config
        embed = nn.Linear(dims.features, width)
        self.regions = nn.Sequential(embed, nn.ReLU(), Dropout(config.dropout), nn.LayerNorm(width))
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.words = nn.Embedding(dims.vocabulary, width)
        blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.blocks = cast(list[DecoderBlock], blocks)  # ModuleList has no type parameter.
        self.output = Output(width, dims.vocabulary, bias=False)

    def encode(self, batch: Batch) -> Tensors:
        """X^i of every layer, as keys and values of every block's C."""
        mask, memory = batch.region_mask[:, None], {"mask": batch.region_mask[:, None]}
        x = self.regions(batch.regions.to(self.output.weight.dtype))
        for i, layer in enumerate(self.encoder):
            x = layer(x, mask)
            for n, block in enumerate(self.blocks):
                keys, values = block.attend_image.project(x)
                memory |= {f"keys{n}.{i}": keys, f"values{n}.{i}": values}
        return memory

    def states(self, memory: Tensors, words: Words) -> Tensor:
        """Y of the last block."""
        return self._decode(memory, words)[0]

    def start(self, memory: Tensors, beams: int, length: int) -> State[Tensors]:
        """Empty caches of every block's keys and values of words, (B, length, K, D)."""
        keys = memory["keys0.0"]
        shape = (len(keys), length, beams, self.config.width)
        names = [f"{kind}{n}" for n in range(self.config.layers) for kind in ("keys", "values")]
        return State(
            memory,
            written={name: keys.new_zeros(shape) for name in names},
            ancestors=keys.new_zeros((len(keys), beams, length, beams), dtype=torch.bool),
        )

    def decode_word(self, state: State[Tensors], token: Tensor) -> tuple[Tensor, State[Tensors]]:
        """One position of `states`, from the keys written so far.

        Keys of all hypotheses of an image are stored together; ``ancestors`` masks each one's own.
        """
        position, ancestors = state.position, state.ancestors
        assert ancestors is not None
        ancestors[:, :, position] = torch.eye(token.shape[1], dtype=torch.bool, device=token.device)
        so_far = slice(position + 1)
        y = self._embed(token, positions(position, 1, self.config.width, token.device))
        for n, block in enumerate(self.blocks):
            keys, values = state.written[f"keys{n}"], state.written[f"values{n}"]
            keys[:, position], values[:, position] = block.attend_words.project(y)
            attended = block.attend_words(
                y,
                keys[:, so_far].flatten(1, 2),
                values[:, so_far].flatten(1, 2),
                ancestors[:, :, so_far].flatten(2),
            )
            y = block.norm_words(attended, y)
            y = block(y, self._layers(state.memory, n), state.memory["mask"])
        return y, replace(state, position=position + 1)

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """The last block's attention to the last encoder layer, averaged over its heads."""
        last = self.config.layers - 1
        words = Words.all(tokens)
        y = words.pad(self._decode(memory, words)[1]).flatten(1, 2)
        keys = memory[f"keys{last}.{last}"]
        weights = self.blocks[-1].attend_image.weights(y, keys, memory["mask"])
        return {"regions": weights.unflatten(1, tokens.shape[1:])}

    def _decode(self, memory: Tensors, words: Words) -> tuple[Tensor, Tensor]:
        """The last block's output and, before its cross attention, Y, each (T, D)."""
        table = positions(0, words.shape[2], self.config.width, words.tokens.device)
        y = self._embed(words.tokens, table[words.positions])
        for n, block in enumerate(self.blocks):
            asked = block.norm_words(block.attend_words.among_words(y, words), y)
            y = block(asked, self._layers(memory, n), memory["mask"], words)
        return y, asked

    def _layers(self, memory: Tensors, block: int) -> list[tuple[Tensor, Tensor]]:
        """A block's keys and values of every encoder layer."""
        layers = range(self.config.layers)
        return [(memory[f"keys{block}.{i}"], memory[f"values{block}.{i}"]) for i in layers]

    def _embed(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(..., D) of words (...) and the sinusoids (..., D) of their positions."""
        words = self.words(tokens)
        return words + position.to(words.dtype)
