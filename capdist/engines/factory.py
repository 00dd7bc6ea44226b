"""The engine that a config names."""

from __future__ import annotations

from typing import Any

from capdist.config.run_config import Config, zero_stage
from capdist.config.stage import TrainingStage
from capdist.distributed.process_group import ProcessGroup
from capdist.engines.base import Engine
from capdist.engines.deepspeed_engine import DeepSpeedEngine
from capdist.engines.moving_average import MovingAverage
from capdist.engines.torch_engine import TorchEngine
from capdist.objectives.base import Objective


def make_engine(
    objective: Objective[Any],
    config: Config,
    stage: TrainingStage,
    group: ProcessGroup,
    *,
    elastic: bool = False,
) -> Engine:
    """The engine that ``config.engine`` names, with a moving average if the stage asks for one.

    Args:
        objective: what it minimises, with its model.
        config: of the run.
        stage: of the run.
        group: the ranks.
        elastic: whether it will load what another number of ranks, or ZeRO stage, saved.
    """
    engine = _plain_engine(objective, config, stage, group, elastic=elastic)
    decay = stage.optimizer.ema
    return MovingAverage(engine, group, decay) if decay else engine


def _plain_engine(
    objective: Objective[Any],
    config: Config,
    stage: TrainingStage,
    group: ProcessGroup,
    *,
    elastic: bool,
) -> Engine:
    accumulation = stage.batch.accumulation(group.ranks.world)
    if config.engine == "torch":
        return TorchEngine(objective, stage.optimizer, group, bf16=config.precision == "bf16")
    sizes = {
        "train_batch_size": stage.batch.micro * accumulation * group.ranks.world,
        "train_micro_batch_size_per_gpu": stage.batch.micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": stage.optimizer.clip_norm,
    }
    # The progress bar replaces DeepSpeed's own lines, unless its section asks for them.
    quiet = {"steps_per_print": 1_000_000_000}
    settings = {**quiet, **config.deepspeed, **sizes}
    # Without ZeRO every rank holds the whole state, and one file has it for any number of ranks.
    if elastic and zero_stage(config.deepspeed):
        settings["checkpoint"] = {**settings.get("checkpoint", {}), "load_universal": True}
    return DeepSpeedEngine(objective, stage.optimizer, settings, group)
