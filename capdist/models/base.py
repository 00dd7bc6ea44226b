"""The contract that every captioning model fulfils, and the registry of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.model import MODEL_SECTIONS
from capdist.config.model import ModelConfig as ModelConfig
from capdist.config.registry import Registry
from capdist.config.run_config import parse_model


@dataclass(frozen=True)
class Dims:
    """Sizes that the data decides: F, V, and how many classes a detector tells apart."""

    features: int
    vocabulary: int
    classes: int = 0


MemoryT = TypeVar("MemoryT")


@dataclass(frozen=True)
class State(Generic[MemoryT]):
    """Where K hypotheses of every image stand; a step may write into its tensors.

    ``memory`` exists once per image. ``cache``, each (B, K, ...), is what a hypothesis takes along
    from its parent. ``written``, each (B, L, K, ...), stays where it was written, position by
    position, and ``ancestors`` (B, K, L, K) says which of it is a hypothesis's own past: at a
    position, the slot of its ancestor there. ``position`` counts the tokens read.
    """

    memory: MemoryT
    cache: dict[str, Tensor] = field(default_factory=dict)
    written: dict[str, Tensor] = field(default_factory=dict)
    ancestors: Tensor | None = None
    position: int = 0

    def select(self, parents: Tensor) -> State[MemoryT]:
        """The state whose hypothesis k goes on from hypothesis ``parents[b, k]``; (B, K)."""
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        cache = {name: t[rows, parents] for name, t in self.cache.items()}
        ancestors = None if self.ancestors is None else self.ancestors[rows, parents]
        return replace(self, cache=cache, ancestors=ancestors)


class CaptionModel(nn.Module, ABC, Generic[MemoryT]):
    """Reads region features (and whatever ``needs`` names) and writes captions.

    A model's ``forward`` under teacher forcing and its ``step`` must agree position by position,
    and neither may depend on padding or on the other images of a batch; tests/contract checks
    it for every registered model.
    """

    Config: ClassVar[type[ModelConfig]]
    #: Whether each step reads the last one's state, so that scheduled sampling makes sense.
    recurrent: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """Optional members that the shards must have: "concepts", "classes".

        A plain class variable will do where the config makes no difference.
        """
        return frozenset()

    @abstractmethod
    def encode(self, batch: Batch) -> MemoryT:
        """Whatever depends on the image alone; once per image."""

    @abstractmethod
    def forward(self, memory: MemoryT, tokens: Tensor) -> Tensor:
        """(B, S, L) tokens to (B, S, L, V) logits of the token that follows each."""

    @abstractmethod
    def start(self, memory: MemoryT, beams: int, length: int) -> State[MemoryT]:
        """The state of ``beams`` hypotheses an image that will read at most ``length`` tokens."""

    @abstractmethod
    def step(self, state: State[MemoryT], token: Tensor) -> tuple[Tensor, State[MemoryT]]:
        """(B, K) tokens to (B, K, V) logits and the state after them."""

    @abstractmethod
    def attention(self, memory: MemoryT, tokens: Tensor) -> dict[str, Tensor]:
        """Weights over image parts at every position, (B, S, L, R) and (B, S, L, A)."""


_MODELS: Registry[type[CaptionModel[Any]]] = Registry("model", "capdist.models")

ModelT = TypeVar("ModelT", bound=type[CaptionModel[Any]])


def register(name: str) -> Callable[[ModelT], ModelT]:
    """Make a model, and its section, known by the name that configs use."""

    def add(model: ModelT) -> ModelT:
        _MODELS.add(name, model)
        MODEL_SECTIONS.add(name, model.Config)
        return model

    return add


def registered() -> dict[str, type[CaptionModel[Any]]]:
    """All models by name."""
    return _MODELS.all()


def build(section: ModelConfig | Any, dims: Dims, where: str = "config") -> CaptionModel[Any]:
    """A freshly initialised model of a config's section, or of the JSON of one.

    Raises:
        ConfigError: if no model has that name, or a key is wrong.
    """
    config = section if isinstance(section, ModelConfig) else parse_model(section, where)
    model: CaptionModel[Any] = _MODELS.get(config.name, where)(config, dims)
    return model
