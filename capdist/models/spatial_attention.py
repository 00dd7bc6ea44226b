"""Spatial-Attention (Lu et al., CVPR 2017): AdaAtt without its sentinel, a host of MIA.

    v_i = ReLU(W_a a_i)        v^g = ReLU(W_b mean(V))
    h_t = LSTM([E w_t; v^g], h_{t-1})
    z_t = w_h^T tanh(W_v V + (W_g h_t) 1^T)                                                (6)
    α_t = softmax(z_t)                                                                     (7)
    c_t = Σ_i α_ti v_ti                                                                    (8)
    p_t = softmax(W_p (c_t + h_t))

It attends from the state *after* the word, h_t. The paper's v^g is computed from the CNN's features
a_i; here from the embedded ones, so that with MIA (its Table 1), which refines V to I* or
MIA(I, T), nothing reads unrefined regions. The width inside Eq. 6 is the paper's number of regions,
49. The concepts that guide are embedded by the word table.

Parameters (V = 9,487 words, F = 2048, D = 512): word table 4.86 M + W_a 1.05 M + W_b 0.26 M +
attention 0.05 M + LSTM 3.15 M + output 4.87 M = 14.2 M; with MIA 20.5 M.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import Dropout, masked_mean, masked_softmax
from capdist.models.lstm_decoders import SequenceLstmDecoder, Tensors
from capdist.models.mia import VisualMiaConfig, refiner
from capdist.models.output import Output
from capdist.models.step_linear import StepLinear


class SpatialAttentionConfig(ModelConfig):
    """The paper's sizes."""

    name: Literal["spatial_attention"]
    width: int = Field(512, description="D, of words, regions and state.")
    hidden: int = Field(49, description="Width inside the attention.")
    dropout: float = Field(0.5, ge=0, lt=1)
    refine: VisualMiaConfig | None = Field(None, description="What refines the regions.")


@register("spatial_attention")
class SpatialAttention(SequenceLstmDecoder):
    """The memory: a state of zeros, V with its mask and its keys W_v V, and v^g."""

    Config = SpatialAttentionConfig

    def __init__(self, config: SpatialAttentionConfig, dims: Dims) -> None:
        width = config.width
        super().__init__(2 * width, width)
        self.words = nn.Embedding(dims.vocabulary, width)
        self.regions = nn.Linear(dims.features, width)
        self.refine = refiner(config.refine, width)
        self.image = nn.Linear(width, width)
        self.key = nn.Linear(width, config.hidden, bias=False)
        self.query = StepLinear(width, config.hidden, bias=False)
        self.score = nn.Linear(config.hidden, 1, bias=False)
        self.output = Output(width, dims.vocabulary)
        self.dropout = Dropout(config.dropout)

    @property
    def needs(self) -> frozenset[str]:
        """Concepts, if they guide the regions."""
        return self.refine.needs

    def encode(self, batch: Batch) -> Tensors:
        """V, W_v V and v^g."""
        regions = self.regions(batch.regions.to(self.regions.weight.dtype))
        regions, _ = self.refine(
            self.dropout(regions.relu()),
            batch.region_mask,
            self.words(batch.concepts),
            batch.concept_mask,
        )
        image = self.dropout(self.image(masked_mean(regions, batch.region_mask)).relu())
        zeros = image.new_zeros(len(image), 1, image.shape[-1])
        return {
            "h": zeros,
            "c": zeros,
            "regions": regions,
            "keys": self.key(regions),
            "mask": batch.region_mask,
            "image": image,
        }

    def decode(self, memory: Tensors, tokens: Tensor, hidden: Tensors) -> tuple[Tensor, Tensors]:
        """h_t, then Eq. 6 to 8 and what p_t reads."""
        states, hidden = self.recur(self._inputs(memory, tokens), hidden)
        context = self._weights(memory, states) @ memory["regions"]
        out = context + states.flatten(1, 2)
        return self.dropout(out).unflatten(1, tokens.shape[1:]), hidden

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """α_t."""
        cache = self.start(memory, tokens.shape[1], tokens.shape[2]).cache
        states, _ = self.recur(self._inputs(memory, tokens), cache)
        return {"regions": self._weights(memory, states).unflatten(1, tokens.shape[1:])}

    def _inputs(self, memory: Tensors, tokens: Tensor) -> Tensor:
        """[E w_t; v^g], (B, N, L, 2 D)."""
        image = memory["image"][:, None, None].expand(*tokens.shape, -1)
        return torch.cat([self.dropout(self.words(tokens)), image], -1)

    def _weights(self, memory: Tensors, states: Tensor) -> Tensor:
        """α (Eq. 6 and 7), (B, N·L, R), of states (B, N, L, D)."""
        queries = self.query(states.flatten(1, 2))
        scores = self.score((memory["keys"][:, None] + queries[:, :, None]).tanh())[..., 0]
        return masked_softmax(scores, memory["mask"][:, None])
