"""Plain PyTorch: the specification that DeepSpeed is held to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from capdist.batch import Batch
from capdist.config.stage import OptimizerConfig
from capdist.distributed.part_timer import PartTimer
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.base import StepResult
from capdist.engines.gradient_sum import GradientSum
from capdist.engines.optimizer import make_optimizer, set_lr, settings_kept
from capdist.objectives.base import Objective


class TorchEngine:
    """The reference implementation: whole weights on every rank, in fp32, and gradients summed.

    With ``bf16`` autocast computes the forward pass, and the backward pass what belongs to it.
    """

    def __init__(
        self,
        objective: Objective[Any],
        config: OptimizerConfig,
        group: ProcessGroup,
        *,
        bf16: bool = False,
    ) -> None:
        self.objective = objective.to(group.device)
        self.optimizer = make_optimizer(objective.model, config)
        self.config = config
        self.group = group
        self.bf16 = bf16
        several = group.ranks.world > 1
        self.gradient_sum = GradientSum(objective.parameters()) if several else None

    def step(self, batches: Sequence[Batch], weight: float, lr: float) -> StepResult:
        """The gradient of the mean over all tokens of all ranks."""
        parts, timer = [], PartTimer()
        for number, batch in enumerate(batches):
            with timer.time("forward"), self.autocast():
                loss = self.objective(batch.to(self.group.device)) / weight
            with timer.time("backward"):
                if self.gradient_sum and number == len(batches) - 1:
                    self.gradient_sum.begin()
                loss.backward()
                parts.append(loss.detach())
        with timer.time("communication"):
            if self.gradient_sum:
                self.gradient_sum.finish()
        with timer.time("update"):
            norm = self.update(lr)
        return StepResult(parts, norm, skipped=False, seconds=timer.seconds)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=self.bf16)

    def update(self, lr: float) -> Tensor:
        """Clip the gradients and take a step; returns the gradients' norm before."""
        parameters = [p for p in self.objective.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
        if self.config.clip_value:
            nn.utils.clip_grad_value_(parameters, self.config.clip_value)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def weights(self) -> dict[str, Tensor]:
        return {
            n: p.detach().float().cpu().clone() for n, p in self.objective.model.named_parameters()
        }

    def save(self, folder: Path) -> None:
        """One file, written by the first rank."""
        if self.group.first:
            state = {
                "weights": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            torch.save(state, folder / "engine.pt")

    def load(self, folder: Path, ranks: int) -> None:
        """The same file on every rank, however many ranks wrote it."""
        state = torch.load(folder / "engine.pt", self.group.device, weights_only=True)
        self.objective.load_state_dict(state["weights"])
        with settings_kept(self.optimizer):
            self.optimizer.load_state_dict(state["optimizer"])
