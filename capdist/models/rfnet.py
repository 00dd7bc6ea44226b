"""RFNet: "Recurrent Fusion Network for Image Captioning" (Jiang et al., ECCV 2018).

Several encoders describe an image, each by a set A^(m) of feature vectors, m = 1 … M. Fusion stage
I has a review component for each set. It attends to its own set and reads the states of all:

    H_t = [h_{t-1}^(1); …; h_{t-1}^(M)]
    h_t^(m), c_t^(m) = LSTM_t^(m)(H_t, f_att^(m,t)(A^(m), h_{t-1}^(m)))             (8) to (10)
    B^(m) = {h_1^(m), …, h_T1^(m)}

Stage II starts from the mean of the components' last states. It attends to the thought vectors of
each, and so reduces them to one set:

    z_t = [f_att^(1,t)(B^(1), h_{t-1}); …; f_att^(M,t)(B^(M), h_{t-1})]                    (12)
    h_t, c_t = LSTM_t(h_{t-1}, z_t)
    C = {h_{T1+1}, …, h_{T1+T2}}                                                           (14)

The decoder starts from the last state of stage II and attends to C:

    h_t, c_t = LSTM([W_e Π_t; f_att(C, h_{t-1})], h_{t-1})        p_t = softmax(W_p h_t)

with f_att(V, h) = Σ_i softmax_i(w^T tanh(W_v v_i + W_h h)) v_i. No weight is shared between steps
or components.

Discriminative supervision makes each set of thought vectors X predict the words W of a caption
among K frequent ones (Yang et al., NeurIPS 2016): with s_i the maximum over X of a linear score,

    L_d(X) = 1/K Σ_{j∈W} Σ_{i∉W} max(0, 1 − (s_j − s_i))
    L = L_sent + λ / (M + 1) (L_d(C) + Σ_m L_d(B^(m)))                                     (19)

summed over captions, as L_sent is.

Only parts of the paper could be read: the equations with a number here, and what is said about
them. Everything else was taken from the authors' code: the forms of f_att and L_d, with 1/K and
each caption's own words; the LSTMs of stage II and of the decoder, and the mean between the stages;
h_0^(m) = c_0^(m) = W_0^(m) v̄^(m); all sizes and λ. There v̄^(m) is the network's pooled output,
which shards do not have: here it is the mean of A^(m). Dropout is of words and of h_t before the
output; there it is of every h_t, also where the next step reads it, and words have none.

Parameters at the sizes of the authors' code (V = 9,487 words, five sets of widths 2048, 1536, 1280,
2208 and 1536, D = 512, T1 = T2 = 8):

    first states            4.4 M
    stage I               396.6 M
    stage II               71.4 M
    decoder, with words    13.4 M
    scores                  3.1 M
                          488.9 M
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from capdist.batch import Batch
from capdist.config.base import Positive
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import AdditiveAttention, full_precision, masked_mean
from capdist.models.lstm_decoders import (
    StepwiseLstmDecoder,
    Tensors,
    initialise_gates,
    lstm_cell,
)
from capdist.models.output import Output
from capdist.models.step_linear import StepLinear
from capdist.vocab import SPECIALS
from capdist.words import Words

#: Vectors (B, N, ...) that an attention reads, and the mask (B, N) of those that are there.
Source = tuple[Tensor, Tensor]


class RfNetConfig(ModelConfig):
    """Sizes as in the authors' code."""

    name: Literal["rfnet"]
    width: int = Field(512, description="D, of every LSTM.")
    embedding: int = Field(512, description="Width of the word table.")
    attention: int = Field(512, description="Width inside every attention.")
    review_steps: Positive = Field(8, description="T1, steps of fusion stage I.")
    fusion_steps: Positive = Field(8, description="T2, steps of fusion stage II.")
    dropout: float = Field(0.3, ge=0, lt=1)
    discriminative_loss: float = Field(1.0, ge=0, description="λ; 0: L_d is off.")
    frequent: Positive = Field(1000, description="K, the number of words that L_d predicts.")


class FusionStep(nn.Module):
    """One step of an LSTM that attends to several sources, each with an attention of its own.

    Args:
        read: width of what it reads besides.
        sources: width of each source's vectors.
        width: D.
        attention: width inside the attentions.
    """

    def __init__(self, read: int, sources: Sequence[int], width: int, attention: int) -> None:
        super().__init__()
        self.attend = nn.ModuleList(
            AdditiveAttention(source, width, attention, torch.tanh) for source in sources
        )
        self.gates = nn.Linear(read + sum(sources), 4 * width)
        initialise_gates(width, self.gates)

    def forward(
        self, read: Tensor, sources: Sequence[Source], h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The next h and c, both (B, 1, D), and the attention (B, 1, N) to each source."""
        looks, seen = [], []
        for attend, (vectors, mask) in zip(self.attend, sources, strict=True):
            assert isinstance(attend, AdditiveAttention)
            looks.append(attend(h, attend.key(vectors), mask))
            seen.append(looks[-1] @ vectors)
        h, c = lstm_cell(self.gates(torch.cat([read, *seen], -1)), c)
        return h, c, looks


@register("rfnet")
class RfNet(StepwiseLstmDecoder):
    """The memory: the decoder's first state, C with its keys and its mask, and all B^(m).

    It also has the share of every region in every vector of C, as "looks" (B, T2, R).
    """

    Config = RfNetConfig
    reads_several_sets = True

    def __init__(self, config: RfNetConfig, dims: Dims) -> None:
        width, attention = config.width, config.attention
        super().__init__(dims.vocabulary, config.embedding, 4 * width, config.dropout)
        self.weight = config.discriminative_loss
        self.features = dims.features, *dims.further
        sets = len(self.features)
        self.first = nn.ModuleList(nn.Linear(size, width) for size in self.features)
        self.review = nn.ModuleList(  # all sets' first steps, then their second
            FusionStep(sets * width, [size], width, attention)
            for _ in range(config.review_steps)
            for size in self.features
        )
        self.fusion = nn.ModuleList(
            FusionStep(width, [width] * sets, width, attention) for _ in range(config.fusion_steps)
        )
        self.attend = AdditiveAttention(width, width, attention, torch.tanh)
        self.state_gates = StepLinear(2 * width, 4 * width, bias=False)
        initialise_gates(width, self.word_gates, self.state_gates)
        self.output = Output(width, dims.vocabulary)
        if self.weight:
            frequent = min(config.frequent, dims.vocabulary - len(SPECIALS))
            self.scores = nn.ModuleList(nn.Linear(width, frequent) for _ in range(sets + 1))

    def encode(self, batch: Batch) -> Tensors:
        """Both fusion stages."""
        thoughts, shares, h, c = self.review_sets(batch)
        there = torch.ones_like(thoughts[0][..., 0], dtype=torch.bool)
        fused, looks = [], []
        for step in self.fusion:
            h, c, weights = step(h, [(vectors, there) for vectors in thoughts], h, c)
            fused.append(h)
            parts = [look @ share for look, share in zip(weights, shares, strict=True)]
            looks.append(torch.stack(parts).mean(0))
        vectors = torch.cat(fused, 1)
        return {
            "h": h,
            "c": c,
            "vectors": vectors,
            "keys": self.attend.key(vectors),
            "mask": torch.ones_like(vectors[..., 0], dtype=torch.bool),
            "thoughts": torch.stack(thoughts, 1),
            "looks": torch.cat(looks, 1),
        }

    def review_sets(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Stage I.

        Each B^(m) (B, T1, D) and its attention to all regions (B, T1, R), which is 0 at those of
        other sets; and the means of the last h and c, (B, 1, D).
        """
        regions = batch.regions.to(self.output.weight.dtype)
        sources = [
            (regions[..., :size], batch.region_mask & (batch.region_sets == number))
            for number, size in enumerate(self.features)
        ]
        h = [
            first(masked_mean(*source))[:, None]
            for first, source in zip(self.first, sources, strict=True)
        ]
        c, sets = list(h), len(sources)
        thoughts: list[list[Tensor]] = [[] for _ in sources]
        shares: list[list[Tensor]] = [[] for _ in sources]
        for start in range(0, len(self.review), sets):
            read = torch.cat(h, -1)
            for m, step in enumerate(self.review[start : start + sets]):
                h[m], c[m], looks = step(read, [sources[m]], h[m], c[m])
                thoughts[m].append(h[m])
                shares[m].append(looks[0])
        return (
            [torch.cat(of_set, 1) for of_set in thoughts],
            [torch.cat(of_set, 1) for of_set in shares],
            torch.stack(h).mean(0),
            torch.stack(c).mean(0),
        )

    def supervised(
        self, memory: Tensors, batch: Batch, words: Words
    ) -> tuple[Tensor, Tensor | None]:
        """With the discriminative loss, unless it is off."""
        decoded = self.decode_words(memory, words)
        return decoded, self.own_loss(memory, batch.targets) if self.weight else None

    def own_loss(self, memory: Tensors, targets: Tensor) -> Tensor:
        """λ / (M + 1) (L_d(C) + Σ_m L_d(B^(m))), summed over captions (B, S, L)."""
        sets = [*memory["thoughts"].unbind(1), memory["vectors"]]
        pairs = zip(self.scores, sets, strict=True)
        scores = full_precision(torch.stack([layer(x).amax(1) for layer, x in pairs], 1))
        found = targets.new_zeros(*targets.shape[:2], self.output.out_features)
        found = found.scatter(-1, targets, 1)[..., len(SPECIALS) :][..., : scores.shape[-1]]
        occurs, order = found.sort(dim=-1, descending=True, stable=True)
        wanted = order.masked_fill(occurs == 0, -1)  # W, and -1 after its end
        wanted = wanted[:, :, None].expand(-1, -1, len(sets), -1)
        scores = scores[:, None].expand_as(wanted)
        loss = functional.multilabel_margin_loss(
            scores.flatten(0, 2), wanted.flatten(0, 2), reduction="sum"
        )
        return self.weight / len(sets) * loss

    def advance(self, memory: Tensors, word: Tensor, before: Tensors) -> Tensors:
        """Attention to C from h_{t-1}, then the LSTM."""
        weights = self.attend(before["h"], memory["keys"], memory["mask"])
        seen = weights @ memory["vectors"]
        gates = word + self.state_gates(torch.cat([seen, before["h"]], -1))
        h, c = lstm_cell(gates, before["c"])
        return {"h": h, "c": c, "weights": weights}

    def predict(self, memory: Tensors, words: Tensor, after: Tensors) -> Tensor:
        return self.dropout(after["h"])

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """The share of each region: that of the decoder's attention through both stages'.

        Sets have equal shares, as the second stage attends to each on its own.
        """
        weights = self.unroll(memory, Words.all(tokens))[1]["weights"]
        return {"regions": weights @ memory["looks"][:, None]}
