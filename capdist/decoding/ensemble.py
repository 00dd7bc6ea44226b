"""Several models that decode as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.models.base import CaptionModel, State

Memories = tuple[Any, ...]


@dataclass(frozen=True)
class Members(State[Memories]):
    """A state of each model."""

    states: tuple[State[Any], ...] = ()

    def select(self, parents: Tensor) -> Members:
        """Every model's hypotheses go on from the same parents."""
        return replace(self, states=tuple(state.select(parents) for state in self.states))


class Ensemble(CaptionModel[Memories]):
    """Averages the probabilities of models with one vocabulary; its logits are their logarithm."""

    def __init__(self, models: Sequence[CaptionModel[Any]]) -> None:
        super().__init__()
        self.models = tuple(models)
        self.held = torch.nn.ModuleList(models)  # so that they move and switch with the ensemble

    def encode(self, batch: Batch) -> Memories:
        """Every model's own memory."""
        return tuple(model.encode(batch) for model in self.models)

    def forward(self, memory: Memories, tokens: Tensor) -> Tensor:
        """The log of (1/n) Σ p_i at every position."""
        return _mean([model(part, tokens) for model, part in zip(self.models, memory, strict=True)])

    def start(self, memory: Memories, beams: int, length: int) -> Members:
        """Every model's first state."""
        pairs = zip(self.models, memory, strict=True)
        return Members(memory, states=tuple(model.start(m, beams, length) for model, m in pairs))

    def step(self, state: State[Memories], token: Tensor) -> tuple[Tensor, Members]:
        """The log of (1/n) Σ p_i of one position."""
        assert isinstance(state, Members)
        pairs = zip(self.models, state.states, strict=True)
        logits, states = zip(*(model.step(s, token) for model, s in pairs), strict=True)
        return _mean(logits), replace(state, states=states, position=state.position + 1)

    def attention(self, memory: Memories, tokens: Tensor) -> dict[str, Tensor]:
        """The mean over the models that attend to the same."""
        maps = [m.attention(part, tokens) for m, part in zip(self.models, memory, strict=True)]
        names = {name for each in maps for name in each}
        looks = {name: [each[name] for each in maps if name in each] for name in sorted(names)}
        return {name: torch.stack(found).mean(0) for name, found in looks.items()}


def _mean(logits: Sequence[Tensor]) -> Tensor:
    log_probs = torch.stack([part.float().log_softmax(-1) for part in logits])
    return log_probs.logsumexp(0) - math.log(len(logits))
