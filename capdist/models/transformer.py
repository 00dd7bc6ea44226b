"""Captioning Transformer: a Transformer's decoder over region features.

"Captioning Transformer with Stacked Attention Modules" (Zhu et al., Applied Sciences 2018), which
is the decoder of Vaswani et al. (NIPS 2017, section 3.1) without an encoder, as GLIED describes it
for its Table 2: six blocks, visual attention only. G is GLIED's dropout, shortcut, layer norm.

    v_i = W_v a_i        x⁰_t = E w_t + position_t
    y_t = G(H(x_t, x_≤t, x_≤t), x_t)         attention to the words so far
    z_t = G(H(y_t, V, V), y_t)               attention to the image
    x_t = G(F(z_t), z_t)                     in every block, with its own weights
    p_t = softmax(W_o x⁶_t)

Zhu et al. train every block to predict the words (multi-level supervision); here only the last one
predicts them.

Parameters at GLIED's settings (V = 9,487 words, F = 2048, D = 512, embedding 256):

    word table 2.43 M + its projection 0.13 M + W_v 1.05 M + output 4.87 M = 8.49 M
    a block: two attentions 2.10 M + F 1.05 M = 3.16 M
    six blocks 18.9 M, together 27.4 M (GLIED's Table 2: 27.5 M)

GLIED does not state the width inside F. 1,024 gives its figure; Vaswani et al.'s 2,048 would give
33.7 M.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.models.base import CaptionModel, Dims, ModelConfig, State, register
from capdist.models.layers import (
    AddNorm,
    Dropout,
    FeedForward,
    MultiHeadAttention,
    WordEmbedding,
    positions,
)
from capdist.models.output import Output
from capdist.words import Words


class TransformerConfig(ModelConfig):
    """Sizes as in GLIED's comparison."""

    name: Literal["transformer"]
    width: int = Field(512, description="D, the model's width.")
    embedding: int = Field(256, description="Width of the word table.")
    layers: int = Field(6, ge=1, description="Blocks.")
    heads: int = Field(8, description="Heads of every attention; they must divide the width.")
    hidden: int = Field(1024, description="Width inside the feed-forward layers.")
    dropout: float = Field(0.1, ge=0, lt=1)


@dataclass(frozen=True)
class Projected:
    """A block's keys and values of the regions (B, R, D), and their mask (B, 1, R)."""

    keys: Tensor
    values: Tensor
    mask: Tensor


#: Keys and values of each block's visual attention.
TransformerMemory = tuple[Projected, ...]


class Block(nn.Module):
    """One block; its callers apply the attention to words, to whole captions or to a cache."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, heads, dropout = config.width, config.heads, config.dropout
        self.attend_words = MultiHeadAttention(width, heads, dropout)
        self.norm_words = AddNorm(width, dropout)
        self.attend_image = MultiHeadAttention(width, heads, dropout)
        self.norm_image = AddNorm(width, dropout)
        self.feed_forward = FeedForward(width, config.hidden)
        self.norm = AddNorm(width, dropout)

    def forward(self, y: Tensor, image: Projected, words: Words | None = None) -> Tensor:
        """Z_t and x_t from y_t, (B, N, D), or (T, D) of words."""
        if words is None:
            attended = self.attend_image(y, image.keys, image.values, image.mask)
        else:
            attended = self.attend_image.of_words(y, image.keys, image.values, image.mask, words)
        z = self.norm_image(attended, y)
        return self.norm(self.feed_forward(z), z)


@register("transformer")
class Transformer(CaptionModel[TransformerMemory]):
    """The memory: every block's keys and values of the regions.

    Raises:
        ConfigError: if the heads do not divide the width.
    """

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, dims: Dims) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ConfigError(
                f"model.heads: {config.heads} heads do not divide the width {config.width}; "
                "choose a number that does"
            )
        self.config = config
        self.words = WordEmbedding(dims.vocabulary, config.embedding, config.width)
        self.regions = nn.Linear(dims.features, config.width)
        blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.blocks = cast(list[Block], blocks)  # ModuleList does not have a type parameter.
        self.output = Output(config.width, dims.vocabulary)
        self.dropout = Dropout(config.dropout)

    def encode(self, batch: Batch) -> TransformerMemory:
        """Keys and values of V for every block."""
        regions = self.dropout(self.regions(batch.regions.to(self.regions.weight.dtype)))
        mask = batch.region_mask[:, None]
        return tuple(Projected(*block.attend_image.project(regions), mask) for block in self.blocks)

    def states(self, memory: TransformerMemory, words: Words) -> Tensor:
        """x_t of the last block."""
        return self._decode(memory, words)[1]

    def start(self, memory: TransformerMemory, beams: int, length: int) -> State[TransformerMemory]:
        """Empty caches of every block's keys and values of words, (B, length, K, D)."""
        keys = memory[0].keys
        shape = (len(keys), length, beams, self.config.width)
        names = [f"{kind}{n}" for n in range(len(memory)) for kind in ("keys", "values")]
        return State(
            memory,
            written={name: keys.new_zeros(shape) for name in names},
            ancestors=keys.new_zeros((len(keys), beams, length, beams), dtype=torch.bool),
        )

    def decode_word(
        self, state: State[TransformerMemory], token: Tensor
    ) -> tuple[Tensor, State[TransformerMemory]]:
        """One position of `states`, from the keys written so far.

        Keys of all hypotheses of an image are stored together; ``ancestors`` masks each one's own.
        """
        position, ancestors = state.position, state.ancestors
        assert ancestors is not None
        ancestors[:, :, position] = torch.eye(token.shape[1], dtype=torch.bool, device=token.device)
        so_far = slice(position + 1)
        x = self._embed(token, positions(position, 1, self.config.width, token.device))
        for n, (block, image) in enumerate(zip(self.blocks, state.memory, strict=True)):
            keys, values = state.written[f"keys{n}"], state.written[f"values{n}"]
            keys[:, position], values[:, position] = block.attend_words.project(x)
            attended = block.attend_words(
                x,
                keys[:, so_far].flatten(1, 2),
                values[:, so_far].flatten(1, 2),
                ancestors[:, :, so_far].flatten(2),
            )
            x = block(block.norm_words(attended, x), image)
        return x, replace(state, position=position + 1)

    def attention(self, memory: TransformerMemory, tokens: Tensor) -> dict[str, Tensor]:
        """The last block's attention to the image, averaged over its heads."""
        words = Words.all(tokens)
        y = words.pad(self._decode(memory, words)[0]).flatten(1, 2)
        weights = self.blocks[-1].attend_image.weights(y, memory[-1].keys, memory[-1].mask)
        return {"regions": weights.unflatten(1, tokens.shape[1:])}

    def _decode(self, memory: TransformerMemory, words: Words) -> tuple[Tensor, Tensor]:
        """y_t and x_t of the last block, (T, D)."""
        table = positions(0, words.shape[2], self.config.width, words.tokens.device)
        x = self._embed(words.tokens, table[words.positions])
        for block, image in zip(self.blocks, memory, strict=True):
            y = block.norm_words(block.attend_words.among_words(x, words), x)
            x = block(y, image, words)
        return y, x

    def _embed(self, tokens: Tensor, position: Tensor) -> Tensor:
        """x⁰ (..., D) of words (...) and the sinusoids (..., D) of their positions."""
        words = self.words(tokens)
        return self.dropout(words + position.to(words.dtype))
