"""GLIED: Global-and-Local Information Exploring-and-Distilling (Liu et al., IJCAI 2019).

It follows the paper's section 3. With all three switches off it is the paper's cross-modal base
model; the switches give the six rows of its Table 4.

Parameters at the paper's settings (V = 9,487 words, F = 2048, D = 512, embedding 256):

    word table 2.43 M + its projection 0.13 M + region projection 1.05 M + output 4.87 M = 8.48 M
    an attention 1.05 M, a feed-forward 2.10 M
    base   8.48 + H_x 1.05 + H_v=a 1.05 + F 2.10                             = 12.7 M (paper 12.3)
    GLIED  base + H_vd 1.05 + its F 2.10 + H_ad 1.05 + H_vl=al 1.05          = 17.9 M (paper 18.3)

The paper's figures are its own estimates. A feed-forward after Eq. 11 would make GLIED 20.0 M, so
c_l goes to the output layer directly, as the text below Eq. 11 says.

I may be the regions of several feature sets, one after the other, each set with a projection and a
learned vector of its own; the paper has one set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import CaptionModel, Dims, ModelConfig, State, register
from capdist.models.layers import (
    AddNorm,
    Dropout,
    FeedForward,
    MultiHeadAttention,
    RegionEmbedding,
    WordEmbedding,
    positions,
)
from capdist.models.output import Output
from capdist.words import Words


class GliedConfig(ModelConfig):
    """The paper's section 4.2; the switches are the rows of its Table 4."""

    name: Literal["glied"]
    width: int = Field(512, description="D, the model's width.")
    embedding: int = Field(256, description="Width of the word and attribute table.")
    heads: int = Field(
        8, description="Heads of every attention but the cross-modal ones, which have one."
    )
    hidden: int = Field(2048, description="Width inside the feed-forward layers.")
    dropout: float = Field(0.1, ge=0, lt=1)
    global_visual: bool = Field(True, description="Global visual distilling, Eq. 7.")
    global_attribute: bool = Field(True, description="Global attribute distilling, Eq. 8.")
    local: bool = Field(True, description="Local cross-modal distilling, Eq. 11.")


@dataclass(frozen=True)
class Projected:
    """Keys and values of an attention (B, N, D), and their mask (B, 1, N).

    Queries are (B, Q, D), or (T, D) of ``words``.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor
    words: Words | None = None


#: Keys and values of the attentions over the image, by attention and source.
GliedMemory = dict[str, Projected]


class Transform(nn.Module):
    """Eq. 5: G(G(F(c), c), x), the feed-forward with the original input as second shortcut."""

    def __init__(self, config: GliedConfig) -> None:
        super().__init__()
        self.feed_forward = FeedForward(config.width, config.hidden)
        self.inner = AddNorm(config.width, config.dropout)
        self.outer = AddNorm(config.width, config.dropout)

    def forward(self, c: Tensor, x: Tensor) -> Tensor:
        """Both (..., D)."""
        return self.outer(self.inner(self.feed_forward(c), c), x)


@register("glied")
class Glied(CaptionModel[GliedMemory]):
    """GLIED, or its base model, by the switches of its config."""

    Config = GliedConfig
    needs: ClassVar[frozenset[str]] = frozenset({"concepts"})
    reads_several_sets = may_lack_sets = True

    def __init__(self, config: GliedConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        width, heads, dropout = config.width, config.heads, config.dropout
        self.words = WordEmbedding(dims.vocabulary, config.embedding, width)
        self.regions = RegionEmbedding((dims.features, *dims.further), width)
        self.dropout = Dropout(dropout)
        self.attend_x = MultiHeadAttention(width, heads, dropout)
        self.norm_x = AddNorm(width, dropout)
        self.attend_cross = MultiHeadAttention(width, 1, dropout)
        self.norm_cross = AddNorm(width, dropout)
        self.transform = Transform(config)
        if config.global_visual:
            self.attend_vd = MultiHeadAttention(width, heads, dropout)
            self.norm_vd = AddNorm(width, dropout)
            self.transform_vd = Transform(config)
        if config.global_attribute:
            self.attend_ad = MultiHeadAttention(width, heads, dropout)
            self.norm_ad = AddNorm(width, dropout)
        if config.local:
            self.attend_local = MultiHeadAttention(width, 1, dropout)
            self.norm_local = AddNorm(width, dropout)
        self.output = Output(width, dims.vocabulary)

    def encode(self, batch: Batch) -> GliedMemory:
        """Keys and values of I and A for every attention; they are the same at every step."""
        regions = self.regions(batch.regions, batch.region_sets)
        attributes = self.words(batch.concepts)
        region_mask, concept_mask = batch.region_mask[:, None], batch.concept_mask[:, None]
        visual = self.distil_visual(regions, region_mask)
        sources = {"visual": (self.attend_cross, visual, region_mask)}
        if self.config.global_attribute:
            sources["collocation"] = (self.attend_ad, attributes, concept_mask)
        else:
            sources["attribute"] = (self.attend_cross, attributes, concept_mask)
        if self.config.local:
            sources["local_visual"] = (self.attend_local, regions, region_mask)
            sources["local_attribute"] = (self.attend_local, attributes, concept_mask)
        return {
            name: Projected(*attend.project(source), mask)
            for name, (attend, source, mask) in sources.items()
        }

    def distil_visual(self, regions: Tensor, mask: Tensor) -> Tensor:
        """Ĩ = G(H_vd(I, I, I), I) (Eq. 7), then Eq. 5; (B, R, D)."""
        if not self.config.global_visual:
            return regions
        attended = self.attend_vd(regions, *self.attend_vd.project(regions), mask)
        return self.transform_vd(self.norm_vd(attended, regions), regions)

    def distil_attributes(self, memory: GliedMemory, x: Tensor) -> Tensor:
        """t̃ = G(H_ad(x, A, A), x) (Eq. 8): collocations around the input word; as x."""
        if not self.config.global_attribute:
            return x
        return self.norm_ad(_attend(self.attend_ad, x, memory["collocation"]), x)

    def aspect(self, memory: GliedMemory, context: Tensor, x: Tensor) -> Tensor:
        """The aspect vector c̃ of caption context x̃, both as x.

        c = G(H_v(x̃, Ĩ, Ĩ) [+ H_a(x̃, A, A)], x̃) (Eq. 10, or Eq. 4 where attributes were not
        distilled already), then Eq. 5.
        """
        attended = _attend(self.attend_cross, context, memory["visual"])
        if not self.config.global_attribute:
            attended = attended + _attend(self.attend_cross, context, memory["attribute"])
        return self.transform(self.norm_cross(attended, context), x)

    def distil_local(self, memory: GliedMemory, aspect: Tensor) -> Tensor:
        """c_l = G(H_vl(c̃_g, I, I) + H_al(c̃_g, A, A), c̃_g) (Eq. 11); as c̃_g."""
        if not self.config.local:
            return aspect
        attended = _attend(self.attend_local, aspect, memory["local_visual"])
        attended = attended + _attend(self.attend_local, aspect, memory["local_attribute"])
        return self.norm_local(attended, aspect)

    def states(self, memory: GliedMemory, words: Words) -> Tensor:
        """What Eq. 6 reads."""
        memory = {name: replace(source, words=words) for name, source in memory.items()}
        x, context = self._context(memory, words)
        return self.distil_local(memory, self.aspect(memory, context, x))

    def start(self, memory: GliedMemory, beams: int, length: int) -> State[GliedMemory]:
        """Empty caches of the self-attention's keys and values, (B, length, K, D)."""
        keys = memory["visual"].keys
        shape = (len(keys), length, beams, self.config.width)
        return State(
            memory,
            written={name: keys.new_zeros(shape) for name in ("k", "v")},
            ancestors=keys.new_zeros((len(keys), beams, length, beams), dtype=torch.bool),
        )

    def decode_word(
        self, state: State[GliedMemory], token: Tensor
    ) -> tuple[Tensor, State[GliedMemory]]:
        """One position of `states`, with x̃ (Eq. 3 or 9) from the keys written so far.

        Keys of all hypotheses of an image are stored together; ``ancestors`` masks each one's own.
        """
        memory, position = state.memory, state.position
        x = self._embed(token, positions(position, 1, self.config.width, token.device))
        t = self.distil_attributes(memory, x)
        keys, values, ancestors = state.written["k"], state.written["v"], state.ancestors
        assert ancestors is not None
        keys[:, position], values[:, position] = self.attend_x.project(t)
        ancestors[:, :, position] = torch.eye(token.shape[1], dtype=torch.bool, device=token.device)
        so_far = slice(position + 1)
        attended = self.attend_x(
            t,
            keys[:, so_far].flatten(1, 2),
            values[:, so_far].flatten(1, 2),
            ancestors[:, :, so_far].flatten(2),
        )
        context = self.norm_x(attended, t)
        decoded = self.distil_local(memory, self.aspect(memory, context, x))
        return decoded, replace(state, position=position + 1)

    def attention(self, memory: GliedMemory, tokens: Tensor) -> dict[str, Tensor]:
        """Weights of every stage before each word; "regions" and "concepts" are the last stage's.

        "regions/global": H_v of Eq. 10 or 4, over the rows of Ĩ, each of which stands for the group
        of regions that `groups` returns; "concepts/global": H_ad of Eq. 8, or H_a of Eq. 4;
        "regions/local" and "concepts/local": H_vl and H_al of Eq. 11.
        """
        words = Words.all(tokens)
        of_words = {name: replace(source, words=words) for name, source in memory.items()}
        x, context = self._context(of_words, words)
        stages = {"regions/global": (self.attend_cross, context, memory["visual"])}
        if self.config.global_attribute:
            stages["concepts/global"] = (self.attend_ad, x, memory["collocation"])
        else:
            stages["concepts/global"] = (self.attend_cross, context, memory["attribute"])
        if self.config.local:
            aspect = self.aspect(of_words, context, x)
            stages["regions/local"] = (self.attend_local, aspect, memory["local_visual"])
            stages["concepts/local"] = (self.attend_local, aspect, memory["local_attribute"])
        weights = {
            name: attend.weights(
                words.pad(query).flatten(1, 2), source.keys, source.mask
            ).unflatten(1, tokens.shape[1:])
            for name, (attend, query, source) in stages.items()
        }
        last = "local" if self.config.local else "global"
        return weights | {name: weights[f"{name}/{last}"] for name in ("regions", "concepts")}

    def groups(self, batch: Batch) -> Tensor:
        """(B, R, R) the weights of H_vd (Eq. 7): the regions that each row of Ĩ is made of."""
        regions = self.regions(batch.regions, batch.region_sets)
        mask = batch.region_mask
        if not self.config.global_visual:
            return torch.diag_embed(mask.to(regions.dtype))
        return self.attend_vd.weights(regions, self.attend_vd.project(regions)[0], mask[:, None])

    def _context(self, memory: GliedMemory, words: Words) -> tuple[Tensor, Tensor]:
        """Input x and x̃ = G(H_x(t̃, T̃, T̃), t̃) (Eq. 9; Eq. 3 where t̃ = x), (T, D)."""
        table = positions(0, words.shape[2], self.config.width, words.tokens.device)
        x = self._embed(words.tokens, table[words.positions])
        t = self.distil_attributes(memory, x)
        return x, self.norm_x(self.attend_x.among_words(t, words), t)

    def _embed(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(..., D) of words (...) and the sinusoids (..., D) of their positions."""
        words = self.words(tokens)
        return self.dropout(words + position.to(words.dtype))


def _attend(attend: MultiHeadAttention, query: Tensor, source: Projected) -> Tensor:
    """The output of an attention over regions or concepts, as the queries."""
    if source.words is None:
        return attend(query, source.keys, source.values, source.mask)
    return attend.of_words(query, source.keys, source.values, source.mask, source.words)
