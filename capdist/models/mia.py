"""MIA: Mutual Iterative Attention (Liu et al., NeurIPS 2019), a component that any host takes.

Reads like the paper's section 2.2. The host embeds its regions I_0 and concepts T_0, both D wide,
has them refined before anything else reads them, and goes on with what comes back:

    Att(Q, K, V) = softmax(Q W^Q (K W^K)^T / sqrt(d_k)) V W^V, 8 heads                     (1)
    FFN(x) = max(0, x W_f + b_f) W_ff + b_ff                                               (2)
    I_n = FFN(MultiHead(T_{n-1}, I_{n-1}, I_{n-1}))                                        (3)
    T_n = FFN(MultiHead(I_n, T_{n-1}, T_{n-1}))                                            (4)
    MIA(I, T) = LayerNorm(I_N + T_N)                                                       (5)

Behind each sub-layer stand dropout, shortcut and layer normalisation. The shortcut around the
attention is its *value*, so that refined regions are made of regions alone and refined concepts of
concepts. One layer for regions and one for concepts serve all N iterations.

In the paper row j of one modality guides row j of the other, so there are as many concepts as
regions, 49. Here the numbers may differ: row j is guided by row j mod n of the n rows that the
image has of the other modality, and Eq. 5 adds the same row to it; where an image has none, it is
zeros. Hence refined regions are as many as the regions, and refined concepts as many as the
concepts; Eq. 5 exists once for each, and with equal numbers both are the paper's. Padding is never
a key, a guide or a summand.

Like any network that normalises behind its shortcuts it wants a warm-up and a modest rate: with
too high a one the feed-forward part outgrows its shortcut, and all rows become one.

The projections of Eq. 1 have biases. The official code normalises the regions once more behind
Eq. 3; the paper does not, nor is it done here.

The number of parameters at the paper's settings (D = 512): an attention 1.05 M, a feed-forward
2.10 M; two of both, 6.3 M.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from capdist.config.base import ConfigError, Positive, Section
from capdist.models.layers import AddNorm, FeedForward, MultiHeadAttention

Part = Literal["visual", "textual"]
OTHER: dict[Part, Part] = {"visual": "textual", "textual": "visual"}
MEMBER: dict[Part, str] = {"visual": "regions", "textual": "concepts"}


class MiaConfig(Section):
    """Mutual Iterative Attention as in its section 3.3."""

    name: Literal["mia"]
    iterations: Positive = Field(2, description="N.")
    output: Literal["both", "visual", "textual"] = Field(
        "both",
        description="What the host reads: Eq. 5 for regions and concepts, I* for regions alone, "
        "T* for concepts alone.",
    )
    start: Part = Field("textual", description="Which modality guides first (Table 5).")
    attention: Literal["mutual", "self"] = Field(
        "mutual", description="Guided by the other modality, or by itself (section 3.5)."
    )
    heads: Positive = Field(8, description="Heads; they must divide the host's width.")
    hidden: Positive = Field(2048, description="Width inside the feed-forward layers.")
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _guided(self) -> MiaConfig:
        if self.attention == "self" and self.start == "visual":
            raise ValueError("start visual: nothing guides attention self; leave start out")
        return self

    def updates(self) -> tuple[Part, ...]:
        """What each attention refines, in turn, without those that nothing reads."""
        turns = (OTHER[self.start], self.start) * self.iterations
        if self.output == "both":
            return turns
        if self.attention == "self":
            return tuple(part for part in turns if part == self.output)
        return turns if turns[-1] == self.output else turns[:-1]


class VisualMiaConfig(MiaConfig):
    """MIA in a host that reads regions alone."""

    output: Literal["both", "visual"] = Field("both", description="Eq. 5, or I*.")


class TextualMiaConfig(MiaConfig):
    """MIA in a host that reads it for concepts alone."""

    output: Literal["both", "textual"] = Field("both", description="Eq. 5, or T*.")


class Refine(nn.Module):
    """What a host puts behind its embeddings; this one changes nothing."""

    #: What the refined rows are made of, besides themselves: "regions", "concepts".
    reads: frozenset[str] = frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """The host's `CaptionModel.needs`, if it reads no concepts itself."""
        return self.reads & {"concepts"}

    def forward(
        self, regions: Tensor, region_mask: Tensor, concepts: Tensor, concept_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, R, D) regions and (B, A, D) concepts, refined; the masks hold for both.

        Masks (B, R) and (B, A) are True for the rows that are there, which come first.
        """
        return regions, concepts


def refiner(config: MiaConfig | None, width: int) -> Refine:
    """What ``refine`` in a host's section says; None changes nothing.

    Raises:
        ConfigError: if the heads do not divide the host's width.
    """
    if config is None:
        return Refine()
    if width % config.heads:
        raise ConfigError(
            f"model.refine.heads: {config.heads} heads do not divide the model's width {width}; "
            "choose others"
        )
    return Mia(config, width)


class Mia(Refine):
    """I*, T* or MIA(I, T), in place of what comes in."""

    def __init__(self, config: MiaConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.updates = config.updates()
        refined = sorted(set(self.updates))
        self.layers = nn.ModuleDict({part: AttentionLayer(config, width) for part in refined})
        if config.output == "both":
            self.norm = nn.LayerNorm(width)
        guides = [OTHER[part] for part in refined if config.attention == "mutual"]
        self.reads = frozenset(MEMBER[part] for part in [*refined, *guides])

    def forward(
        self, regions: Tensor, region_mask: Tensor, concepts: Tensor, concept_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Eq. 3 to 5, and how they begin and end by the config."""
        rows: dict[Part, Tensor] = {"visual": regions, "textual": concepts}
        masks: dict[Part, Tensor] = {"visual": region_mask, "textual": concept_mask}

        def opposite(part: Part) -> Tensor:
            return counterparts(rows[OTHER[part]], masks[OTHER[part]], rows[part].shape[1])

        for part in self.updates:
            guide = opposite(part) if self.config.attention == "mutual" else rows[part]
            rows[part] = self.layers[part](guide, rows[part], masks[part])
        match self.config.output:
            case "visual":
                return rows["visual"], concepts
            case "textual":
                return regions, rows["textual"]
            case "both":
                visual, textual = (self.norm(rows[part] + opposite(part)) for part in rows)
                return visual, textual


class AttentionLayer(nn.Module):
    """FFN(MultiHead(Q, V, V)) of Eq. 3 and 4, with the shortcuts around V and the FFN."""

    def __init__(self, config: MiaConfig, width: int) -> None:
        super().__init__()
        self.attend = MultiHeadAttention(width, config.heads, config.dropout)
        self.norm_attended = AddNorm(width, config.dropout)
        self.feed_forward = FeedForward(width, config.hidden)
        self.norm = AddNorm(width, config.dropout)

    def forward(self, guide: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Guides and values (B, N, D); ``mask`` (B, N) says which values are there."""
        attended = self.attend(guide, *self.attend.project(value), mask[:, None])
        x = self.norm_attended(attended, value)
        return self.norm(self.feed_forward(x), x)


def counterparts(source: Tensor, mask: Tensor, rows: int) -> Tensor:
    """(B, rows, D): for row j, row j mod n of the n of (B, N, D) that are there; zeros if n = 0."""
    count = mask.sum(1, keepdim=True)
    place = torch.arange(rows, device=mask.device) % count.clamp(min=1)
    chosen = source.gather(1, place[..., None].expand(-1, -1, source.shape[-1]))
    return chosen.masked_fill((count == 0)[..., None], 0)
