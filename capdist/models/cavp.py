"""CAVP: "Context-Aware Visual Policy Network" (Liu et al., ACM MM 2018).

Up-Down's two LSTMs, with four sub-policies in the place of its attention. A sub-policy is an
attention of the first LSTM's state h to some candidates, a(h, X) = softmax_i w^T tanh(W_v x_i +
W_h h), each with weights of its own. At word t, of regions v_i and the image v_g:

    h_t = LSTM([h²_{t-1}; v_g; W_e Π_t])
    single        v^s = Σ_i a(h, V)_i v_i
    context       v^c = Σ_i a(h, C)_i c_i          C = v_g and the outputs o_1, ..., o_{t-1}
    composition   v^p = Σ_i a(h, P)_i p_i          p_i = v^c - v_i
    output        o_t = Σ_i a(h, O)_i o_i          O = v^s, v^p and v_g
    h²_t = LSTM([o_t; h_t])                        p_t = softmax(W_p h²_t)

Earlier outputs are read again in this way, and compared with the regions. The expectation over a
policy's actions is read instead of a draw, and the words are trained by cross entropy, then by the
self-critical objective, whose reward reaches all policies through the words: a stage ``xe``, then
``scst``.

These equations, which the paper states more generally, are those of the authors' code; V and v_g
are ReLU(W_r f) and ReLU(W_g mean(F)). The code's batch normalisation of features is left out: what
a caption is must not depend on the other images of a batch.

Parameters at the paper's sizes (V = 9,487 words, F = 2048, D = 1300, words 1000, attention 1024):

    word table and output        9.5 M + 12.3 M
    embedding of V and v_g       2.7 M + 2.7 M
    the LSTMs                    25.5 M + 20.3 M
    sub-policies                 4 x 2.7 M
                                 83.6 M
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import AdditiveAttention, masked_mean
from capdist.models.updown import Cells, UpDown, UpDownMemory, UpDownSizes


class CavpConfig(UpDownSizes):
    """Sizes as in the authors' code."""

    name: Literal["cavp"]
    width: int = Field(1300, description="D, of both LSTMs.")
    attention: int = Field(1024, description="Width inside each sub-policy.")
    regions: int = Field(1300, description="Width of embedded regions and of the image.")


@dataclass(frozen=True, kw_only=True)
class CavpMemory(UpDownMemory):
    """Up-Down's, with v_g ``pooled`` (B, D) and ``compared`` (B, R, H), W_v V of composition."""

    pooled: Tensor
    compared: Tensor


@register("cavp")
class Cavp(UpDown):
    """Up-Down's ``attend`` is the single sub-policy.

    The state also has "context", C (B, K, t, D), which grows by a row with every word.
    """

    Config: ClassVar[type[ModelConfig]] = CavpConfig

    def __init__(self, config: CavpConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.image = nn.Linear(dims.features, config.regions)
        sizes = config.regions, config.width, config.attention, torch.tanh
        self.context = AdditiveAttention(*sizes)
        self.composition = AdditiveAttention(*sizes)
        self.choice = AdditiveAttention(*sizes)

    def encode(self, batch: Batch) -> CavpMemory:
        """V and v_g."""
        regions, mask = self._regions(batch), batch.region_mask
        mean = masked_mean(batch.regions.to(regions.dtype), mask)
        pooled = self.dropout(self.image(mean).relu())
        return CavpMemory(
            regions=regions,
            keys=self.attend.key(regions),
            mask=mask,
            image=self.image_gates(pooled),
            pooled=pooled,
            compared=self.composition.key(regions),
        )

    def advance(
        self, memory: UpDownMemory, word: Tensor, before: Cells, weights: Tensor | None = None
    ) -> tuple[Cells, Tensor]:
        """The states after a word, and the weights of the single sub-policy before the next."""
        assert isinstance(memory, CavpMemory)
        h1, c1 = self.attention_lstm(memory, word, before)
        if weights is None:
            weights = self.attend_regions(memory, h1)
        single = weights @ memory.regions
        context = _look(self.context, h1, before["context"])
        compared = self._compare(memory, h1, context)
        pooled = memory.pooled[:, None].expand_as(single)
        output = _look(self.choice, h1, torch.stack([single, compared, pooled], 2))
        h2, c2 = self.language_lstm(output, h1, before)
        seen = torch.cat([before["context"], output[:, :, None]], 2)
        return {"h1": h1, "c1": c1, "h2": h2, "c2": c2, "context": seen}, weights

    def _compare(self, memory: CavpMemory, h: Tensor, context: Tensor) -> Tensor:
        """The composition v^p (B, K, D) of a state and v^c (B, K, D)."""
        policy = self.composition
        # W_v p_i = W_v v^c - W_v v_i, and Σ a_i p_i = v^c - Σ a_i v_i.
        keys = policy.key(context)[:, :, None] - memory.compared[:, None]
        mask = memory.mask[:, None].expand(*keys.shape[:3])
        weights = policy(h.flatten(0, 1)[:, None], keys.flatten(0, 1), mask.flatten(0, 1))
        return context - weights.unflatten(0, h.shape[:2])[:, :, 0] @ memory.regions

    def _zeros(self, memory: UpDownMemory, beams: int) -> Cells:
        """C begins with v_g."""
        assert isinstance(memory, CavpMemory)
        first = memory.pooled[:, None, None].expand(-1, beams, -1, -1)
        return {**super()._zeros(memory, beams), "context": first}


def _look(policy: AdditiveAttention, h: Tensor, candidates: Tensor) -> Tensor:
    """Σ_i a(h, X)_i x_i (B, K, D) of candidates X (B, K, N, D), which every hypothesis has."""
    flat = candidates.flatten(0, 1)
    everything = torch.ones(flat.shape[:2], dtype=torch.bool, device=flat.device)
    weights = policy(h.flatten(0, 1)[:, None], policy.key(flat), everything)
    return (weights @ flat)[:, 0].unflatten(0, h.shape[:2])
