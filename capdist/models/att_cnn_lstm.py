"""Att-CNN+LSTM: captions from concepts alone (Wu et al., CVPR 2016), a host of MIA.

    x_{-1} = W_a V_att
    x_t    = E w_t
    p_t+1  = softmax(W_o LSTM(x_t))

The paper's V_att has a probability for each attribute; here, as in MIA, an image has a list of
concepts, and V_att is 1/n at each of the n. MIA ties W_a to the word table, so x_{-1} is the mean
of the concepts' word vectors, or zeros for an empty list. With MIA (its Table 2) it is the mean of
T* or of MIA(I, T); the regions are then embedded by a linear map.

Parameters (V = 9,487 words, F = 2048, D = 512): word table 4.86 M + LSTM 2.10 M + output 4.87 M =
11.8 M; with MIA and its regions 19.2 M.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import Dropout, masked_mean
from capdist.models.lstm_decoders import SequenceLstmDecoder, Tensors
from capdist.models.mia import TextualMiaConfig, refiner
from capdist.models.output import Output


class AttCnnLstmConfig(ModelConfig):
    """Sizes as in MIA's comparison."""

    name: Literal["att_cnn_lstm"]
    width: int = Field(512, description="D, of words, concepts and state.")
    dropout: float = Field(0.5, ge=0, lt=1)
    refine: TextualMiaConfig | None = Field(None, description="What refines the concepts.")


@register("att_cnn_lstm")
class AttCnnLstm(SequenceLstmDecoder):
    """The memory: the state after the concepts."""

    Config = AttCnnLstmConfig
    needs: ClassVar[frozenset[str]] = frozenset({"concepts"})

    def __init__(self, config: AttCnnLstmConfig, dims: Dims) -> None:
        super().__init__(config.width, config.width)
        self.words = nn.Embedding(dims.vocabulary, config.width)
        self.refine = refiner(config.refine, config.width)
        if "regions" in self.refine.reads:
            self.regions = nn.Linear(dims.features, config.width)
        self.output = Output(config.width, dims.vocabulary)
        self.dropout = Dropout(config.dropout)

    def encode(self, batch: Batch) -> Tensors:
        """The state after x_{-1}."""
        regions, concepts = batch.regions, self.words(batch.concepts)
        if "regions" in self.refine.reads:
            regions = self.regions(regions.to(self.regions.weight.dtype))
        _, concepts = self.refine(regions, batch.region_mask, concepts, batch.concept_mask)
        attributes = self.dropout(masked_mean(concepts, batch.concept_mask))
        return self.recur(attributes[:, None, None])[1]

    def decode(self, memory: Tensors, tokens: Tensor, hidden: Tensors) -> tuple[Tensor, Tensors]:
        states, hidden = self.recur(self.dropout(self.words(tokens)), hidden)
        return self.dropout(states), hidden
