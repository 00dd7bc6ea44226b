"""Att2in: the attention model of "Self-Critical Sequence Training" (Rennie et al., CVPR 2017).

It follows the attention model in the paper's section on captioning models: an LSTM whose image
enters only the cell, through a maxout of two units; the gates read word and state.

    v_i  = ReLU(W_v F_i)
    a_ti = w^T tanh(W_aI v_i + W_ah h_{t-1} + b)         α_t = softmax(a_t)
    I_t  = Σ_i α_ti v_i
    i_t, f_t, o_t = σ(W x_t + W_h h_{t-1} + b)           each with its own weights; x_t = E w_{t-1}
    z_t, z'_t = W_zx x_t + W_zI I_t + W_zh h_{t-1} + b   each with its own weights
    c_t  = i_t ⊙ max(z_t, z'_t) + f_t ⊙ c_{t-1}
    h_t  = o_t ⊙ tanh(c_t)
    p_t  = softmax(W_s h_t)

State and cell begin with zeros. The paper does not say how regions get the width D; here it is as
in Lu et al. (CVPR 2017). Its bias b_α, the same for all a_t, cancels in the softmax; it is left
out.

Parameters at the paper's sizes (V = 9,487 words, F = 2048, D = 512): word table 4.86 M + W_v 1.05 M
+ attention 0.53 M + LSTM 3.15 M + output 4.87 M = 14.4 M.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import AdditiveAttention
from capdist.models.lstm_decoders import Tensors
from capdist.models.output import Output
from capdist.models.prophet import ProphetConfig, ProphetHost, prophet
from capdist.models.step_linear import StepLinear
from capdist.words import Words


class Att2inConfig(ModelConfig):
    """The paper's sizes."""

    name: Literal["att2in"]
    width: int = Field(512, description="D, of words, regions and state.")
    attention: int = Field(512, description="Width inside the attention.")
    dropout: float = Field(0.5, ge=0, lt=1)
    prophet: ProphetConfig | None = Field(None, description="Prophet attention as a loss.")


@register("att2in")
class Att2in(ProphetHost):
    """The memory: a state of zeros, and the regions with their mask and keys W_aI v_i."""

    Config = Att2inConfig

    def __init__(self, config: Att2inConfig, dims: Dims) -> None:
        width = config.width
        super().__init__(dims.vocabulary, width, 5 * width, config.dropout)
        self.regions = nn.Linear(dims.features, width)
        self.attend = AdditiveAttention(width, width, config.attention, torch.tanh)
        self.prophet = prophet(config.prophet, width, width)
        self.state_gates = StepLinear(width, 5 * width, bias=False)
        self.image_units = StepLinear(width, 2 * width, bias=False)
        self.output = Output(width, dims.vocabulary)

    def encode(self, batch: Batch) -> Tensors:
        """v_i."""
        regions = self.regions(batch.regions.to(self.regions.weight.dtype))
        regions = self.dropout(regions.relu())
        zeros = regions.new_zeros(len(regions), 1, regions.shape[-1])
        keys = self.attend.key(regions)
        return {
            "h": zeros,
            "c": zeros,
            "regions": regions,
            "keys": keys,
            "mask": batch.region_mask,
        }

    def advance(self, memory: Tensors, word: Tensor, before: Tensors) -> Tensors:
        """I_t from h_{t-1}, then c_t and h_t."""
        weights = self.look(memory, before["h"])
        image = weights @ memory["regions"]
        i, f, o, *units = (word + self.state_gates(before["h"])).chunk(5, -1)
        z = torch.cat(units, -1) + self.image_units(image)
        c = i.sigmoid() * torch.maximum(*z.chunk(2, -1)) + f.sigmoid() * before["c"]
        return {"h": o.sigmoid() * c.tanh(), "c": c, "weights": weights}

    def predict(self, memory: Tensors, words: Tensor, after: Tensors) -> Tensor:
        """h_t."""
        return self.dropout(after["h"])

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """α_t before each word."""
        return {"regions": self.unroll(memory, Words.all(tokens))[1]["weights"]}
