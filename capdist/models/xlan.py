"""X-LAN: "X-Linear Attention Networks for Image Captioning" (Pan et al., CVPR 2020).

The encoder is a stack of X-Linear blocks (`capdist.models.x_linear`), which makes an image vector
v̂ and enhanced regions. The decoder is an LSTM whose output is the query of another block:

    h_t = LSTM([W_e Π_t; v̂ + c_{t-1}], h_{t-1})
    a_t = LayerNorm(W_a [h_t; block of query h_t over the enhanced regions])
    c_t = GLU(W_c [a_t; h_t])              p_t = softmax(W_p c_t)

c_0 = 0. As in the authors' code, regions are embedded by CELU(W F), and dropout of 0.5 follows
embedded regions, words, the blocks, c_{t-1} and c_t. Its CELU of embedded words is left out.

Parameters at the paper's sizes (V = 9,487 words, F = 2048, D = 1024, 4 blocks in the encoder):

    word table and output        9.7 M + 9.7 M
    region embedding             2.1 M
    a block                      4 D² = 4.2 M; with W_m 6.3 M, four of these 25.2 M
    image                        5.2 M
    LSTM                         4 D (2 D + D) = 12.6 M
    block, W_a and W_c           4.2 M + 2.1 M + 4.2 M
                                 75.2 M
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from capdist.batch import Batch
from capdist.config.base import Positive
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.lstm_decoders import (
    StepwiseLstmDecoder,
    Tensors,
    initialise_gates,
    lstm_cell,
)
from capdist.models.output import Output
from capdist.models.step_linear import StepLinear
from capdist.models.x_linear import ALPHA, XLinearAttention, XLinearEncoder
from capdist.words import Words


class XlanConfig(ModelConfig):
    """The paper's sizes."""

    name: Literal["xlan"]
    width: int = Field(1024, description="D, of words, regions and state.")
    layers: Positive = Field(4, description="Blocks of the encoder.")
    heads: Positive = Field(8, description="Of every block; they must divide the width.")
    dropout: float = Field(0.5, ge=0, lt=1)


@register("xlan")
class Xlan(StepwiseLstmDecoder):
    """The memory: states of zeros, v̂'s part of the gates, the enhanced regions' keys and values.

    Raises:
        ConfigError: if the heads do not divide the width.
    """

    Config = XlanConfig
    carried: ClassVar[tuple[str, ...]] = ("h", "c", "context")

    def __init__(self, config: XlanConfig, dims: Dims) -> None:
        width = config.width
        super().__init__(dims.vocabulary, width, 4 * width, config.dropout)
        self.regions = nn.Linear(dims.features, width)
        self.encoder = XLinearEncoder(width, config.layers, config.heads, config.dropout)
        self.context_gates = StepLinear(width, 4 * width, bias=False)
        self.state_gates = StepLinear(width, 4 * width, bias=False)
        initialise_gates(width, self.word_gates, self.context_gates, self.state_gates)
        self.block = XLinearAttention(width, config.heads, 0.1)
        self.attended = nn.Linear(2 * width, width)  # W_a
        self.norm = nn.LayerNorm(width)
        self.context = nn.Linear(2 * width, 2 * width)  # W_c
        self.output = Output(width, dims.vocabulary)

    def encode(self, batch: Batch) -> Tensors:
        """V̂ and the enhanced regions."""
        mask = batch.region_mask[:, None]
        embedded = self.regions(batch.regions.to(self.regions.weight.dtype))
        image, regions = self.encoder(self.dropout(functional.celu(embedded, ALPHA)), mask)
        keys, values = self.block.project(regions)
        return {
            **dict.fromkeys(self.carried, torch.zeros_like(image)),
            "image": self.context_gates(image),
            "keys": keys,
            "values": values,
            "mask": mask,
        }

    def advance(self, memory: Tensors, word: Tensor, before: Tensors) -> Tensors:
        """h_t, then a_t and c_t, which is "context"; the LSTM's cell is "c"."""
        gates = word + memory["image"] + self.context_gates(self.dropout(before["context"]))
        h, c = lstm_cell(gates + self.state_gates(before["h"]), before["c"])
        seen = self.dropout(self.block(h, memory["keys"], memory["values"], memory["mask"]))
        attended = self.norm(self.attended(torch.cat([h, seen], -1)))
        context = functional.glu(self.context(torch.cat([attended, h], -1)))
        return {"h": h, "c": c, "context": context}

    def predict(self, memory: Tensors, words: Tensor, after: Tensors) -> Tensor:
        """c_t."""
        return self.dropout(after["context"])

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """β^s of the decoder's block before each word, averaged over its heads."""
        states = self.unroll(memory, Words.all(tokens))[1]["h"].flatten(1, 2)
        weights = self.block.weights(states, memory["keys"], memory["mask"])
        return {"regions": weights.unflatten(1, tokens.shape[1:])}
