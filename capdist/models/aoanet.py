"""AoANet: "Attention on Attention for Image Captioning" (Huang et al., ICCV 2019).

Attention on attention gates what an attention returns by the query that asked for it:

    V̂ = f_att(Q, K, V)                                                                 (1)
    AoA(f_att, Q, K, V) = σ(W_q^g Q + W_v^g V̂ + b^g) ⊙ (W_q^i Q + W_v^i V̂ + b^i)  (2) to (5)

The encoder refines the regions N times, with f_att multi-head attention of 8 heads:

    A ← LayerNorm(A + AoA_E(f_att, A, A, A))                                      (6) to (9)

and the decoder is an LSTM whose output asks the refined regions:

    x_t = [W_e Π_t; ā + c_{t-1}]      h_t, m_t = LSTM(x_t, h_{t-1}, m_{t-1})    (10) and (11)
    c_t = AoA_D(f_att, h_t, A, A)      p_t = softmax(W_p c_t)                    (12) and (13)

ā is the mean of the refined regions, c_0 = 0. Regions are first embedded by ReLU(W F), as in the
authors' code. Dropout, where the paper does not place it: on embedded regions, words, the input of
both AoA's information and gate, and c_t before the output.

Parameters at the paper's sizes (V = 9,487 words, F = 2048, D = 1024, N = 6):

    word table and output        9.7 M + 9.7 M
    region embedding             2.1 M
    a refining layer             4 D² of the attention and 4 D² of AoA: 8.4 M; six 50.4 M
    LSTM                         4 D (2 D + D) = 12.6 M
    AoA of the decoder           8.4 M
                                 93 M
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.base import ConfigError, Positive
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import Dropout, MultiHeadAttention, masked_mean
from capdist.models.lstm_decoders import (
    StepwiseLstmDecoder,
    Tensors,
    initialise_gates,
    lstm_cell,
)
from capdist.models.output import Output
from capdist.models.step_linear import StepLinear
from capdist.words import Words


class AoaNetConfig(ModelConfig):
    """The paper's sizes."""

    name: Literal["aoanet"]
    width: int = Field(1024, description="D, of words, regions and state.")
    layers: Positive = Field(6, description="N, refining layers.")
    heads: Positive = Field(8, description="Heads of every attention; they must divide the width.")
    dropout: float = Field(0.3, ge=0, lt=1)


class AttentionOnAttention(nn.Module):
    """Eq. 1 to 5, with multi-head attention as f_att."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attend = MultiHeadAttention(width, heads, dropout)
        self.gate = nn.Linear(2 * width, width)
        self.information = nn.Linear(2 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """As `MultiHeadAttention`: (B, Q, D) queries over (B, N, D) projected keys and values."""
        found = self.attend(query, keys, values, mask)
        both = self.dropout(torch.cat([query, found], -1))
        return self.gate(both).sigmoid() * self.information(both)


class RefiningLayer(nn.Module):
    """Eq. 9."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.aoa = AttentionOnAttention(width, heads, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, regions: Tensor, mask: Tensor) -> Tensor:
        """A (B, R, D) to A (B, R, D); ``mask`` (B, R) is True for real regions."""
        keys, values = self.aoa.attend.project(regions)
        return self.norm(regions + self.aoa(regions, keys, values, mask[:, None]))


@register("aoanet")
class AoaNet(StepwiseLstmDecoder):
    """The memory: states of zeros, ā's part of the gates, keys and values of the refined regions.

    Raises:
        ConfigError: if the heads do not divide the width.
    """

    Config = AoaNetConfig
    carried: ClassVar[tuple[str, ...]] = ("h", "c", "context")

    def __init__(self, config: AoaNetConfig, dims: Dims) -> None:
        width = config.width
        if width % config.heads:
            raise ConfigError(
                f"model.heads: {config.heads} heads do not divide the width {width}; choose a "
                "number that does"
            )
        super().__init__(dims.vocabulary, width, 4 * width, config.dropout)
        self.regions = nn.Linear(dims.features, width)
        sizes = width, config.heads, config.dropout
        self.refine = nn.ModuleList(RefiningLayer(*sizes) for _ in range(config.layers))
        self.context_gates = StepLinear(width, 4 * width, bias=False)
        self.state_gates = StepLinear(width, 4 * width, bias=False)
        initialise_gates(width, self.word_gates, self.context_gates, self.state_gates)
        self.aoa = AttentionOnAttention(*sizes)
        self.output = Output(width, dims.vocabulary)

    def encode(self, batch: Batch) -> Tensors:
        """The refined regions."""
        mask = batch.region_mask
        regions = self.regions(batch.regions.to(self.regions.weight.dtype))
        regions = self.dropout(regions.relu())
        for layer in self.refine:
            regions = layer(regions, mask)
        keys, values = self.aoa.attend.project(regions)
        mean = masked_mean(regions, mask)[:, None]
        zeros = torch.zeros_like(mean)
        return {
            **dict.fromkeys(self.carried, zeros),
            "image": self.context_gates(mean),
            "keys": keys,
            "values": values,
            "mask": mask[:, None],
        }

    def advance(self, memory: Tensors, word: Tensor, before: Tensors) -> Tensors:
        """h_t of W_e Π_t and ā + c_{t-1}, then c_t (Eq. 10 to 12); the paper's m_t is "c"."""
        gates = word + memory["image"] + self.context_gates(before["context"])
        h, c = lstm_cell(gates + self.state_gates(before["h"]), before["c"])
        context = self.aoa(h, memory["keys"], memory["values"], memory["mask"])
        return {"h": h, "c": c, "context": context}

    def predict(self, memory: Tensors, words: Tensor, after: Tensors) -> Tensor:
        """c_t, what Eq. 13 reads."""
        return self.dropout(after["context"])

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """The weights of f_att in Eq. 12 before each word, averaged over the heads."""
        states = self.unroll(memory, Words.all(tokens))[1]["h"].flatten(1, 2)
        weights = self.aoa.attend.weights(states, memory["keys"], memory["mask"])
        return {"regions": weights.unflatten(1, tokens.shape[1:])}
