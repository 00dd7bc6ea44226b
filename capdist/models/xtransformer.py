"""X-Transformer: the Transformer with X-Linear attention (Pan et al., CVPR 2020).

Encoder and decoder attend by X-Linear blocks (`capdist.models.x_linear`) instead of dot products.
The encoder is X-LAN's, with a feed-forward layer in every block. The decoder's query is not a word
itself but q, the product of the image v̂ and the words so far. In every block, for word t with row
x_t,

    q_t = LN(σ(W_1 v̂)) ⊙ LN(σ(W_2 mean(x_1, ..., x_t)))      before the first block
    y_t = x_t + block of query q_t over x_1, ..., x_t
    q_t ← LN(y_t + block of query LN(y_t) over the enhanced regions)
    x_t ← LN(FF(z_t) + z_t)     z_t = LN(ReLU(W [q_t; x_t]) + x_t)
    p_t = softmax(W_p LN(GLU(W_o [q_t before; ...; q_t after the last block])))

The rows begin as LN(√D W_e Π_t + position). The paper says only where the blocks go; the rest is
that of the authors' code, as are its dropouts.

Parameters at the authors' sizes (V = 9,487 words, F = 2048, D = 768, six blocks in the encoder and
in the decoder, hidden 3072): 137.5 M.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from capdist.batch import Batch
from capdist.config.base import Positive
from capdist.models.base import CaptionModel, Dims, ModelConfig, State, register
from capdist.models.layers import causal_mask, positions
from capdist.models.x_linear import ALPHA, Mix, XLinearAttention, XLinearEncoder

Tensors = dict[str, Tensor]


class XTransformerConfig(ModelConfig):
    """Sizes as in the authors' code."""

    name: Literal["xtransformer"]
    width: int = Field(768, description="D, also of the word table.")
    layers: Positive = Field(6, description="Blocks of the encoder, and of the decoder.")
    heads: Positive = Field(8, description="Of every block; they must divide the width.")
    hidden: Positive = Field(3072, description="Width inside the feed-forward layers.")
    dropout: float = Field(0.5, ge=0, lt=1)


class DecoderBlock(nn.Module):
    """A block; its callers apply the attention to words, to whole captions or to a cache."""

    def __init__(self, config: XTransformerConfig, *, last: bool) -> None:
        super().__init__()
        width = config.width
        self.attend_words = XLinearAttention(width, config.heads, 0.1)
        self.attend_image = XLinearAttention(width, config.heads, 0.1)
        self.norm_asked, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        # Nothing reads the rows after the last block.
        self.mix = None if last else Mix(width, config.dropout, config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, attended: Tensor, image: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """q_t and x_t after the block, (B, N, D).

        Args:
            x: (B, N, D), before the block.
            attended: what the attention to words returned, (B, N, D).
            image: keys and values (B, R, D) of the enhanced regions, and their mask (B, 1, R).
        """
        y = x + self.dropout(attended)
        seen = self.dropout(self.attend_image(self.norm_asked(y), *image))
        query = self.norm(y + seen)
        return query, x if self.mix is None else self.mix(query, x)


@register("xtransformer")
class XTransformer(CaptionModel[Tensors]):
    """The memory: σ(W_1 v̂), and keys and values of the enhanced regions for every block.

    Raises:
        ConfigError: if the heads do not divide the width.
    """

    Config = XTransformerConfig

    def __init__(self, config: XTransformerConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        width, layers = config.width, config.layers
        self.regions = nn.Linear(dims.features, width)
        self.norm_regions = nn.LayerNorm(width)
        self.encoder = XLinearEncoder(width, layers, config.heads, config.dropout, config.hidden)
        self.words = nn.Embedding(dims.vocabulary, width)
        self.norm_words = nn.LayerNorm(width)
        self.image = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.CELU(ALPHA), nn.LayerNorm(width))
            for _ in range(2)
        )
        blocks = nn.ModuleList(DecoderBlock(config, last=n == layers - 1) for n in range(layers))
        self.blocks = cast(list[DecoderBlock], blocks)  # ModuleList has no type parameter.
        self.joined = nn.Linear((layers + 1) * width, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, dims.vocabulary)
        self.dropout, self.word_dropout = nn.Dropout(config.dropout), nn.Dropout(0.1)

    def encode(self, batch: Batch) -> Tensors:
        """V̂ and the enhanced regions."""
        mask = batch.region_mask[:, None]
        embedded = self.regions(batch.regions.to(self.regions.weight.dtype))
        embedded = self.dropout(self.norm_regions(functional.celu(embedded, ALPHA)))
        image, regions = self.encoder(embedded, mask)
        memory = {"image": self.image[0](image), "mask": mask}
        for n, block in enumerate(self.blocks):
            memory[f"keys{n}"], memory[f"values{n}"] = block.attend_image.project(regions)
        return memory

    def forward(self, memory: Tensors, tokens: Tensor) -> Tensor:
        """Logits at every position."""
        return self._decode(memory, tokens)[0]

    def start(self, memory: Tensors, beams: int, length: int) -> State[Tensors]:
        """Empty caches of every block's keys and values (B, length, K, D), and a sum of no rows."""
        image = memory["image"]
        rows, width = len(image), image.shape[-1]
        names = [f"{kind}{n}" for n in range(self.config.layers) for kind in ("keys", "values")]
        return State(
            memory,
            cache={"sum": image.new_zeros(rows, beams, width)},
            written={name: image.new_zeros(rows, length, beams, width) for name in names},
            ancestors=image.new_zeros((rows, beams, length, beams), dtype=torch.bool),
        )

    def step(self, state: State[Tensors], token: Tensor) -> tuple[Tensor, State[Tensors]]:
        """One position of `forward`, from the keys written so far, masked by ``ancestors``."""
        position, ancestors, memory = state.position, state.ancestors, state.memory
        assert ancestors is not None
        ancestors[:, :, position] = torch.eye(token.shape[1], dtype=torch.bool, device=token.device)
        so_far = slice(position + 1)
        mask = ancestors[:, :, so_far].flatten(2)
        x = self._embed(token[..., None], position)[:, :, 0]
        total = state.cache["sum"] + x
        query = self._query(memory["image"], total / (position + 1))
        queries = [query]
        for n, block in enumerate(self.blocks):
            keys, values = state.written[f"keys{n}"], state.written[f"values{n}"]
            keys[:, position], values[:, position] = block.attend_words.project(x)
            words = keys[:, so_far].flatten(1, 2), values[:, so_far].flatten(1, 2)
            query, x = block(x, block.attend_words(query, *words, mask), self._image(memory, n))
            queries.append(query)
        cache = {"sum": total}
        return self._logits(queries), replace(state, cache=cache, position=position + 1)

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """The last block's spatial attention, averaged over its heads."""
        return {"regions": self._decode(memory, tokens)[1]}

    def _decode(self, memory: Tensors, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, S, L, V), and the last block's weights (B, S, L, R)."""
        shape, mask = tokens.shape[1:], causal_mask(tokens.shape[2], tokens.device)
        x = self._embed(tokens, 0)
        count = torch.arange(1, tokens.shape[2] + 1, device=tokens.device)[:, None]
        query = self._query(memory["image"][:, None], x.cumsum(2) / count)
        queries, asked = [query], query
        for n, block in enumerate(self.blocks):
            attended = block.attend_words(query, *block.attend_words.project(x), mask)
            asked = block.norm_asked(x + attended)
            flat = block(x.flatten(1, 2), attended.flatten(1, 2), self._image(memory, n))
            query, x = (part.unflatten(1, shape) for part in flat)
            queries.append(query)
        keys, _, shown = self._image(memory, self.config.layers - 1)
        weights = self.blocks[-1].attend_image.weights(asked.flatten(1, 2), keys, shown)
        return self._logits(queries), weights.unflatten(1, shape)

    def _query(self, image: Tensor, mean: Tensor) -> Tensor:
        """The first q, of the memory's image and the mean of the rows so far."""
        return self.dropout(image * self.image[1](mean))

    def _image(self, memory: Tensors, block: int) -> tuple[Tensor, Tensor, Tensor]:
        return memory[f"keys{block}"], memory[f"values{block}"], memory["mask"]

    def _logits(self, queries: list[Tensor]) -> Tensor:
        """W_p of all q of a position, each (..., D)."""
        joined = self.norm(functional.glu(self.joined(torch.cat(queries, -1))))
        return self.output(self.dropout(joined))

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        """Rows (B, S, L, D) of captions from position ``start`` on."""
        width = self.config.width
        words = math.sqrt(width) * self.words(tokens)
        position = positions(start, tokens.shape[2], width, tokens.device).to(words.dtype)
        return self.word_dropout(self.norm_words(words + position))
