"""Up-Down (Anderson et al., CVPR 2018): an attention LSTM and a language LSTM.

`UpDown` follows section 3.2 of "Bottom-Up and Top-Down Attention". Where the paper says nothing:
words, and the states h² before the output, go through dropout. The attention has tanh, in other
papers ReLU (``activation``). A common implementation embeds the regions first, v = ReLU(W_r v), and
so does the count of Up-Down's parameters in GLIED's Table 2 (``regions``). With MIA (its Table 1:
Up-Down w/ I*, w/ MIA) the embedded regions are refined, so that nothing reads unrefined ones; the
concepts that guide are embedded by the word table, which then has the width of the regions.

Parameters at the paper's sizes (V = 9,487 words, F = 2048, LSTMs and words 1000, attention 512):

                                   regions as they are    embedded to 1000
    word table                                   9.49 M              9.49 M
    region embedding                             0                   2.05 M
    attention LSTM, Eq. 2                       20.20 M             16.00 M
    attention, Eq. 3                             1.56 M              1.02 M
    language LSTM, Eq. 6                        16.20 M             12.00 M
    output, Eq. 7                                9.50 M              9.50 M
                                                56.9 M              50.1 M (GLIED's Table 2: 50.1)

MIA adds 16.2 M at width 1000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.models.base import CaptionModel, Dims, ModelConfig, State, register
from capdist.models.layers import AdditiveAttention, Dropout, masked_mean
from capdist.models.lstm_decoders import first_rows, initialise_gates, lstm_cell
from capdist.models.mia import VisualMiaConfig, refiner
from capdist.models.output import Output
from capdist.models.prophet import ProphetConfig, prophet
from capdist.models.step_linear import StepLinear, one_gradient
from capdist.words import Words

#: Hidden and cell states of the two LSTMs, each (B, K, D).
Cells = dict[str, Tensor]

MemoryT = TypeVar("MemoryT", bound="UpDownMemory")


class UpDownSizes(ModelConfig):
    """Sizes as in Anderson et al., section 4.2."""

    width: int = Field(1000, description="D, of both LSTMs.")
    embedding: int = Field(1000, description="Width of the word table.")
    attention: int = Field(512, description="Width inside the attention.")
    regions: int | None = Field(
        None, description="Embed regions to this width by ReLU(W v); null: read them as they are."
    )
    activation: Literal["tanh", "relu"] = Field("tanh", description="Inside the attention.")
    dropout: float = Field(0.5, ge=0, lt=1)
    prophet: ProphetConfig | None = Field(None, description="Prophet attention as a loss.")


class UpDownConfig(UpDownSizes):
    """Up-Down."""

    name: Literal["updown"]
    refine: VisualMiaConfig | None = Field(
        None, description="What refines the regions, which must be embedded as wide as words."
    )

    @model_validator(mode="after")
    def _as_wide(self) -> UpDownConfig:
        if self.refine and self.regions != self.embedding:
            raise ValueError(
                "refine needs regions as wide as the words that guide them; set regions and "
                f"embedding to the same width, not to {self.regions} and {self.embedding}"
            )
        return self


@dataclass(frozen=True)
class UpDownMemory:
    """Everything that depends on the image alone.

    ``regions`` (B, R, F'), their ``keys`` (B, R, H) in the attention and their ``mask`` (B, R);
    ``image`` (B, 4 D), v̄'s share of the attention LSTM's gates; ``beta`` (B, R) of
    Spatial-Semantic attention.
    """

    regions: Tensor
    keys: Tensor
    mask: Tensor
    image: Tensor
    beta: Tensor | None = None

    def of(self: MemoryT, images: Tensor) -> MemoryT:
        """The memory of the images of these numbers (N,)."""
        return self._each(lambda tensor: tensor.index_select(0, images))

    def first(self: MemoryT, images: int) -> MemoryT:
        """The memory of so many images."""
        return self._each(lambda tensor: first_rows(tensor, images))

    def _each(self: MemoryT, function: Callable[[Tensor], Tensor]) -> MemoryT:
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: function(value) for name, value in given.items()})


@register("updown")
class UpDown(CaptionModel[UpDownMemory]):
    """Section 3.2 of Anderson et al."""

    Config: ClassVar[type[ModelConfig]] = UpDownConfig
    recurrent: ClassVar[bool] = True
    output_type: ClassVar[type[Output]] = Output

    def __init__(self, config: UpDownSizes, dims: Dims) -> None:
        super().__init__()
        self.width = width = config.width
        self.words = nn.Embedding(dims.vocabulary, config.embedding)
        self.regions: nn.Module = nn.Identity()
        region = dims.features
        if config.regions is not None:
            region = config.regions
            embed = nn.Linear(dims.features, region)
            self.regions = nn.Sequential(embed, nn.ReLU(), Dropout(config.dropout))
        refine = config.refine if isinstance(config, UpDownConfig) else None
        self.refine = refiner(refine, region)
        # An LSTM's gates are sums over its inputs: each is projected once, where it is computed.
        self.word_gates = nn.Linear(config.embedding, 4 * width)
        self.image_gates = nn.Linear(region, 4 * width, bias=False)
        self.state_gates = StepLinear(2 * width, 4 * width, bias=False)
        function = torch.tanh if config.activation == "tanh" else torch.relu
        self.attend = AdditiveAttention(region, width, config.attention, function)
        self.prophet = prophet(config.prophet, config.embedding, width)
        self.language_gates = StepLinear(region + 2 * width, 4 * width)
        gates = (self.word_gates, self.image_gates, self.state_gates, self.language_gates)
        initialise_gates(width, *gates)
        self.output = self.output_type(width, dims.vocabulary)
        self.dropout = Dropout(config.dropout)

    @property
    def needs(self) -> frozenset[str]:
        """Concepts, if they guide the regions."""
        return self.refine.needs

    @property
    def supervision(self) -> frozenset[str]:
        """Phrases, if the prophet reads them."""
        return self.prophet.supervision if self.prophet else frozenset()

    def supervised(
        self, memory: UpDownMemory, batch: Batch, words: Words
    ) -> tuple[Tensor, Tensor | None]:
        """The states, and the prophet's losses if there is one."""
        hidden, weights = self.unroll(memory, words)
        own = self.own_loss(memory, batch, words, hidden, weights)
        return self.predict_words(memory, words, hidden), own

    def own_loss(
        self, memory: UpDownMemory, batch: Batch, words: Words, hidden: Tensor, weights: Tensor
    ) -> Tensor | None:
        """The loss of `supervised`, given what `unroll` returns."""
        if self.prophet is None:
            return None

        def attend(h: Tensor) -> Tensor:
            return self.by_word(self.attend_regions, memory, words, h)

        targets = words.pick(batch.targets)
        ideal, has_loss = self.prophet(batch, words, self.words(targets), attend)
        again = self.predict_words(memory, words, self.unroll(memory, words, ideal)[0])
        return self.output(again, targets) + self.prophet.loss(weights, ideal, has_loss)

    def encode(self, batch: Batch) -> UpDownMemory:
        """Regions v_i, and v̄, their mean."""
        regions, mask = self._regions(batch), batch.region_mask
        image = self.image_gates(masked_mean(regions, mask))
        return UpDownMemory(regions, self.attend.key(regions), mask, image)

    def embed(self, tokens: Tensor) -> Tensor:
        """(..., 4 D), the words' W_e Π_t share of the attention LSTM's gates."""
        return self.word_gates(self.dropout(self.words(tokens)))

    def attend_regions(self, memory: UpDownMemory, h: Tensor) -> Tensor:
        """α_t (B, K, R) of h¹_t (B, K, D), Eq. 3 and 4."""
        return self.attend(h, memory.keys, memory.mask)

    def advance(
        self, memory: UpDownMemory, word: Tensor, before: Cells, weights: Tensor | None = None
    ) -> tuple[Cells, Tensor]:
        """The states after a word, embedded by `embed`, and the attention before the next.

        ``weights`` (B, K, R), if given, take the place of this attention.

        v̂_t = Σ α_{i,t} v_i (Eq. 5).
        """
        h1, c1 = self.attention_lstm(memory, word, before)
        if weights is None:
            weights = self.attend_regions(memory, h1)
        attended = weights @ memory.regions
        h2, c2 = self.language_lstm(attended, h1, before)
        return {"h1": h1, "c1": c1, "h2": h2, "c2": c2}, weights

    def attention_lstm(
        self, memory: UpDownMemory, word: Tensor, before: Cells
    ) -> tuple[Tensor, Tensor]:
        """h¹_t = LSTM([h²_{t-1}; v̄; W_e Π_t]) (Eq. 2) and its cell."""
        gates = word + memory.image[:, None]
        gates = gates + self.state_gates(torch.cat([before["h2"], before["h1"]], -1))
        return lstm_cell(gates, before["c1"])

    def language_lstm(self, attended: Tensor, h1: Tensor, before: Cells) -> tuple[Tensor, Tensor]:
        """h²_t = LSTM([v̂_t; h¹_t]) (Eq. 6) and its cell."""
        gates = self.language_gates(torch.cat([attended, h1, before["h2"]], -1))
        return lstm_cell(gates, before["c2"])

    def unroll(
        self, memory: UpDownMemory, words: Words, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`hidden` (T, D) and the attention weights (T, R) after each word.

        Every caption is a hypothesis of an image of its own; captions end from the last one on.
        ``weights`` (T, R), if given, take the place of the attention.
        """
        memory = memory.of(words.images)
        cells, hidden, attention = self._zeros(memory, 1), [], []
        given = None if weights is None else weights.split(words.alive)
        embedded = self.embed(words.tokens).split(words.alive)
        with one_gradient(self):
            for position, word in enumerate(embedded):
                n = len(word)
                memory = memory.first(n)
                before = {name: first_rows(tensor, n) for name, tensor in cells.items()}
                instead = None if given is None else given[position][:, None]
                cells, used = self.advance(memory, word[:, None], before, instead)
                hidden.append(self.hidden(cells)[:, 0])
                attention.append(used[:, 0])
        return torch.cat(hidden), torch.cat(attention)

    def by_word(
        self,
        function: Callable[[UpDownMemory, Tensor], Tensor],
        memory: UpDownMemory,
        words: Words,
        rows: Tensor,
    ) -> Tensor:
        """The ``function`` of a memory and rows (B, K, ...), for one row of each word, (T, ...)."""
        memory = memory.of(words.images)
        parts = (part[:, None] for part in rows.split(words.alive))
        return torch.cat([function(memory.first(len(part)), part)[:, 0] for part in parts])

    def states(self, memory: UpDownMemory, words: Words) -> Tensor:
        return self.predict_words(memory, words, self.unroll(memory, words)[0])

    def hidden(self, cells: Cells) -> Tensor:
        """What `predict` reads of the states after a word: h² (B, K, D)."""
        return cells["h2"]

    def predict(self, memory: UpDownMemory, hidden: Tensor) -> Tensor:
        """h²_t, what Eq. 7 reads, of `hidden` (B, K, D)."""
        return self.dropout(hidden)

    def predict_words(self, memory: UpDownMemory, words: Words, hidden: Tensor) -> Tensor:
        """As `predict`, of the words' `hidden` (T, D)."""
        return self.dropout(hidden)

    def start(self, memory: UpDownMemory, beams: int, length: int) -> State[UpDownMemory]:
        return State(memory, self._zeros(memory, beams))

    def decode_word(
        self, state: State[UpDownMemory], token: Tensor
    ) -> tuple[Tensor, State[UpDownMemory]]:
        """One position of `states`."""
        cells, _ = self.advance(state.memory, self.embed(token), state.cache)
        decoded = self.predict(state.memory, self.hidden(cells))
        return decoded, replace(state, cache=cells, position=state.position + 1)

    def attention(self, memory: UpDownMemory, tokens: Tensor) -> dict[str, Tensor]:
        """α_t before each word."""
        words = Words.all(tokens)
        return {"regions": words.pad(self.unroll(memory, words)[1])}

    def _regions(self, batch: Batch) -> Tensor:
        """Regions (B, R, F'), embedded and refined as the config says."""
        regions = self.regions(batch.regions.to(self.output.weight.dtype))
        concepts = self.words(batch.concepts)
        return self.refine(regions, batch.region_mask, concepts, batch.concept_mask)[0]

    def _zeros(self, memory: UpDownMemory, beams: int) -> Cells:
        zeros = memory.regions.new_zeros(len(memory.regions), beams, self.width)
        return dict.fromkeys(("h1", "c1", "h2", "c2"), zeros)
