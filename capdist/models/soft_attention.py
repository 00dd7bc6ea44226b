"""Soft and hard attention: "Show, Attend and Tell" (Xu et al., ICML 2015), on region features.

    v_i  = ReLU(W_v a_i)
    h_0  = tanh(W_h0 mean(V))        c_0 = tanh(W_c0 mean(V))
    h_t  = LSTM([E y_{t-1}; ẑ_t], h_{t-1})                                       (1) to (3)
    e_ti = w^T tanh(W_a v_i + W_h h_{t-1})                                              (4)
    α_t  = softmax(e_t)                                                                 (5)
    ẑ_t  = φ(V, α_t)                                                                    (6)
    p_t  = softmax(L_o (E y_{t-1} + L_h h_t + L_z ẑ_t))                                 (7)

Soft attention takes the expectation, φ = β_t Σ_i α_ti v_i with β_t = σ(w_β^T h_{t-1}) (Eq. 13,
section 4.2.1). Hard attention samples, φ = v_s with s drawn from α_t (Eq. 8 and 9).

Deviations from the paper: regions are embedded first, as in Lu et al. (CVPR 2017). Words, regions
and the output's inputs go through dropout. Eq. 14's penalty on weights that do not cover the image
is not part of the loss.

Hard attention is trained by REINFORCE, the paper's estimator (Eq. 12), where a stage has a section
``reinforce`` (see `capdist.losses.stochastic_attention`), else with the straight-through estimator
(Bengio et al., 2013): a region is drawn, and the gradient is that of the expectation, which is
biased. Outside of training, hard attention takes the most likely region, so that captions are
deterministic.

Parameters of soft attention at GLIED's settings (V = 9,487 words, F = 2048, D = 512, embedding 256;
hard attention has no w_β, 513 parameters fewer):

                            Eq. 7    from h_t alone (``deep_output`` off)
    word table             2.43 M    2.43 M
    W_v                    1.05 M    1.05 M
    W_h0 and W_c0          0.53 M    0.53 M
    attention, Eq. 4       0.53 M    0.53 M
    LSTM                   2.62 M    2.62 M
    output                 2.70 M    4.87 M
                            9.9 M    12.0 M (GLIED's Table 2 estimates 12.1)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import AdditiveAttention, masked_mean
from capdist.models.lstm_decoders import Tensors, initialise_gates, lstm_cell
from capdist.models.output import Output
from capdist.models.prophet import ProphetConfig, ProphetHost, prophet
from capdist.models.step_linear import StepLinear
from capdist.words import Words


class ShowAttendTellSizes(ModelConfig):
    """Sizes as in GLIED's comparison."""

    width: int = Field(512, description="D, of regions and state.")
    embedding: int = Field(256, description="Width of the word table.")
    attention: int = Field(512, description="Width inside the attention.")
    deep_output: bool = Field(
        True, description="Predict from word, state and image (Eq. 7); else from the state alone."
    )
    dropout: float = Field(0.5, ge=0, lt=1)


class SoftAttentionConfig(ShowAttendTellSizes):
    """Soft attention."""

    name: Literal["soft_attention"]
    prophet: ProphetConfig | None = Field(None, description="Prophet attention as a loss.")


class HardAttentionConfig(ShowAttendTellSizes):
    """Hard attention."""

    name: Literal["hard_attention"]


class ShowAttendTell(ProphetHost):
    """All but φ. The memory: h_0 and c_0, and V with its mask and its keys W_a V."""

    def __init__(self, config: ShowAttendTellSizes, dims: Dims) -> None:
        width, embedding = config.width, config.embedding
        future = config.prophet if isinstance(config, SoftAttentionConfig) else None
        super().__init__(dims.vocabulary, embedding, 4 * width, config.dropout)
        self.deep = config.deep_output
        self.regions = nn.Linear(dims.features, width)
        self.first = nn.Linear(width, 2 * width)
        self.attend = AdditiveAttention(width, width, config.attention, torch.tanh)
        self.prophet = prophet(future, embedding, width)
        self.state_gates = StepLinear(2 * width, 4 * width, bias=False)
        initialise_gates(width, self.word_gates, self.state_gates)
        if self.deep:
            self.from_state = nn.Linear(width, embedding)
            self.from_image = nn.Linear(width, embedding, bias=False)
        self.output = Output(embedding if self.deep else width, dims.vocabulary)

    @abstractmethod
    def glimpse(self, weights: Tensor, memory: Tensors, h: Tensor) -> Tensors:
        """ẑ_t (Eq. 6) as "z" (B, K, D), of α_t (B, K, R), V in the memory and h_{t-1} (B, K, D)."""

    def encode(self, batch: Batch) -> Tensors:
        """V, h_0 and c_0."""
        regions = self.regions(batch.regions.to(self.regions.weight.dtype))
        regions = self.dropout(regions.relu())
        first = self.first(masked_mean(regions, batch.region_mask)).tanh()
        h, c = first[:, None].chunk(2, -1)
        keys = self.attend.key(regions)
        return {"h": h, "c": c, "regions": regions, "keys": keys, "mask": batch.region_mask}

    def advance(self, memory: Tensors, word: Tensor, before: Tensors) -> Tensors:
        """Attention from h_{t-1}, then the LSTM (Eq. 1 to 6)."""
        weights = self.look(memory, before["h"])
        seen = self.glimpse(weights, memory, before["h"])
        gates = word + self.state_gates(torch.cat([seen["z"], before["h"]], -1))
        h, c = lstm_cell(gates, before["c"])
        return {"h": h, "c": c, "weights": weights, **seen}

    def predict(self, memory: Tensors, words: Tensor, after: Tensors) -> Tensor:
        """Eq. 7 before its softmax."""
        inputs = after["h"]
        if self.deep:
            inputs = words + self.from_state(inputs) + self.from_image(after["z"])
        return self.dropout(inputs)

    def attention(self, memory: Tensors, tokens: Tensor) -> Tensors:
        """α_t; for hard attention, the probability of drawing each region."""
        return {"regions": self.unroll(memory, Words.all(tokens))[1]["weights"]}


@register("soft_attention")
class SoftAttention(ShowAttendTell):
    """Section 4.2."""

    Config = SoftAttentionConfig

    def __init__(self, config: SoftAttentionConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.gate = nn.Linear(config.width, 1)

    def glimpse(self, weights: Tensor, memory: Tensors, h: Tensor) -> Tensors:
        """β_t Σ_i α_ti v_i."""
        return {"z": self.gate(h).sigmoid() * (weights @ memory["regions"])}


@dataclass(frozen=True)
class Drawn:
    """Captions with drawn regions.

    ``logits`` (T, V) after each word; ``log_choice`` (T,), the log-probability of each drawn
    region; ``entropy`` (T,) of the attention.
    """

    logits: Tensor
    log_choice: Tensor
    entropy: Tensor


@register("hard_attention")
class HardAttention(ShowAttendTell):
    """Section 4.1."""

    Config = HardAttentionConfig

    def glimpse(self, weights: Tensor, memory: Tensors, h: Tensor) -> Tensors:
        """v_s: the value of one region, with the gradient of Σ_i α_ti v_i, or none if it is drawn.

        "chosen" (B, K, 1) is s.
        """
        chosen = self.choose(weights)
        one = torch.zeros_like(weights).scatter(-1, chosen, 1.0)
        if "expected" in memory:
            one = torch.where(memory["expected"], weights, one)
        else:
            # The value of the bracket is exactly zero; its gradient is that of the weights.
            one = one + (weights - weights.detach())
        return {"z": one @ memory["regions"], "chosen": chosen}

    def choose(self, weights: Tensor) -> Tensor:
        """S (B, K, 1): drawn from α_t (B, K, R) in training, else the most likely region."""
        if not self.training:
            return weights.argmax(-1, keepdim=True)
        return weights.flatten(0, 1).float().multinomial(1).view(*weights.shape[:2], 1)

    def draw(self, memory: Tensors, words: Words, expected: Tensor) -> Drawn:
        """Captions with drawn regions, which have no gradient.

        Where ``expected`` (B,) is True, the model reads the expectation over regions instead.
        """
        embedded, steps = self.unroll({**memory, "expected": expected[:, None, None]}, words)
        weights = words.pick(steps["weights"]).float().clamp(min=torch.finfo(torch.float32).tiny)
        log_p = weights.log()
        chosen = log_p.gather(-1, words.pick(steps["chosen"]))[..., 0]
        logits = self.output(words.pick(self.predict(memory, embedded, steps)))
        return Drawn(logits, chosen, -(weights * log_p).sum(-1))
