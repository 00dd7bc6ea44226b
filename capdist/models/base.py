"""The interface of every captioning model, and the registry of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.config.model import MODEL_SECTIONS
from capdist.config.model import ModelConfig as ModelConfig
from capdist.config.registry import Registry
from capdist.config.run_config import parse_model
from capdist.models.output import Output, weighted_nll
from capdist.words import Words


@dataclass(frozen=True)
class Dims:
    """Sizes that depend on the data: F, V, and the numbers of classes and of predicates.

    ``further`` are the widths F of the feature sets that are read after the first.
    """

    features: int
    vocabulary: int
    classes: int = 0
    predicates: int = 0
    further: tuple[int, ...] = ()


MemoryT = TypeVar("MemoryT")


@dataclass(frozen=True)
class State(Generic[MemoryT]):
    """The decoding state of K hypotheses per image; a step may write into its tensors.

    ``memory`` exists once per image. ``cache``, each (B, K, ...), is copied from parent to child.
    ``written``, each (B, L, K, ...), is not: rows stay in the slot that wrote them, and
    ``ancestors`` (B, K, L, K) is True for the slot of a hypothesis's ancestor at each position.
    ``position`` counts the tokens read.
    """

    memory: MemoryT
    cache: dict[str, Tensor] = field(default_factory=dict)
    written: dict[str, Tensor] = field(default_factory=dict)
    ancestors: Tensor | None = None
    position: int = 0

    def select(self, parents: Tensor) -> State[MemoryT]:
        """The state whose hypothesis k continues ``parents[b, k]``, (B, K)."""
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        cache = {name: t[rows, parents] for name, t in self.cache.items()}
        ancestors = None if self.ancestors is None else self.ancestors[rows, parents]
        return replace(self, cache=cache, ancestors=ancestors)


class CaptionModel(nn.Module, ABC, Generic[MemoryT]):
    """Reads region features, and the members that ``needs`` names, and writes captions.

    ``states``, under teacher forcing, and ``decode_word`` must agree at every position, and neither
    may depend on padding or on the other images of a batch. tests/contract checks every registered
    model.
    """

    Config: ClassVar[type[ModelConfig]]
    #: Maps the last state of a word to the logits of the next one.
    output: Output
    #: Whether each step reads the state of the last; scheduled sampling requires it, and
    #: `decode_word`.
    recurrent: ClassVar[bool] = False
    #: Whether it can read several feature sets of an image, as `layers.RegionEmbedding` does.
    reads_several_sets: ClassVar[bool] = False
    #: Whether an image may lack all of them but the first.
    may_lack_sets: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """Optional members that the shards must have: "concepts", "classes".

        A class variable will do if it does not depend on the config.
        """
        return frozenset()

    @property
    def supervision(self) -> frozenset[str]:
        """Optional members that `supervised` reads besides ``needs``: "grounding"."""
        return frozenset()

    def supervised(
        self, memory: MemoryT, batch: Batch, words: Words
    ) -> tuple[Tensor, Tensor | None]:
        """What `decode_words` returns, and a loss of the model's own, None if it has none.

        Cross entropy adds this loss, a sum over the words of the batch's captions, to its own.

        Args:
            memory: of the batch.
            batch: what is to be predicted, and what the loss compares the model with.
            words: the batch's places, whose words differ from its own under scheduled sampling.
        """
        return self.decode_words(memory, words), None

    @abstractmethod
    def encode(self, batch: Batch) -> MemoryT:
        """Compute what depends on the image alone; called once per image."""

    def states(self, memory: MemoryT, words: Words) -> Tensor:
        """What ``output`` reads after each of the T words, (T, D).

        A model whose logits are not those of an output layer implements `forward` instead, and is
        trained on padded captions.
        """
        raise NotImplementedError

    def forward(self, memory: MemoryT, tokens: Tensor) -> Tensor:
        """(B, S, L) tokens to the (B, S, L, V) logits of the token after each."""
        words = Words.all(tokens)
        return words.pad(self.output(self.states(memory, words)))

    @property
    def packs(self) -> bool:
        """Whether it implements `states`."""
        return type(self).states is not CaptionModel.states

    def decode_words(self, memory: MemoryT, words: Words) -> Tensor:
        """What `word_loss` reads: the states (T, D), or without them the logits (T, V)."""
        if self.packs:
            return self.states(memory, words)
        logits: Tensor = self(memory, words.pad(words.tokens))
        return words.pick(logits)

    def word_logits(self, memory: MemoryT, words: Words) -> Tensor:
        """The logits (T, V) after each word."""
        decoded = self.decode_words(memory, words)
        return self.output(decoded) if self.packs else decoded

    def word_loss(
        self,
        decoded: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        smoothing: float = 0.0,
        never: Sequence[int] = (),
    ) -> Tensor:
        """The loss of `Output` for what `decode_words` gave."""
        loss = self.output if self.packs else weighted_nll
        return loss(decoded, targets, weights, smoothing, never)

    @abstractmethod
    def start(self, memory: MemoryT, beams: int, length: int) -> State[MemoryT]:
        """The state of ``beams`` hypotheses per image, before the first of ``length`` tokens."""

    def decode_word(self, state: State[MemoryT], token: Tensor) -> tuple[Tensor, State[MemoryT]]:
        """What ``output`` reads after (B, K) tokens, (B, K, D), and the state after them.

        A model whose logits are not those of an output layer implements `step` instead.
        """
        raise NotImplementedError

    def step(self, state: State[MemoryT], token: Tensor) -> tuple[Tensor, State[MemoryT]]:
        """(B, K) tokens to the (B, K, V) logits of the next ones, and the state after them."""
        decoded, state = self.decode_word(state, token)
        return self.output(decoded), state

    def step_rows(
        self, state: State[MemoryT], token: Tensor, rows: Tensor
    ) -> tuple[Tensor, State[MemoryT]]:
        """As `step`, but the logits (N, V) of N hypotheses only, of ``rows`` (N,) of the B · K."""
        if type(self).step is not CaptionModel.step:
            logits, state = self.step(state, token)
            return logits.flatten(0, 1)[rows], state
        decoded, state = self.decode_word(state, token)
        return self.output(decoded.flatten(0, 1)[rows]), state

    @abstractmethod
    def attention(self, memory: MemoryT, tokens: Tensor) -> dict[str, Tensor]:
        """Attention weights at every position: "regions" (B, S, L, R), "concepts" (B, S, L, A).

        A model with several attentions to the same parts adds each under a name of its own, such as
        "regions/global"; "regions" and "concepts" are then the ones that stand for the model.
        """


_MODELS: Registry[type[CaptionModel[Any]]] = Registry("model", "capdist.models")

ModelT = TypeVar("ModelT", bound=type[CaptionModel[Any]])


def register(name: str) -> Callable[[ModelT], ModelT]:
    """Register a model, and its section, under the name that configs use."""

    def add(model: ModelT) -> ModelT:
        _MODELS.add(name, model)
        MODEL_SECTIONS.add(name, model.Config)
        return model

    return add


def registered() -> dict[str, type[CaptionModel[Any]]]:
    """All models by name."""
    return _MODELS.all()


def build(section: ModelConfig | Any, dims: Dims, where: str = "config") -> CaptionModel[Any]:
    """A freshly initialised model, from a section of a config or its JSON.

    Raises:
        ConfigError: if no model has that name, or a key is wrong.
    """
    config = section if isinstance(section, ModelConfig) else parse_model(section, where)
    kind = _MODELS.get(config.name, where)
    if dims.further and not kind.reads_several_sets:
        raise ConfigError(
            f"{where}: model.features: {', '.join(config.features)}, but model {config.name!r} "
            "reads one feature set; choose one of them"
        )
    model: CaptionModel[Any] = kind(config, dims)
    return model
