"""Several models that decode together as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import CaptionModel, State

EnsembleMemory = tuple[Any, ...]


@dataclass(frozen=True)
class EnsembleState(State[EnsembleMemory]):
    """The states of all models."""

    states: tuple[State[Any], ...] = ()

    def select(self, parents: Tensor) -> EnsembleState:
        """Every model continues from the same parents."""
        return replace(self, states=tuple(state.select(parents) for state in self.states))


class Ensemble(CaptionModel[EnsembleMemory]):
    """Averages the probabilities of models that share a vocabulary; its logits are their log."""

    def __init__(self, models: Sequence[CaptionModel[Any]]) -> None:
        super().__init__()
        self.models = tuple(models)
        self.registered = torch.nn.ModuleList(models)  # so that .to() and .eval() reach them

    def encode(self, batch: Batch) -> EnsembleMemory:
        return tuple(model.encode(batch) for model in self.models)

    def forward(self, memory: EnsembleMemory, tokens: Tensor) -> Tensor:
        """The log of (1/n) Σ p_i at every position."""
        return _mean([model(part, tokens) for model, part in zip(self.models, memory, strict=True)])

    def start(self, memory: EnsembleMemory, beams: int, length: int) -> EnsembleState:
        pairs = zip(self.models, memory, strict=True)
        return EnsembleState(
            memory, states=tuple(model.start(m, beams, length) for model, m in pairs)
        )

    def step(self, state: State[EnsembleMemory], token: Tensor) -> tuple[Tensor, EnsembleState]:
        """The log of (1/n) Σ p_i of one position."""
        assert isinstance(state, EnsembleState)
        pairs = zip(self.models, state.states, strict=True)
        logits, states = zip(*(model.step(s, token) for model, s in pairs), strict=True)
        return _mean(logits), replace(state, states=states, position=state.position + 1)

    def attention(self, memory: EnsembleMemory, tokens: Tensor) -> dict[str, Tensor]:
        """The mean over the models that attend to the same image parts."""
        maps = [m.attention(part, tokens) for m, part in zip(self.models, memory, strict=True)]
        names = sorted({name for weights in maps for name in weights})
        by_name = {n: [weights[n] for weights in maps if n in weights] for n in names}
        return {name: torch.stack(weights).mean(0) for name, weights in by_name.items()}


def _mean(logits: Sequence[Tensor]) -> Tensor:
    log_probs = torch.stack([part.float().log_softmax(-1) for part in logits])
    return log_probs.logsumexp(0) - math.log(len(logits))
