"""The whole tree, and its file; ``--set a.b=c`` overrides any value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from capdist.config.base import ConfigError, Positive, Section, read_json, validate
from capdist.config.data import DataConfig
from capdist.config.decoding import DecodingConfig
from capdist.config.stage import MilStage, Stage


class ValidationConfig(Section):
    """The validation score that chooses the best checkpoint: CIDEr of greedy captions, or AP."""

    split: str = "val"
    every_epochs: Positive = 1
    by: Literal["trainer", "follower"] = Field(
        "trainer",
        description="Who scores captions; follower: evaluate.py --follow, with decoding.beam.",
    )

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether an epoch of a stage is evaluated: the last of its ``epochs`` always is."""
        return epoch % self.every_epochs == 0 or epoch == epochs


class RayConfig(Section):
    """The Ray cluster that rewards and evaluations are computed on."""

    address: str = Field("local", description="local starts one; else a running cluster's.")
    timeout_s: float = Field(20.0, gt=0, description="Seconds a cluster has to answer.")


class CheckpointConfig(Section):
    """When the state is saved, besides at the end of every epoch."""

    every_steps: Positive | None = None


class Config(Section):
    """A run from shards to a trained model."""

    schema_: str | None = Field(None, alias="$schema")
    description: str = Field(description="What it is for, how long it takes, what score to expect.")
    run: str = Field(description="Folder of everything the run writes.")
    seed: int = Field(1, ge=0)
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    data: DataConfig
    model: dict[str, Any] = Field(description="name, and what that model's own section knows.")
    stages: tuple[Stage, ...] = Field(min_length=1)
    validation: ValidationConfig = ValidationConfig()
    decoding: DecodingConfig = DecodingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    ray: RayConfig = RayConfig()
    timeout_s: float = Field(
        600.0, gt=0, description="Seconds without a sign of life of a rank; then the others stop."
    )
    deepspeed: dict[str, Any] = Field(
        default_factory=dict,
        description="DeepSpeed's own JSON, passed through; batch sizes, optimizer and clipping "
        "come from the stage.",
    )

    @property
    def mil(self) -> MilStage | None:
        """The stage that trains a detector of concepts for those behind it, if there is one."""
        return self.stages[0] if isinstance(self.stages[0], MilStage) else None

    @model_validator(mode="after")
    def _concepts_first(self) -> Config:
        for number, stage in enumerate(self.stages[1:], 1):
            if isinstance(stage, MilStage):
                raise ValueError(
                    f"stages.{number}: a stage mil makes concepts for the others; it stands first"
                )
        return self

    @model_validator(mode="after")
    def _one_home(self) -> Config:
        taken = {
            "train_batch_size": "stages.N.batch.images",
            "train_micro_batch_size_per_gpu": "stages.N.batch.micro",
            "gradient_accumulation_steps": "stages.N.batch.images and micro",
            "gradient_clipping": "stages.N.optimizer.clip_norm",
            "optimizer": "stages.N.optimizer",
            "scheduler": "stages.N.schedule",
        }
        for key, home in taken.items():
            if key in self.deepspeed:
                raise ValueError(f"deepspeed.{key} is set by {home}; remove it from deepspeed")
        return self

    @model_validator(mode="after")
    def _scaled_fp16(self) -> Config:
        # Without ZeRO, DeepSpeed 0.19.8 divides fp16 gradients by a loss scale that its backward
        # pass never multiplied in: the updates would be too small, without a word.
        fp16 = self.deepspeed.get("fp16", {}).get("enabled", False)
        if fp16 and self.deepspeed.get("zero_optimization", {}).get("stage", 0) == 0:
            raise ValueError(
                "deepspeed.fp16 needs deepspeed.zero_optimization.stage 1, 2 or 3: without ZeRO "
                "DeepSpeed does not scale the loss"
            )
        return self


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The tree in a JSON file, with ``a.b=c`` overrides (values are JSON, or else strings).

    Raises:
        ConfigError: one line that names the file, the key, and the nearest known key.
    """
    data = read_json(path)
    for override in overrides:
        _set(data, override)
    return validate(Config, data, str(path))


def _set(data: Any, override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected a.b=c")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    *parents, last = path.split(".")
    try:
        for part in parents:
            data = data[int(part)] if isinstance(data, list) else data.setdefault(part, {})
        data[int(last) if isinstance(data, list) else last] = value
    except (AttributeError, IndexError, TypeError, ValueError):
        raise ConfigError(f"--set {override}: {path} leads into no section") from None
