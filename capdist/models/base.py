"""The contract that every captioning model fulfils, and the registry of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.base import ConfigError, Section, validate


class ModelConfig(Section):
    """A model's own section; ``name`` chooses the model."""

    name: str


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


_MODELS: dict[str, type[CaptionModel[Any]]] = {}

ModelT = TypeVar("ModelT", bound=type[CaptionModel[Any]])


def register(name: str) -> Callable[[ModelT], ModelT]:
    """Make a model known under the name that its configs use."""

    def add(model: ModelT) -> ModelT:
        _MODELS[name] = model
        return model

    return add


def registered() -> dict[str, type[CaptionModel[Any]]]:
    """All models by name."""
    return dict(sorted(_MODELS.items()))


def parse(section: dict[str, Any], where: str) -> ModelConfig:
    """The typed section of the model that ``section["name"]`` names; ``where`` names the file.

    Raises:
        ConfigError: if no model has that name, or a key is wrong.
    """
    name = section.get("name")
    if name not in _MODELS:
        known = ", ".join(registered())
        raise ConfigError(f"{where}: model.name: no model {name!r}; known: {known}")
    return validate(_MODELS[name].Config, section, where, "model")


def build(section: dict[str, Any], dims: Dims, where: str = "config") -> CaptionModel[Any]:
    """A freshly initialised model.

    Raises:
        ConfigError: as `parse` does.
    """
    config = parse(section, where)
    model: CaptionModel[Any] = _MODELS[config.name](config, dims)
    return model
