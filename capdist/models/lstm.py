"""LSTM: a one-layer decoder that reads the pooled image at every step.

The first row of GLIED's Table 2: Show and Tell's decoder (Vinyals et al., CVPR 2015) with the
visual feature as an input of every step (Lu et al., CVPR 2017).

    v   = ReLU(W_v mean(I))
    h_t = LSTM([E x_t; v], h_{t-1})
    p_t = softmax(W_o h_t)

Parameters at GLIED's settings (V = 9,487 words, F = 2048, D = 512, embedding 256): word table
2.43 M + image 1.05 M + LSTM 2.63 M + output 4.87 M = 11.0 M (the table estimates 11.5 M).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import CaptionModel, Dims, ModelConfig, State, register
from capdist.models.layers import Dropout, masked_mean
from capdist.models.output import Output
from capdist.words import Words


class LstmConfig(ModelConfig):
    """Sizes as in GLIED's comparison."""

    name: Literal["lstm"]
    width: int = Field(512, description="D, of the state and the pooled image.")
    embedding: int = Field(256, description="Width of the word table.")
    dropout: float = Field(0.5, ge=0, lt=1)


@register("lstm")
class Lstm(CaptionModel[Tensor]):
    """The memory: the pooled image v, (B, D)."""

    Config = LstmConfig
    recurrent: ClassVar[bool] = True

    def __init__(self, config: LstmConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(dims.vocabulary, config.embedding)
        self.image = nn.Linear(dims.features, config.width)
        self.cell = nn.LSTMCell(config.embedding + config.width, config.width)
        self.output = Output(config.width, dims.vocabulary)
        self.dropout = Dropout(config.dropout)

    def encode(self, batch: Batch) -> Tensor:
        """The pooled image v = ReLU(W_v mean(I)), over real regions."""
        regions = batch.regions.to(self.image.weight.dtype)
        return self.dropout(self.image(masked_mean(regions, batch.region_mask)).relu())

    def states(self, memory: Tensor, words: Words) -> Tensor:
        """h_t, position by position; captions end from the last one on."""
        image = memory.index_select(0, words.images)
        embedded = self.dropout(self.words(words.tokens))
        h = c = image.new_zeros(len(image), self.config.width)
        hidden = []
        for word in embedded.split(words.alive):
            n = len(word)
            h, c = self.cell(torch.cat([word, image[:n]], -1), (h[:n], c[:n]))
            hidden.append(h)
        return self.dropout(torch.cat(hidden))

    def start(self, memory: Tensor, beams: int, length: int) -> State[Tensor]:
        zeros = memory.new_zeros(len(memory), beams, self.config.width)
        return State(memory, {"h": zeros, "c": zeros})

    def decode_word(self, state: State[Tensor], token: Tensor) -> tuple[Tensor, State[Tensor]]:
        """h_t = LSTM([E x_t; v], h_{t-1})."""
        shape = token.shape
        image = state.memory[:, None].expand(*shape, -1)
        x = torch.cat([self.dropout(self.words(token)), image], -1)
        h, c = self.cell(
            x.flatten(0, 1), (state.cache["h"].flatten(0, 1), state.cache["c"].flatten(0, 1))
        )
        cache = {"h": h.unflatten(0, shape), "c": c.unflatten(0, shape)}
        return self.dropout(cache["h"]), replace(state, cache=cache, position=state.position + 1)

    def attention(self, memory: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """Empty: the model has no attention."""
        return {}
