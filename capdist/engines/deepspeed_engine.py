"""DeepSpeed as an engine: the only importer of DeepSpeed, besides its files and its operator."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.config.base import ConfigError
from capdist.config.stage import OptimizerConfig
from capdist.distributed.part_timer import PartTimer
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.base import StepResult
from capdist.engines.deepspeed_copies import norms_in_fp32, skip_sum, without_bucket
from capdist.engines.deepspeed_files import convert, numbers_only
from capdist.engines.deepspeed_operator import load_operator
from capdist.engines.optimizer import make_optimizer, set_lr, settings_kept
from capdist.objectives.base import Objective


class DeepSpeedEngine:
    """DeepSpeed: ZeRO 0 to 3, fp32, bf16 and fp16 with loss scaling, by its own JSON."""

    TAG = "deepspeed"

    def __init__(
        self,
        objective: Objective[Any],
        optimizer: OptimizerConfig,
        config: dict[str, Any],
        group: ProcessGroup,
    ) -> None:
        """Start DeepSpeed with its JSON.

        Raises:
            ConfigError: with DeepSpeed's message, if it refuses its section.
        """
        load_operator("deepspeed_shm_comm", "engine=torch")
        import deepspeed
        from deepspeed.runtime.config import DeepSpeedConfigError
        from deepspeed.runtime.zero.utils import ZeRORuntimeException

        on_cpu = group.device.type == "cpu"
        if on_cpu:
            config = without_bucket(config)
            norms_in_fp32()
        try:
            self.engine, self.optimizer, *_ = deepspeed.initialize(
                model=objective,
                optimizer=make_optimizer(objective.model, optimizer),
                config=config,
                dist_init_required=False,
            )
        except (
            AssertionError,
            ValueError,
            DeepSpeedConfigError,
            ZeRORuntimeException,
        ) as error:
            # Refusals of its own section, such as fp16 on a CPU.
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"deepspeed: {reason}; change the config's deepspeed section"
            ) from error
        if on_cpu and group.ranks.world == 1:
            skip_sum(self.optimizer)
        self.group = group

    def step(self, batches: Sequence[Batch], weight: float, lr: float) -> StepResult:
        """The gradient of the mean over all tokens of all ranks.

        DeepSpeed averages over the ranks, so the loss carries their number as a factor.
        """
        skipped, parts, timer = self.engine.skipped_steps, [], PartTimer()
        set_lr(self.optimizer, lr)
        for batch in batches:
            with timer.time("forward"):
                loss = self.engine(batch.to(self.group.device)) / weight
            with timer.time("backward"):
                self.engine.backward(loss * self.group.ranks.world, scale_wrt_gas=False)
            with timer.time("update"):
                self.engine.step()
            parts.append(loss.detach())
        norm = self.engine.get_global_grad_norm()
        return StepResult(
            parts=parts,
            grad_norm=None if norm is None else torch.as_tensor(norm),
            # It also skips what is not finite where nothing scales the loss, and would for ever.
            skipped=self.engine.fp16_enabled() and self.engine.skipped_steps > skipped,
            seconds=timer.seconds,
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """None: the weights have the precision, unless it is that of ``torch_autocast``."""
        return nullcontext()

    def weights(self) -> dict[str, Tensor]:
        """The fp32 masters where there are some, gathered over the ranks under ZeRO."""
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        def whole(parameter: Tensor) -> Tensor:
            if not parameter.requires_grad:  # frozen: no optimizer holds a master of it
                with deepspeed.zero.GatheredParameters(parameter):
                    return parameter.detach().float().cpu().clone()
            master = safe_get_full_fp32_param(parameter)
            return (parameter if master is None else master).detach().float().cpu().clone()

        return {n: whole(p) for n, p in self.engine.module.model.named_parameters()}

    def save(self, folder: Path) -> None:
        """DeepSpeed's own files, in a folder of their own."""
        self.engine.save_checkpoint(str(folder), tag=self.TAG, save_latest=False)

    def load(self, folder: Path, ranks: int) -> None:
        """Load; in DeepSpeed's universal format if other ranks split it by ZeRO.

        Raises:
            ConfigError: if it can't be converted, or contains code.
        """
        if not self.engine.load_universal_checkpoint():
            with numbers_only(folder), settings_kept(self.optimizer):
                self.engine.load_checkpoint(str(folder), tag=self.TAG)
            return
        universal = folder / "universal"
        self.group.agree(
            lambda: convert(folder / self.TAG, universal / self.TAG) if self.group.first else None
        )
        with numbers_only(universal), settings_kept(self.optimizer):
            self.engine.load_checkpoint(str(universal), tag=self.TAG)
        self.group.barrier()
        if self.group.first:
            shutil.rmtree(universal)
