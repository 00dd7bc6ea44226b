"""ATT-FCN: semantic attention (You et al., CVPR 2016), a host of MIA.

Concepts y^i are attended to twice per step, before the LSTM by the last word and after it by its
state; the image is read once, before the first word:

    x_0 = W^{x,v} v                                                                        (1)
    α_t^i ∝ exp((E y_{t-1})^T U E y^i)                                                     (6)
    x_t = W^{x,Y} (E y_{t-1} + diag(w^{x,A}) Σ_i α_t^i E y^i)                              (7)
    β_t^i ∝ exp(h_t^T V σ(E y^i))                                                          (8)
    p_t ∝ exp(E^T W^{Y,h} (h_t + diag(w^{Y,A}) Σ_i β_t^i σ(E y^i)))                        (9)

with σ = tanh, as in the LSTM that computes h_t, and one matrix E for words, concepts and output.
Words and state have the same width, as Eq. 9 requires. v is the mean of the regions; W^{x,v} is
applied to each region. The paper's penalty that spreads attention over a caption's length is left
out.

As E is also the output layer's weight, it is initialised to be small, so that both attentions start
nearly uniform and words barely move the state. ``scale_words`` multiplies E y and E y^i by sqrt(D),
as Vaswani et al. (2017, section 3.4) do where they share the matrix; the paper does not say.

With MIA (its Table 2, which counts the model among those on concepts) T* or MIA(I, T) replaces
E y^i in Eq. 6 to 9; v stays the unrefined image.

Parameters (V = 9,487 words, F = 2048, D = 512): E 4.86 M + W^{x,v} 1.05 M + U, V, W^{x,Y} and
W^{Y,h} 1.05 M + LSTM 2.10 M = 9.1 M; with MIA 15.4 M.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from capdist.batch import Batch
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import Dropout, masked_mean, masked_softmax
from capdist.models.lstm_decoders import SequenceLstmDecoder, Tensors
from capdist.models.mia import TextualMiaConfig, refiner
from capdist.models.output import Output


class AttFcnConfig(ModelConfig):
    """Sizes as in MIA's comparison."""

    name: Literal["att_fcn"]
    width: int = Field(512, description="D, of words, concepts, image and state.")
    dropout: float = Field(0.5, ge=0, lt=1)
    scale_words: bool = Field(
        False, description="Multiply embedded words and concepts by the square root of D."
    )
    refine: TextualMiaConfig | None = Field(None, description="What refines the concepts.")


@register("att_fcn")
class AttFcn(SequenceLstmDecoder):
    """The memory: the state after the image, and the concepts with their mask and two keys each."""

    Config = AttFcnConfig
    needs: ClassVar[frozenset[str]] = frozenset({"concepts"})

    def __init__(self, config: AttFcnConfig, dims: Dims) -> None:
        width = config.width
        super().__init__(width, width)
        self.regions = nn.Linear(dims.features, width)
        self.refine = refiner(config.refine, width)
        self.key_in = nn.Linear(width, width, bias=False)  # U
        self.key_out = nn.Linear(width, width, bias=False)  # V
        self.scale_in = nn.Parameter(torch.ones(width))  # w^{x,A}
        self.scale_out = nn.Parameter(torch.ones(width))  # w^{Y,A}
        self.project_in = nn.Linear(width, width, bias=False)  # W^{x,Y}
        self.project_out = nn.Linear(width, width, bias=False)  # W^{Y,h}
        self.output = Output(width, dims.vocabulary, bias=False)  # E^T
        self.dropout = Dropout(config.dropout)
        self.scale = width**0.5 if config.scale_words else 1.0

    def words(self, tokens: Tensor) -> Tensor:
        """E y, (..., D)."""
        return functional.embedding(tokens, self.output.weight) * self.scale

    def encode(self, batch: Batch) -> Tensors:
        """The state after x_0 (Eq. 1), and keys and values of both attentions."""
        regions = self.regions(batch.regions.to(self.regions.weight.dtype))
        image = self.dropout(masked_mean(regions, batch.region_mask))
        _, concepts = self.refine(
            regions, batch.region_mask, self.words(batch.concepts), batch.concept_mask
        )
        return {
            **self.recur(image[:, None, None])[1],
            "concepts": concepts,
            "mask": batch.concept_mask[:, None],
            "keys_in": self.key_in(concepts),
            "keys_out": self.key_out(concepts.tanh()),
        }

    def decode(self, memory: Tensors, tokens: Tensor, hidden: Tensors) -> tuple[Tensor, Tensors]:
        """Eq. 6 to 9."""
        states, hidden = self.recur(self._inputs(memory, tokens), hidden)
        states = states.flatten(1, 2)
        context = self._weights(memory, "keys_out", states) @ memory["concepts"].tanh()
        out = self.project_out(states + self.scale_out * context)
        return self.dropout(out).unflatten(1, tokens.shape[1:]), hidden

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """β_t, the last attention before each word."""
        cache = self.start(memory, tokens.shape[1], tokens.shape[2]).cache
        states, _ = self.recur(self._inputs(memory, tokens), cache)
        weights = self._weights(memory, "keys_out", states.flatten(1, 2))
        return {"concepts": weights.unflatten(1, tokens.shape[1:])}

    def _inputs(self, memory: Tensors, tokens: Tensor) -> Tensor:
        """x_t (Eq. 6 and 7), (B, N, L, D)."""
        words = self.words(tokens.flatten(1))
        context = self._weights(memory, "keys_in", words) @ memory["concepts"]
        x = self.project_in(words + self.scale_in * context)
        return self.dropout(x).unflatten(1, tokens.shape[1:])

    def _weights(self, memory: Tensors, keys: str, queries: Tensor) -> Tensor:
        """α or β, (B, N·L, A), of queries (B, N·L, D)."""
        return masked_softmax(queries @ memory[keys].transpose(1, 2), memory["mask"])
