"""Neural Baby Talk (Lu et al., CVPR 2018): words of the vocabulary, and words of regions.

Every word is either textual, from the decoder, or visual: the decoder points at a region, and the
region's class gives the word. A visual sentinel r̃ says which (section 3). With v_i made of a
region's features, its place and its classes, and h_t the state of Up-Down's language LSTM, whose
input is x_t and whose cell is c_t:

    s_t = σ(W_x x_t + W_h h_{t-1}) ⊙ tanh(c_t)
    u_i = w^T tanh(W_v v_i + W_z h_t)          u_r̃ = w^T tanh(W_s s_t + W_z h_t)
    P_r = softmax([u_1; ...; u_R; u_r̃])
    P(textual word) = P_r(r̃) softmax(W_q h_t)
    P(visual word) = Σ_i P_r(i) Σ_b P(b | i) P(word | class of i, b)
    P(b | i) = softmax(W_b ReLU(W_f [v_i; h_t]))

b is the form of the word: in the paper singular or plural, and which fine-grained class. Training
knows from the annotation which words are visual, and regions with an IoU above 0.5:

    L = -Σ_t log P(word)  -  Σ_textual log P_r(r̃)  -  Σ_visual log (1/m Σ_i P_r(i))

over the m regions of the word's object. The paper's likelihood has these factors in one term; in
the first one here the sum runs over all regions and both kinds of words, as it does when a caption
is written.

The paper reads the words of a class, their plurals and its fine-grained classes from a dictionary
made by hand. Shards have none, so P(word | class, b) is a table that is learned, with
``forms`` rows for every class, and the class of a region is the detector's distribution p_i over
classes (the member classes). A region's classes are embedded by a table, the paper's by GloVe.
Filling the slots by other detectors, for objects that captions do not name, is left out.

Parameters at these sizes (V = 8,639 words, F = 2048, 480 classes): 59.6 M, of which the table of
words has 8.3 M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import Dims, ModelConfig, register
from capdist.models.layers import full_precision, masked_softmax
from capdist.models.objects import matches, word_rows
from capdist.models.output import Output, weighted_nll
from capdist.models.updown import Cells, UpDown, UpDownMemory, UpDownSizes
from capdist.words import Words


class NeuralBabyTalkConfig(UpDownSizes):
    """Sizes as in the authors' code."""

    name: Literal["neural_baby_talk"]
    width: int = Field(1024, description="D, of both LSTMs.")
    embedding: int = Field(512, description="Width of the word table.")
    regions: int = Field(1024, description="Width of v.")
    place: int = Field(300, description="Width of embedded boxes, and of embedded classes.")
    forms: int = Field(2, ge=2, description="Forms b of every class's words.")
    pointer_loss: float = Field(
        1.0, ge=0, description="Weight of the losses on P_r; 0: the annotation is not read."
    )
    iou: float = Field(0.5, ge=0, lt=1, description="A region shows an object above this IoU.")


@dataclass(frozen=True, kw_only=True)
class NeuralBabyTalkMemory(UpDownMemory):
    """Up-Down's, with W_v v (B, R, H), W_f v (B, R, H) and the classes p (B, R, K)."""

    pointers: Tensor
    forms: Tensor
    classes: Tensor


class Mixture(Output):
    """Log P of every word, of states [h_t; P_r(r̃); P(visual word)], (..., D + 1 + V)."""

    def forward(
        self,
        states: Tensor,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
        smoothing: float = 0.0,
        never: Sequence[int] = (),
    ) -> Tensor:
        """As `Output.forward`, but with all words' log-probabilities at a time."""
        h, text, visual = states.split((self.in_features, 1, self.out_features), -1)
        textual = super().forward(h.to(self.weight.dtype))
        p = text * full_precision(textual).softmax(-1) + visual
        log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
        if targets is None:
            return log_p
        return weighted_nll(log_p, targets, weights, smoothing, never)


@register("neural_baby_talk")
class NeuralBabyTalk(UpDown):
    """Up-Down that predicts the mixture; its logits are log-probabilities.

    The state also has the sentinel s_t, "sentinel" (B, K, D).
    """

    Config: ClassVar[type[ModelConfig]] = NeuralBabyTalkConfig
    output_type: ClassVar[type[Output]] = Mixture

    def __init__(self, config: NeuralBabyTalkConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.config = config
        width, region, hidden = config.width, config.regions, config.attention
        self.place = nn.Linear(4, config.place)
        self.class_table = nn.Embedding(dims.classes, config.place)
        self.merge = nn.Linear(region + 2 * config.place, region)
        self.sentinel = nn.Linear(region + 2 * width, width)  # W_x and W_h
        self.pointer_region = nn.Linear(region, hidden, bias=False)  # W_v
        self.pointer_sentinel = nn.Linear(width, hidden, bias=False)  # W_s
        self.pointer_state = nn.Linear(width, hidden)  # W_z
        self.pointer = nn.Linear(hidden, 1, bias=False)  # w
        self.form_region = nn.Linear(region, hidden, bias=False)  # W_f
        self.form_state = nn.Linear(width, hidden)
        self.form = nn.Linear(hidden, config.forms)  # W_b
        self.class_words = nn.Parameter(torch.randn(config.forms, dims.classes, dims.vocabulary))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"classes"})

    @property
    def supervision(self) -> frozenset[str]:
        """Grounding, unless the losses on P_r are off."""
        pointer = frozenset({"grounding"} if self.config.pointer_loss else ())
        return super().supervision | pointer

    def encode(self, batch: Batch) -> NeuralBabyTalkMemory:
        """Up-Down's memory of v, and what the pointer reads of v."""
        memory = super().encode(batch)
        return NeuralBabyTalkMemory(
            **vars(memory),
            pointers=self.pointer_region(memory.regions),
            forms=self.form_region(memory.regions),
            classes=self._classes(batch).to(memory.regions.dtype),
        )

    def advance(
        self, memory: UpDownMemory, word: Tensor, before: Cells, weights: Tensor | None = None
    ) -> tuple[Cells, Tensor]:
        """Up-Down's states and s_t."""
        cells, used = super().advance(memory, word, before, weights)
        inputs = torch.cat([used @ memory.regions, cells["h1"], before["h2"]], -1)
        sentinel = self.sentinel(inputs).sigmoid() * cells["c2"].tanh()
        return {**cells, "sentinel": sentinel}, used

    def hidden(self, cells: Cells) -> Tensor:
        """h_t and s_t, (B, K, 2 D)."""
        return torch.cat([cells["h2"], cells["sentinel"]], -1)

    def predict(self, memory: UpDownMemory, hidden: Tensor) -> Tensor:
        """What `Mixture` reads."""
        return self._words(self._pointed(memory, self.dropout(hidden)))

    def predict_words(self, memory: UpDownMemory, words: Words, hidden: Tensor) -> Tensor:
        return self._words(self.by_word(self._pointed, memory, words, self.dropout(hidden)))

    def _pointed(self, memory: UpDownMemory, hidden: Tensor) -> Tensor:
        """[h_t; P_r(r̃); the classes in every form that it points at], (B, N, D + 1 + forms · K)."""
        assert isinstance(memory, NeuralBabyTalkMemory)
        h, pointer = hidden.chunk(2, -1)[0], self.point(memory, hidden)
        forms = (memory.forms[:, None] + self.form_state(h)[:, :, None]).relu()
        # P_r(i) P(b | i), form by form; then the classes that it points at.
        pointed = pointer[..., :-1, None] * full_precision(self.form(forms)).softmax(-1)
        classes = pointed.transpose(-2, -1) @ full_precision(memory.classes)[:, None]
        return torch.cat([h, pointer[..., -1:], classes.flatten(-2)], -1)

    def _words(self, pointed: Tensor) -> Tensor:
        """The words of the classes, in the place of these."""
        split = self.width + 1
        words = full_precision(self.class_words).softmax(-1).flatten(0, 1)
        return torch.cat([pointed[..., :split], pointed[..., split:] @ words], -1)

    def point(self, memory: UpDownMemory, hidden: Tensor) -> Tensor:
        """P_r (B, N, R + 1), the sentinel last, of `hidden` (B, N, 2 D)."""
        assert isinstance(memory, NeuralBabyTalkMemory)
        h, sentinel = hidden.chunk(2, -1)
        state = self.pointer_state(h)
        regions = self.pointer((memory.pointers[:, None] + state[:, :, None]).tanh())[..., 0]
        text = self.pointer((self.pointer_sentinel(sentinel) + state).tanh())
        mask = torch.cat([memory.mask, memory.mask.new_ones(len(h), 1)], -1)
        return masked_softmax(full_precision(torch.cat([regions, text], -1)), mask[:, None])

    def own_loss(
        self, memory: UpDownMemory, batch: Batch, words: Words, hidden: Tensor, weights: Tensor
    ) -> Tensor | None:
        """The losses on P_r, and the prophet's if there is one."""
        prophet = super().own_loss(memory, batch, words, hidden, weights)
        if not self.config.pointer_loss:
            return prophet
        assert isinstance(memory, NeuralBabyTalkMemory)
        pointer = self.by_word(self.point, memory, words, self.dropout(hidden))
        shown = words.pick(self._shown(batch, pointer.dtype))
        visual = (pointer[..., :-1] * shown).sum(-1) / shown.sum(-1).clamp(min=1)
        p = torch.where(shown.any(-1), visual, pointer[..., -1])
        nll = -p.clamp(min=torch.finfo(p.dtype).tiny).log()
        loss = self.config.pointer_loss * nll.sum()
        return loss if prophet is None else loss + prophet

    def attention(self, memory: UpDownMemory, tokens: Tensor) -> dict[str, Tensor]:
        """Where each word points if it is visual, and α_t, "regions/attention"."""
        words = Words.all(tokens)
        hidden, weights = self.unroll(memory, words)
        pointer = self.by_word(self.point, memory, words, hidden)[..., :-1]
        pointer = pointer / pointer.sum(-1, keepdim=True).clamp(min=torch.finfo(pointer.dtype).tiny)
        pointer, weights = words.pad(pointer), words.pad(weights)
        return {"regions": pointer, "regions/pointer": pointer, "regions/attention": weights}

    def _regions(self, batch: Batch) -> Tensor:
        """The rows v (B, R, F')."""
        regions = super()._regions(batch)
        place = self.place(batch.boxes.to(regions.dtype)).relu()
        kinds = self.class_table(batch.class_ids) * self._shares(batch)[..., None].to(regions.dtype)
        parts = torch.cat([regions, place, kinds.sum(2)], -1)
        return self.dropout(self.merge(parts).relu())

    def _shares(self, batch: Batch) -> Tensor:
        """The probabilities (B, R, T) of the classes that are kept, which sum to one."""
        probs = batch.class_probs
        return probs / probs.sum(-1, keepdim=True).clamp(min=torch.finfo(probs.dtype).tiny)

    def _classes(self, batch: Batch) -> Tensor:
        """The distribution p (B, R, K)."""
        shares = self._shares(batch)
        dense = shares.new_zeros(*shares.shape[:2], self.class_table.num_embeddings)
        return dense.scatter_add(-1, batch.class_ids, shares)

    def _shown(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """(B, S, L, R): 1 for regions that show the object that a target names."""
        found = matches(batch, self.config.iou).to(dtype)
        flat = found.new_zeros(len(found), batch.targets[0].numel(), found.shape[-1])
        shown = flat.scatter_add(1, word_rows(batch, found.shape[-1]), found).clamp(max=1)
        return shown.unflatten(1, batch.targets.shape[1:])

    def _zeros(self, memory: UpDownMemory, beams: int) -> Cells:
        cells = super()._zeros(memory, beams)
        return {**cells, "sentinel": cells["h2"]}
