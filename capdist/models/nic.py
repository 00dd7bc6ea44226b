"""NIC: Show and Tell (Vinyals et al., CVPR 2015), a host of MIA.

    x_{-1} = W_v mean(I)                                                                  (10)
    x_t    = E w_t                                                                        (11)
    p_t+1  = softmax(W_o LSTM(x_t))                                                       (12)

The image is the first input of the LSTM and not read again. W_v is applied to each region, which is
equivalent, so that MIA can refine them before the mean: with it (MIA's Table 1) x_{-1} is the mean
of I* or of MIA(I, T). The concepts that guide are embedded by the word table.

Parameters (V = 9,487 words, F = 2048, D = 512): word table 4.86 M + W_v 1.05 M + LSTM 2.10 M +
output 4.87 M = 12.9 M; with MIA 19.2 M.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import Dropout, masked_mean
from capdist.models.lstm_decoders import SequenceLstmDecoder, Tensors
from capdist.models.mia import VisualMiaConfig, refiner
from capdist.models.output import Output


class NicConfig(ModelConfig):
    """The paper's sizes."""

    name: Literal["nic"]
    width: int = Field(512, description="D, of words, image and state.")
    dropout: float = Field(0.5, ge=0, lt=1)
    refine: VisualMiaConfig | None = Field(None, description="What refines the regions.")


@register("nic")
class Nic(SequenceLstmDecoder):
    """The memory: the state after the image."""

    Config = NicConfig

    def __init__(self, config: NicConfig, dims: Dims) -> None:
        super().__init__(config.width, config.width)
        self.words = nn.Embedding(dims.vocabulary, config.width)
        self.regions = nn.Linear(dims.features, config.width)
        self.refine = refiner(config.refine, config.width)
        self.output = Output(config.width, dims.vocabulary)
        self.dropout = Dropout(config.dropout)

    @property
    def needs(self) -> frozenset[str]:
        """Concepts, if they guide the regions."""
        return self.refine.needs

    def encode(self, batch: Batch) -> Tensors:
        """The state after x_{-1} (Eq. 10)."""
        regions = self.regions(batch.regions.to(self.regions.weight.dtype))
        regions, _ = self.refine(
            regions, batch.region_mask, self.words(batch.concepts), batch.concept_mask
        )
        image = self.dropout(masked_mean(regions, batch.region_mask))
        return self.recur(image[:, None, None])[1]

    def decode(self, memory: Tensors, tokens: Tensor, hidden: Tensors) -> tuple[Tensor, Tensors]:
        """Eq. 11 and 12."""
        states, hidden = self.recur(self.dropout(self.words(tokens)), hidden)
        return self.dropout(states), hidden
