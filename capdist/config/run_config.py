"""The configuration of a run, and its file; ``--set a.b=c`` overrides any value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from capdist.config.base import (
    ConfigError,
    Positive,
    Section,
    SectionT,
    read_json,
    validate,
)
from capdist.config.data import DataConfig
from capdist.config.decoding import DecodingConfig
from capdist.config.model import MODEL_SECTIONS, ModelConfig
from capdist.config.registry import Registry
from capdist.config.stage import STAGE_SECTIONS, InitConfig, TrainingStage


class ValidationConfig(Section):
    """The validation score that chooses the best checkpoint: CIDEr of greedy captions, or AP."""

    split: str = "val"
    every_epochs: Positive = 1
    by: Literal["trainer", "follower"] = Field(
        "trainer",
        description="What scores captions; follower: evaluate.py --follow, with decoding.beam.",
    )

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether an epoch of a stage is evaluated: the last of its ``epochs`` always is."""
        return epoch % self.every_epochs == 0 or epoch == epochs


class RayConfig(Section):
    """The Ray cluster that rewards and evaluations are computed on."""

    address: str = Field("local", description="Of a running cluster; 'local' starts one.")
    timeout_s: float = Field(20.0, gt=0, description="Seconds to wait for a cluster's answer.")


class CheckpointConfig(Section):
    """When the state is saved, in addition to the end of every epoch."""

    every_steps: Positive | None = None


class Config(Section):
    """A run from shards to a trained model."""

    schema_: str | None = Field(None, alias="$schema")
    description: str = Field(description="What it is for, how long it takes, what score to expect.")
    run: str = Field(description="Folder for everything that the run writes.")
    seed: int = Field(1, ge=0, lt=2**63)
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    data: DataConfig
    model: SerializeAsAny[ModelConfig]
    stages: tuple[SerializeAsAny[TrainingStage], ...] = Field(min_length=1)
    validation: ValidationConfig = ValidationConfig()
    decoding: DecodingConfig = DecodingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    ray: RayConfig = RayConfig()
    tracking: str | None = Field(
        None, description="Service that also gets numbers, captions and scores: mlflow or wandb."
    )
    timeout_s: float = Field(
        600.0, gt=0, description="Seconds without a heartbeat from a rank before the others exit."
    )
    deepspeed: dict[str, Any] = Field(
        default_factory=dict,
        description="DeepSpeed's own JSON, passed through; batch sizes, optimizer and clipping "
        "come from the stage.",
    )

    @property
    def provides(self) -> frozenset[str]:
        """Members of a sample that the run predicts itself."""
        return frozenset().union(*(stage.provides for stage in self.stages))

    @property
    def precision(self) -> Literal["fp32", "bf16", "fp16"]:
        """Of the model's arithmetic, with either engine."""
        if enabled(self.deepspeed, "fp16"):
            return "fp16"
        return "bf16" if enabled(self.deepspeed, "bf16") else "fp32"

    @property
    def init(self) -> tuple[int, InitConfig] | None:
        """The stage that begins from another run, and which run; None: the model begins afresh."""
        found = [(number, stage.init) for number, stage in enumerate(self.stages) if stage.init]
        return found[0] if found else None

    @property
    def uses_ray(self) -> bool:
        """Whether Ray actors take part in training."""
        return any(stage.uses_ray for stage in self.stages)

    @model_validator(mode="after")
    def _providers_first(self) -> Config:
        trained = False
        for number, stage in enumerate(self.stages):
            if stage.provides and trained:
                raise ValueError(
                    f"stages.{number}: {stage.objective!r} must come before the stages that train "
                    f"on its {', '.join(sorted(stage.provides))}; make it stages.0"
                )
            trained |= stage.trains_captions
        return self

    @model_validator(mode="after")
    def _init_first(self) -> Config:
        captioning = [n for n, stage in enumerate(self.stages) if stage.trains_captions]
        for number, stage in enumerate(self.stages):
            if stage.init and number not in captioning[:1]:
                first = captioning[0] if captioning else "N"
                raise ValueError(
                    f"stages.{number}.init: only the first stage that trains captions can begin "
                    f"from another run; make it stages.{first}.init"
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
    def _precisions(self) -> Config:
        for name in ("bf16", "fp16"):
            section = self.deepspeed.get(name, {})
            if not isinstance(section, dict):
                raise ValueError(
                    f'deepspeed.{name}: expected a section such as {{"enabled": true}}, got '
                    f"{json.dumps(section)}"
                )
        if self.engine == "torch":
            for name in ("fp16", "torch_autocast"):
                if enabled(self.deepspeed, name):
                    raise ValueError(
                        f"deepspeed.{name}: engine torch computes in fp32 or, with deepspeed.bf16, "
                        "in bf16; choose one of them, or engine deepspeed"
                    )
        # Without ZeRO, DeepSpeed 0.19.8 divides fp16 gradients by a loss scale that its backward
        # pass has not applied: the updates would silently be too small.
        elif self.precision == "fp16" and not zero_stage(self.deepspeed):
            raise ValueError(
                "deepspeed.fp16 needs deepspeed.zero_optimization.stage 1, 2 or 3: without ZeRO "
                "DeepSpeed does not scale the loss"
            )
        return self


def zero_stage(deepspeed: dict[str, Any]) -> int:
    """The ZeRO stage that DeepSpeed's JSON asks for."""
    zero = deepspeed.get("zero_optimization")
    return int(zero.get("stage", 0)) if isinstance(zero, dict) else 0


def enabled(deepspeed: dict[str, Any], name: str) -> bool:
    """Whether a section of DeepSpeed's JSON is there and enabled."""
    section = deepspeed.get(name)
    return isinstance(section, dict) and bool(section.get("enabled", False))


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a JSON file, with ``a.b=c`` overrides (JSON values, or else strings).

    Raises:
        ConfigError: one line that names the file, the key, and the nearest known key.
    """
    data = read_json(path)
    for override in overrides:
        apply_override(data, override)
    return parse_config(data, str(path))


def parse_config(data: Any, where: str) -> Config:
    """The configuration that JSON holds; ``where`` names its file in messages.

    The sections of the model and of the stages are those that their plug-ins declare.

    Raises:
        ConfigError: as `load_config`.
    """
    if isinstance(data, dict):
        data = dict(data)
        if "model" in data:
            data["model"] = parse_model(data["model"], where)
        if isinstance(data.get("stages"), list | tuple):
            data["stages"] = [
                _parse(STAGE_SECTIONS, "objective", stage, where, f"stages.{number}")
                for number, stage in enumerate(data["stages"])
            ]
    return validate(Config, data, where)


def parse_saved_config(data: Any, where: str) -> Config:
    """The configuration that a run has written; ``where`` names its file.

    Older versions called ``data.resident`` ``data.cache``.

    Raises:
        ConfigError: if it is damaged.
    """
    if isinstance(data, dict) and isinstance(found := data.get("data"), dict) and "cache" in found:
        data = {**data, "data": {"resident": found["cache"], **found}}
        del data["data"]["cache"]
    return parse_config(data, where)


def parse_model(data: Any, where: str) -> ModelConfig:
    """The section of the model that ``data["name"]`` names; ``where`` names its file.

    Raises:
        ConfigError: if there is no such model, or a key is wrong.
    """
    return _parse(MODEL_SECTIONS, "name", data, where, "model")


def _parse(
    registry: Registry[type[SectionT]], key: str, data: Any, where: str, place: str
) -> SectionT:
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: {place}: expected a section with {key!r}, got {data!r}")
    section = registry.get(data.get(key), f"{where}: {place}.{key}")
    return validate(section, data, where, place)


def apply_override(data: Any, override: str) -> None:
    """Set a value of JSON data to what ``a.b=c`` says: a JSON value, or else a string.

    Raises:
        ConfigError: if there is no such place.
    """
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
        raise ConfigError(f"--set {override}: {path} is not in any section") from None
