"""AdaAtt (Lu et al., CVPR 2017): adaptive attention, which may attend to the words instead.

    v_i = ReLU(W_a a_i)                                                                  (15)
    v^g = ReLU(W_b mean(A))                                                       (14 and 16)
    x_t = [E w_t; v^g]        h_t, m_t = LSTM(x_t, h_{t-1})
    z_t = w_h^T tanh(W_v V + (W_g h_t) 1^T)                                               (6)
    g_t = σ(W_x x_t + W_h h_{t-1})                                                        (9)
    s_t = g_t ⊙ tanh(m_t)                                                                (10)
    α̂_t = softmax([z_t; w_h^T tanh(W_s s_t + W_g h_t)])                                  (12)
    ĉ_t = β_t s_t + (1 − β_t) c_t = β_t s_t + Σ_i α̂_ti v_i        β_t is α̂_t's last      (11)
    p_t = softmax(W_p (ĉ_t + h_t))                                                       (13)

The sentinel s_t, what the cell m_t has stored, is an additional region, and g_t an additional gate
of the LSTM. The width inside Eq. 6 is the paper's number of regions, 49. Gates have biases, like
the LSTM's. `spatial_attention` is the model without the sentinel, as a host of MIA.

Parameters (V = 9,487 words, F = 2048, D = 512): word table 4.86 M + W_a 1.05 M + W_b 1.05 M + LSTM
and sentinel 3.93 M + attention 0.08 M + output 4.87 M = 15.8 M.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import masked_mean, masked_softmax
from capdist.models.lstm_decoders import StepwiseLstmDecoder, Tensors, lstm_cell
from capdist.models.output import Output
from capdist.models.step_linear import StepLinear
from capdist.words import Words


class AdaAttConfig(ModelConfig):
    """The paper's sizes."""

    name: Literal["adaatt"]
    width: int = Field(512, description="D, of words, regions and state.")
    hidden: int = Field(49, description="Width inside the attention.")
    dropout: float = Field(0.5, ge=0, lt=1)


@register("adaatt")
class AdaAtt(StepwiseLstmDecoder):
    """The memory: a state of zeros, V with mask and keys W_v V, and v^g's part of the gates."""

    Config = AdaAttConfig

    def __init__(self, config: AdaAttConfig, dims: Dims) -> None:
        width = config.width
        super().__init__(dims.vocabulary, width, 5 * width, config.dropout)
        self.regions = nn.Linear(dims.features, width)
        self.image = nn.Linear(dims.features, width)
        self.image_gates = nn.Linear(width, 5 * width, bias=False)
        self.state_gates = StepLinear(width, 5 * width, bias=False)
        self.key = nn.Linear(width, config.hidden, bias=False)
        self.sentinel_key = nn.Linear(width, config.hidden, bias=False)
        self.query = StepLinear(width, config.hidden, bias=False)
        self.score = nn.Linear(config.hidden, 1, bias=False)
        self.output = Output(width, dims.vocabulary)

    def encode(self, batch: Batch) -> Tensors:
        """V, W_v V and v^g."""
        features, mask = batch.regions.to(self.regions.weight.dtype), batch.region_mask
        regions = self.dropout(self.regions(features).relu())
        image = self.dropout(self.image(masked_mean(features, mask)).relu())
        zeros = torch.zeros_like(image)[:, None]
        return {
            "h": zeros,
            "c": zeros,
            "regions": regions,
            "keys": self.key(regions),
            "mask": mask,
            "image": self.image_gates(image)[:, None],
        }

    def advance(self, memory: Tensors, word: Tensor, before: Tensors) -> Tensors:
        """h_t and m_t, and the sentinel s_t (Eq. 9 and 10)."""
        gates = word + memory["image"] + self.state_gates(before["h"])
        width = before["c"].shape[-1]
        lstm, g = gates.split([4 * width, width], -1)
        h, m = lstm_cell(lstm, before["c"])
        return {"h": h, "c": m, "sentinel": g.sigmoid() * m.tanh()}

    def predict(self, memory: Tensors, words: Tensor, after: Tensors) -> Tensor:
        """Eq. 11 to 13, for one word or for all."""
        shape = after["h"].shape
        h, sentinel = after["h"].flatten(1, -2), after["sentinel"].flatten(1, -2)
        sentinel_score = self.score((self.sentinel_key(sentinel) + self.query(h)).tanh())
        scores = torch.cat([self._scores(memory, h), sentinel_score], -1)
        mask = torch.cat([memory["mask"], memory["mask"].new_ones(len(h), 1)], -1)
        weights = masked_softmax(scores, mask[:, None])
        context = weights[..., :-1] @ memory["regions"] + weights[..., -1:] * sentinel
        return self.dropout(context + h).unflatten(1, shape[1:-1])

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """α_t = softmax(z_t) (Eq. 7): the attention to regions, without the sentinel."""
        h = self.unroll(memory, Words.all(tokens))[1]["h"].flatten(1, 2)
        weights = masked_softmax(self._scores(memory, h), memory["mask"][:, None])
        return {"regions": weights.unflatten(1, tokens.shape[1:])}

    def _scores(self, memory: Tensors, h: Tensor) -> Tensor:
        """Eq. 6, (B, N, R), of states (B, N, D)."""
        hidden = (memory["keys"][:, None] + self.query(h)[:, :, None]).tanh()
        return self.score(hidden)[..., 0]
