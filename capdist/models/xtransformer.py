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
from capdist.models.layers import Dropout, positions
from capdist.models.output import Output
from capdist.models.x_linear import ALPHA, Mix, XLinearAttention, XLinearEncoder
from capdist.words import Words

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
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        attended: Tensor,
        image: tuple[Tensor, Tensor, Tensor],
        words: Words | None = None,
    ) -> tuple[Tensor, Tensor]:
        """q_t and x_t after the block, (B, N, D), or (T, D) of words.

        Args:
            x: before the block, of the same shape.
            attended: what the attention to words returned, of the same shape.
            image: keys and values (B, R, D) of the enhanced regions, and their mask (B, 1, R).
            words: whose rows these are.
        """
        y = x + self.dropout(attended)
        asked = self.norm_asked(y)
        if words is None:
            seen = self.attend_image(asked, *image)
        else:
            seen = self.attend_image.of_words(asked, *image, words)
        query = self.norm(y + self.dropout(seen))
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
        self.output = Output(width, dims.vocabulary)
        self.dropout, self.word_dropout = Dropout(config.dropout), Dropout(0.1)

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

    def states(self, memory: Tensors, words: Words) -> Tensor:
        """All q_t, joined."""
        return self._decode(memory, words)[0]

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

    def decode_word(self, state: State[Tensors], token: Tensor) -> tuple[Tensor, State[Tensors]]:
        """One position of `states`, from the keys written so far, masked by ``ancestors``."""
        position, ancestors, memory = state.position, state.ancestors, state.memory
        assert ancestors is not None
        ancestors[:, :, position] = torch.eye(token.shape[1], dtype=torch.bool, device=token.device)
        so_far = slice(position + 1)
        mask = ancestors[:, :, so_far].flatten(2)
        x = self._embed(token, positions(position, 1, self.config.width, token.device))
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
        return self._join(queries), replace(state, cache=cache, position=position + 1)

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """The last block's spatial attention, averaged over its heads."""
        words, last = Words.all(tokens), self.blocks[-1]
        asked = words.pad(last.norm_asked(self._decode(memory, words)[1])).flatten(1, 2)
        keys, _, shown = self._image(memory, self.config.layers - 1)
        weights = last.attend_image.weights(asked, keys, shown)
        return {"regions": weights.unflatten(1, tokens.shape[1:])}

    def _decode(self, memory: Tensors, words: Words) -> tuple[Tensor, Tensor]:
        """What `states` returns, and the last block's y_t, (T, D)."""
        table = positions(0, words.shape[2], self.config.width, words.tokens.device)
        x = self._embed(words.tokens, table[words.positions])
        total = words.pick(words.pad(x).cumsum(2))
        image = memory["image"][:, 0].index_select(0, words.index // math.prod(words.shape[1:]))
        query = self._query(image, total / (words.positions + 1)[:, None])
        queries, y = [query], x
        for n, block in enumerate(self.blocks):
            attended = block.attend_words.among_words(query, x, words)
            y = x + attended
            query, x = block(x, attended, self._image(memory, n), words)
            queries.append(query)
        return self._join(queries), y

    def _query(self, image: Tensor, mean: Tensor) -> Tensor:
        """The first q, of the memory's image and the mean of the rows so far."""
        return self.dropout(image * self.image[1](mean))

    def _image(self, memory: Tensors, block: int) -> tuple[Tensor, Tensor, Tensor]:
        return memory[f"keys{block}"], memory[f"values{block}"], memory["mask"]

    def _join(self, queries: list[Tensor]) -> Tensor:
        """What W_p reads, of all q of a word, each (..., D)."""
        joined = self.norm(functional.glu(self.joined(torch.cat(queries, -1))))
        return self.dropout(joined)

    def _embed(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(..., D) of words (...) and the sinusoids (..., D) of their positions."""
        words = math.sqrt(self.config.width) * self.words(tokens)
        return self.word_dropout(self.norm_words(words + position.to(words.dtype)))
