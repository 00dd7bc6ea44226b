"""DeepSpeed, and its plain twin in torch, behind one protocol: the only door to DeepSpeed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.config.run_config import Config
from capdist.config.stage import OptimizerConfig, TrainingStage
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.deepspeed_files import convert, numbers_only
from capdist.engines.deepspeed_operator import load_operator
from capdist.objectives.base import Objective


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did: its loss per weight over all ranks, and whether it counted.

    ``parts`` are what each of this rank's micro-batches added to the loss; ``skipped`` is True
    where the loss scaler saw an overflow and left the weights alone.
    """

    loss: float
    parts: list[float]
    grad_norm: float | None
    skipped: bool


class Engine(Protocol):
    """Turns the micro-batches of a step into an update of the weights."""

    def step(self, batches: Sequence[Batch], lr: float) -> StepResult:
        """One update from this rank's micro-batches; all ranks call it together."""

    def weights(self) -> dict[str, Tensor]:
        """The model's weights in fp32 on the CPU, whole, whatever holds them in training.

        All ranks call it together; only the first needs the answer.
        """

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state; all ranks call it together."""

    def load(self, folder: Path, ranks: int) -> None:
        """Read what `save` wrote on so many ranks; all ranks call it together."""


def make_engine(
    objective: Objective,
    config: Config,
    stage: TrainingStage,
    job: ProcessGroup,
    *,
    elastic: bool = False,
) -> Engine:
    """The engine that ``config.engine`` names.

    Args:
        objective: what it minimises.
        config: of the run.
        stage: of the run.
        job: the ranks.
        elastic: whether it will load what another number of ranks saved.
    """
    accumulation = stage.batch.accumulation(job.ranks.world)
    if config.engine == "torch":
        return TorchEngine(objective, stage.optimizer, job)
    sizes = {
        "train_batch_size": stage.batch.micro * accumulation * job.ranks.world,
        "train_micro_batch_size_per_gpu": stage.batch.micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": stage.optimizer.clip_norm,
    }
    # The progress bar speaks in DeepSpeed's place, unless its own section says otherwise.
    quiet = {"steps_per_print": 1_000_000_000}
    settings = {**quiet, **config.deepspeed, **sizes}
    # Without ZeRO every rank holds the whole state, and one file has it for any number of ranks.
    if elastic and zero_stage(config.deepspeed):
        settings["checkpoint"] = {**settings.get("checkpoint", {}), "load_universal": True}
    return DeepSpeedEngine(objective, stage.optimizer, settings, job)


def zero_stage(section: dict[str, Any]) -> int:
    """The ZeRO stage that DeepSpeed's JSON asks for."""
    zero = section.get("zero_optimization")
    return int(zero.get("stage", 0)) if isinstance(zero, dict) else 0


def make_optimizer(objective: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over all parameters."""
    kind = torch.optim.AdamW if config.decoupled else torch.optim.Adam
    return kind(objective.parameters(), config.lr, config.betas, config.eps, config.weight_decay)


class TorchEngine:
    """The plain twin: fp32, weights whole on every rank, gradients summed by all-reduce."""

    def __init__(self, objective: Objective, config: OptimizerConfig, job: ProcessGroup) -> None:
        self.objective = objective.to(job.device)
        self.optimizer = make_optimizer(objective, config)
        self.clip_norm = config.clip_norm
        self.job = job

    def step(self, batches: Sequence[Batch], lr: float) -> StepResult:
        """The gradient of the mean over all tokens of all ranks."""
        weight = total_weight(self.job, map(self.objective.weight, batches))
        parts = []
        for batch in batches:
            loss = self.objective(batch.to(self.job.device)) / weight
            loss.backward()
            parts.append(float(loss.detach()))
        parameters = [p for p in self.objective.parameters() if p.grad is not None]
        for parameter in parameters:
            distributed.all_reduce(parameter.grad)
        norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm or float("inf"))
        set_rate(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        (loss,) = self.job.sum(sum(parts))
        return StepResult(loss, parts, float(norm), skipped=False)

    def weights(self) -> dict[str, Tensor]:
        """The weights as they are."""
        return {
            n: p.detach().float().cpu().clone() for n, p in self.objective.model.named_parameters()
        }

    def save(self, folder: Path) -> None:
        """One file, from the first rank."""
        if self.job.first:
            state = {
                "weights": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            torch.save(state, folder / "engine.pt")

    def load(self, folder: Path, ranks: int) -> None:
        """The same file, on every rank, however many there were."""
        state = torch.load(folder / "engine.pt", self.job.device, weights_only=True)
        self.objective.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])


class DeepSpeedEngine:
    """DeepSpeed: ZeRO 0 to 3, fp32, bf16 and fp16 with loss scaling, by its own JSON."""

    TAG = "deepspeed"

    def __init__(
        self,
        objective: Objective,
        optimizer: OptimizerConfig,
        config: dict[str, Any],
        job: ProcessGroup,
    ) -> None:
        """Start DeepSpeed with its JSON.

        Raises:
            ConfigError: with DeepSpeed's own words, if it refuses.
        """
        load_operator()
        import deepspeed
        from deepspeed.runtime.config import DeepSpeedConfigError
        from deepspeed.runtime.zero.utils import ZeRORuntimeException

        try:
            self.engine, self.optimizer, *_ = deepspeed.initialize(
                model=objective,
                optimizer=make_optimizer(objective, optimizer),
                config=config,
                dist_init_required=False,
            )
        except (
            AssertionError,
            ValueError,
            DeepSpeedConfigError,
            ZeRORuntimeException,
        ) as error:
            # DeepSpeed's refusals of its own section, fp16 on a CPU among them.
            reason = " ".join(str(error).split())
            raise ConfigError(f"deepspeed: {reason}; change the config's section") from error
        self.job = job

    def step(self, batches: Sequence[Batch], lr: float) -> StepResult:
        """The gradient of the mean over all tokens of all ranks.

        DeepSpeed averages over the ranks, so the loss carries their number as a factor.
        """
        weight = total_weight(self.job, map(self.engine.module.weight, batches))
        skipped, parts = self.engine.skipped_steps, []
        set_rate(self.optimizer, lr)
        for batch in batches:
            loss = self.engine(batch.to(self.job.device)) / weight
            self.engine.backward(loss * self.job.ranks.world, scale_wrt_gas=False)
            self.engine.step()
            parts.append(float(loss.detach()))
        norm = self.engine.get_global_grad_norm()
        (loss,) = self.job.sum(sum(parts))
        return StepResult(
            loss=loss,
            parts=parts,
            grad_norm=None if norm is None else float(norm),
            skipped=self.engine.skipped_steps > skipped,
        )

    def weights(self) -> dict[str, Tensor]:
        """The fp32 masters where there are some, gathered over the ranks under ZeRO."""
        from deepspeed.utils import safe_get_full_fp32_param

        def whole(parameter: Tensor) -> Tensor:
            master = safe_get_full_fp32_param(parameter)
            return (parameter if master is None else master).detach().float().cpu().clone()

        return {n: whole(p) for n, p in self.engine.module.model.named_parameters()}

    def save(self, folder: Path) -> None:
        """DeepSpeed's own files, in a folder of their own."""
        self.engine.save_checkpoint(str(folder), tag=self.TAG, save_latest=False)

    def load(self, folder: Path, ranks: int) -> None:
        """By DeepSpeed's universal checkpoint where ZeRO cut it for another number of ranks.

        Raises:
            ConfigError: if it can't be converted, with DeepSpeed's own words, or holds code.
        """
        if not self.engine.load_universal_checkpoint():
            with numbers_only(folder):
                self.engine.load_checkpoint(str(folder), tag=self.TAG)
            return
        universal = folder / "universal"
        self.job.agree(
            lambda: convert(folder / self.TAG, universal / self.TAG) if self.job.first else None
        )
        with numbers_only(universal):
            self.engine.load_checkpoint(str(universal), tag=self.TAG)
        self.job.barrier()
        if self.job.first:
            shutil.rmtree(universal)


def total_weight(job: ProcessGroup, weights: Iterable[int]) -> float:
    """What the loss of a step is divided by; 1 where all of its samples are lost."""
    (weight,) = job.sum(sum(weights))
    return max(weight, 1.0)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
