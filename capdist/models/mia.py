"""MIA: Mutual Iterative Attention (Liu et al., NeurIPS 2019), a component for any host model.

It follows the paper's section 2.2. The host embeds its regions I_0 and concepts T_0, both D wide,
MIA refines them, and the host reads nothing but the refined ones:

    Att(Q, K, V) = softmax(Q W^Q (K W^K)^T / sqrt(d_k)) V W^V, 8 heads                     (1)
    FFN(x) = max(0, x W_f + b_f) W_ff + b_ff                                               (2)
    I_n = FFN(MultiHead(T_{n-1}, I_{n-1}, I_{n-1}))                                        (3)
    T_n = FFN(MultiHead(I_n, T_{n-1}, T_{n-1}))                                            (4)
    MIA(I, T) = LayerNorm(I_N + T_N)                                                       (5)

Dropout, shortcut and layer normalisation follow each sub-layer. The shortcut around the attention
is its *value*, so that refined regions are made of regions only and refined concepts of concepts.
One layer for regions and one for concepts serve all N iterations.

In the paper row j of one modality guides row j of the other, so there are as many concepts as
regions, 49. Here the numbers may differ: row j is guided by row j mod n of the n rows that the
image has of the other modality, and Eq. 5 adds the same row to it; zeros if the image has none.
Hence there are as many refined regions as regions, and as many refined concepts as concepts; Eq. 5
is computed for both, and with equal numbers both are the paper's. Padding is never a key, a guide
or a summand.

The official code normalises the regions once more, I_n = LayerNorm(FFN(...) + I_{n-1}), which the
paper does not say (``outer_norm``). A learning rate that suits the host may be too high for these
layers: the feed-forward part outgrows its shortcut. Without that norm, all rows become equal; with
it, rows stay distinct, but the host learns slowly. A lower rate for ``refine.*`` mends it.
As in that code, the projections of Eq. 1 have biases, and W^Q, W^K and W^V are initialised by
N(0, 2 / (D + d_k)).

Parameters at the paper's settings (D = 512): an attention 1.05 M, a feed-forward 2.10 M; two of
both, 6.3 M.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from capdist.config.base import ConfigError, Positive, Section
from capdist.models.layers import AddNorm, FeedForward, MultiHeadAttention

Modality = Literal["visual", "textual"]
OTHER: dict[Modality, Modality] = {"visual": "textual", "textual": "visual"}
MEMBER: dict[Modality, str] = {"visual": "regions", "textual": "concepts"}


class MiaConfig(Section):
    """Mutual Iterative Attention as in its section 3.3."""

    name: Literal["mia"]
    iterations: Positive = Field(2, description="N.")
    output: Literal["both", "visual", "textual"] = Field(
        "both",
        description="What the host reads: Eq. 5 for regions and concepts, I* for regions alone, "
        "T* for concepts alone.",
    )
    start: Modality = Field("textual", description="Which modality guides first (Table 5).")
    attention: Literal["mutual", "self"] = Field(
        "mutual", description="Guided by the other modality, or by itself (section 3.5)."
    )
    heads: Positive = Field(8, description="Heads; they must divide the host's width.")
    hidden: Positive = Field(2048, description="Width inside the feed-forward layers.")
    dropout: float = Field(0.1, ge=0, lt=1)
    outer_norm: bool = Field(
        False, description="Normalise refined regions plus those before, as the official code does."
    )

    @model_validator(mode="after")
    def _guided(self) -> MiaConfig:
        if self.attention == "self" and self.start == "visual":
            raise ValueError("start visual: attention self has no guide; remove start")
        return self

    def updates(self) -> tuple[Modality, ...]:
        """The modality that each attention refines, in turn, without updates that nothing reads."""
        turns = (OTHER[self.start], self.start) * self.iterations
        if self.output == "both":
            return turns
        if self.attention == "self":
            return tuple(turn for turn in turns if turn == self.output)
        return turns if turns[-1] == self.output else turns[:-1]


class VisualMiaConfig(MiaConfig):
    """MIA in a host that reads only regions."""

    output: Literal["both", "visual"] = Field("both", description="Eq. 5, or I*.")


class TextualMiaConfig(MiaConfig):
    """MIA in a host that reads only its concepts."""

    output: Literal["both", "textual"] = Field("both", description="Eq. 5, or T*.")


class Refine(nn.Module):
    """Refines a host's embedded regions and concepts; the base class returns them unchanged."""

    #: Members that the refined rows depend on: "regions", "concepts".
    reads: frozenset[str] = frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """The host's `CaptionModel.needs`, if the host itself reads no concepts."""
        return self.reads & {"concepts"}

    def forward(
        self, regions: Tensor, region_mask: Tensor, concepts: Tensor, concept_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Refine (B, R, D) regions and (B, A, D) concepts.

        The masks (B, R) and (B, A) are True for real rows, which come before padding.
        """
        return regions, concepts


def refiner(config: MiaConfig | None, width: int) -> Refine:
    """The module for a host's ``refine`` section; None leaves regions and concepts unchanged.

    Raises:
        ConfigError: if the heads do not divide the host's width.
    """
    if config is None:
        return Refine()
    if width % config.heads:
        raise ConfigError(
            f"model.refine.heads: {config.heads} heads do not divide the model's width {width}; "
            "choose a number that does"
        )
    return Mia(config, width)


class Mia(Refine):
    """I*, T* or MIA(I, T), as ``output`` says."""

    def __init__(self, config: MiaConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.updates = config.updates()
        refined = sorted(set(self.updates))
        self.layers = nn.ModuleDict(
            {modality: AttentionLayer(config, width) for modality in refined}
        )
        if config.output == "both":
            self.norm = nn.LayerNorm(width)
        if config.outer_norm:
            self.outer_norm = nn.LayerNorm(width)
        guides = [OTHER[modality] for modality in refined if config.attention == "mutual"]
        self.reads = frozenset(MEMBER[modality] for modality in [*refined, *guides])

    def forward(
        self, regions: Tensor, region_mask: Tensor, concepts: Tensor, concept_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Eq. 3 to 5, in the order and with the output that the config asks for."""
        pair = Pair(
            {"visual": regions, "textual": concepts},
            {"visual": region_mask, "textual": concept_mask},
        )
        for modality in self.updates:
            pair.rows[modality] = self._update(pair, modality)
        match self.config.output:
            case "visual":
                return pair.rows["visual"], concepts
            case "textual":
                return regions, pair.rows["textual"]
            case "both":
                visual, textual = (
                    self.norm(pair.rows[modality] + pair.opposite(modality))
                    for modality in pair.rows
                )
                return visual, textual

    def accumulated(
        self, regions: Tensor, region_mask: Tensor, concepts: Tensor, concept_mask: Tensor
    ) -> list[dict[str, Tensor]]:
        """What refined rows are made of, after every iteration: "regions", "concepts" (B, N, N).

        Row j of A_n = W_n A_{n-1}, A_0 = I, is the weights that refined row j gives to the original
        rows, where W_n is the attention of iteration n, averaged over heads: the "accumulated
        attention weights" of the paper's Figure 4. Shortcuts are left out.
        """
        pair = Pair(
            {"visual": regions, "textual": concepts},
            {"visual": region_mask, "textual": concept_mask},
        )
        made = {m: torch.diag_embed(pair.masks[m].to(pair.rows[m].dtype)) for m in pair.rows}
        per_iteration = len(self.updates) / self.config.iterations
        found: list[dict[str, Tensor]] = []
        for number, modality in enumerate(self.updates, 1):
            layer = self.layers[modality]
            assert isinstance(layer, AttentionLayer)
            weights = layer.weights(
                self._guide(pair, modality), pair.rows[modality], pair.masks[modality]
            )
            made = {**made, modality: weights @ made[modality]}
            pair.rows[modality] = self._update(pair, modality)
            if number >= per_iteration * (len(found) + 1) or number == len(self.updates):
                found.append({MEMBER[modality]: weights for modality, weights in made.items()})
        return found

    def _guide(self, pair: Pair, modality: Modality) -> Tensor:
        mutual = self.config.attention == "mutual"
        return pair.opposite(modality) if mutual else pair.rows[modality]

    def _update(self, pair: Pair, modality: Modality) -> Tensor:
        """The refined rows of Eq. 3 or 4."""
        rows, mask = pair.rows[modality], pair.masks[modality]
        refined: Tensor = self.layers[modality](self._guide(pair, modality), rows, mask)
        if modality == "visual" and self.config.outer_norm:
            refined = self.outer_norm(refined + rows)
        return refined


@dataclass(frozen=True)
class Pair:
    """Rows (B, N, D) and masks (B, N) of both modalities; updates replace the rows."""

    rows: dict[Modality, Tensor]
    masks: dict[Modality, Tensor]

    def opposite(self, modality: Modality) -> Tensor:
        """A row of the other modality for each row of this one."""
        other = OTHER[modality]
        return counterparts(self.rows[other], self.masks[other], self.rows[modality].shape[1])


class AttentionLayer(nn.Module):
    """FFN(MultiHead(Q, V, V)) of Eq. 3 and 4, with the shortcuts around V and the FFN."""

    def __init__(self, config: MiaConfig, width: int) -> None:
        super().__init__()
        self.attend = MultiHeadAttention(width, config.heads, config.dropout)
        for projection in (self.attend.query, self.attend.key, self.attend.value):
            nn.init.normal_(projection.weight, std=math.sqrt(2 / (width + width / config.heads)))
        self.norm_attended = AddNorm(width, config.dropout)
        self.feed_forward = FeedForward(width, config.hidden)
        self.norm = AddNorm(width, config.dropout)

    def forward(self, guide: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Guides and values (B, N, D); ``mask`` (B, N) is True for real values."""
        attended = self.attend(guide, *self.attend.project(value), mask[:, None])
        x = self.norm_attended(attended, value)
        return self.norm(self.feed_forward(x), x)

    def weights(self, guide: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """(B, N, N) the attention of each guide to the values, averaged over the heads."""
        return self.attend.weights(guide, self.attend.project(value)[0], mask[:, None])


def counterparts(source: Tensor, mask: Tensor, rows: int) -> Tensor:
    """(B, rows, D): row j is row j mod n of the n real ones of (B, N, D); zeros if n = 0."""
    count = mask.sum(1, keepdim=True)
    index = torch.arange(rows, device=mask.device) % count.clamp(min=1)
    chosen = source.gather(1, index[..., None].expand(-1, -1, source.shape[-1]))
    return chosen.masked_fill((count == 0)[..., None], 0)
