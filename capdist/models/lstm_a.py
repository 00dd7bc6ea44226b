"""LSTM-A3, -A4 and -A5: concepts and the image in an LSTM (Yao et al., ICCV 2017), hosts of MIA.

Three ways to input the same two vectors, a = T_a A for the concepts and v = T_v I for the image:

    A3    x^{-2} = a    x^{-1} = v    x^t = E w_t
    A4                  x^{-1} = a    x^t = E w_t + v
    A5                  x^{-1} = v    x^t = E w_t + a

and then p_t+1 = softmax(W_o LSTM(x^t)). The paper's A has a probability for each of 1,000
attributes; here, as in MIA, an image has a list of concepts: a is the mean of their word vectors,
as MIA ties T_a to the word table, or zeros for an empty list. v is the mean of the regions,
T_v applied to each. With MIA (its Table 3) the two are the means of its refined rows: both of
MIA(I, T), or only v of I*, or only a of T*.

Parameters (V = 9,487 words, F = 2048, D = 512): word table 4.86 M + T_v 1.05 M + LSTM 2.10 M +
output 4.87 M = 12.9 M; with MIA 19.2 M.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import Dropout, masked_mean
from capdist.models.lstm_decoders import SequenceLstmDecoder, Tensors
from capdist.models.mia import MiaConfig, refiner
from capdist.models.output import Output


class LstmAConfig(ModelConfig):
    """Sizes as in MIA's comparison."""

    name: Literal["lstm_a3", "lstm_a4", "lstm_a5"]
    width: int = Field(512, description="D, of words, image, concepts and state.")
    dropout: float = Field(0.5, ge=0, lt=1)
    refine: MiaConfig | None = Field(None, description="What refines regions and concepts.")


class LstmA(SequenceLstmDecoder):
    """The memory: the state after the first inputs, and "each" (B, D), added to every word."""

    needs: ClassVar[frozenset[str]] = frozenset({"concepts"})
    first: ClassVar[tuple[str, ...]]
    each: ClassVar[str | None] = None

    def __init__(self, config: LstmAConfig, dims: Dims) -> None:
        super().__init__(config.width, config.width)
        self.words = nn.Embedding(dims.vocabulary, config.width)
        self.regions = nn.Linear(dims.features, config.width)
        self.refine = refiner(config.refine, config.width)
        self.output = Output(config.width, dims.vocabulary)
        self.dropout = Dropout(config.dropout)

    def encode(self, batch: Batch) -> Tensors:
        """The state after x^{-1}, and the vector that is added to every word."""
        regions, concepts = self.refine(
            self.regions(batch.regions.to(self.regions.weight.dtype)),
            batch.region_mask,
            self.words(batch.concepts),
            batch.concept_mask,
        )
        vectors = {
            "a": self.dropout(masked_mean(concepts, batch.concept_mask)),
            "v": self.dropout(masked_mean(regions, batch.region_mask)),
        }
        first = torch.stack([vectors[name] for name in self.first], 1)
        memory = self.recur(first[:, None])[1]
        return memory if self.each is None else {**memory, "each": vectors[self.each]}

    def decode(self, memory: Tensors, tokens: Tensor, hidden: Tensors) -> tuple[Tensor, Tensors]:
        """x^0 and later inputs."""
        x = self.dropout(self.words(tokens))
        if self.each is not None:
            x = x + memory["each"][:, None, None]
        states, hidden = self.recur(x, hidden)
        return self.dropout(states), hidden


class LstmA3Config(LstmAConfig):
    """LSTM-A3 at the sizes of MIA's comparison."""

    name: Literal["lstm_a3"]


@register("lstm_a3")
class LstmA3(LstmA):
    """Concepts, the image, then words."""

    Config = LstmA3Config
    first = ("a", "v")


class LstmA4Config(LstmAConfig):
    """LSTM-A4 at the sizes of MIA's comparison."""

    name: Literal["lstm_a4"]


@register("lstm_a4")
class LstmA4(LstmA):
    """Concepts, then words, each with the image."""

    Config = LstmA4Config
    first = ("a",)
    each = "v"


class LstmA5Config(LstmAConfig):
    """LSTM-A5 at the sizes of MIA's comparison."""

    name: Literal["lstm_a5"]


@register("lstm_a5")
class LstmA5(LstmA):
    """The image, then words, each with the concepts."""

    Config = LstmA5Config
    first = ("v",)
    each = "a"
