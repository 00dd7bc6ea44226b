"""The configuration of a run: one typed, frozen tree, read from JSON.

An unknown key is refused with the nearest known one; ``--set a.b=c`` overrides any value.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from math import fsum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from shards.cache import Cache, default_folder


class ConfigError(ValueError):
    """A configuration that can't be run; the message names the file and the key."""


class Section(BaseModel):
    """A part of the tree: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SectionT = TypeVar("SectionT", bound=Section)

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class ShardSet(Section):
    """One of several sets that are mixed."""

    shards: str = Field(description="Folder of shards, with its manifest.json.")
    repeats: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Times an epoch sees it; may be a fraction; 1 if it has no proportion either.",
    )
    proportion: float | None = Field(
        None, gt=0, lt=1, description="Its share of an epoch's images, instead of repeats."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> ShardSet:
        if self.repeats is not None and self.proportion is not None:
            raise ValueError("has both repeats and a proportion; remove one of them")
        return self


#: How far from 1 proportions may be that are 1 together.
NEARLY = 1e-6

#: A union's members by what tells them apart, which pydantic puts into places of mistakes.
ONE, SEVERAL = "one folder", "several sets"


def _one_or_several(shards: Any) -> str:
    return SEVERAL if isinstance(shards, list | tuple) else ONE


class DataConfig(Section):
    """Where the shards are and how they are read."""

    shards: Annotated[
        Annotated[str, Tag(ONE)]
        | Annotated[tuple[ShardSet, ...], Field(min_length=1), Tag(SEVERAL)],
        Discriminator(_one_or_several),
    ] = Field(
        description="Folder of shards, or its URL, or a list of sets that are mixed in training."
    )
    min_count: Positive = Field(5, description="Rarer words of the training captions become UNK.")
    max_words: Positive = Field(20, description="Training captions are clipped to this many words.")
    max_concepts: Positive = Field(36, description="Best-scored concepts kept for an image.")
    lanes: Positive = Field(64, description="Lanes of the sample order; ranks must divide them.")
    window: Positive = Field(64, description="Samples of a lane that are mixed with each other.")
    reader: Literal["auto", "stream", "mapped", "dali"] = Field(
        "auto", description="What reads the tars; auto: mapped, or stream where they are remote."
    )
    workers: int = Field(
        2, ge=0, description="Of each rank: threads of mapped or processes of stream; 0: none."
    )
    cache: Literal["ram", "gpu"] | None = Field(
        None,
        description="ram: lock the training shards in the page cache; gpu: keep their regions "
        "there (reader mapped).",
    )
    max_bad_samples: int = Field(
        0, ge=0, description="Damaged samples that an epoch goes on without; more stop training."
    )
    cache_dir: str | None = Field(
        None,
        description="Folder of this node's copies of remote shards; none: capdist-<user id> in "
        "TMPDIR, or capdist in the user's cache folder.",
    )
    cache_bytes: Positive = Field(64 * 2**30, description="Most bytes that those copies take.")
    max_bad_shards: int = Field(
        0, ge=0, description="Remote shards that training may go on without."
    )

    @field_validator("shards")
    @classmethod
    def _shares(cls, shards: str | tuple[ShardSet, ...]) -> str | tuple[ShardSet, ...]:
        sets = () if isinstance(shards, str) else shards
        given = [part.proportion for part in sets if part.proportion is not None]
        total = fsum(given)
        said = f"proportions {', '.join(f'{p:g}' for p in given)} are {total:g} together"
        others = [f"data.shards.{n}" for n, part in enumerate(sets) if part.proportion is None]
        if given and not others and abs(total - 1) > NEARLY:
            raise ValueError(
                f"{said}, expected 1, for every set has one; change them, or remove one"
            )
        if others and total > 1 - NEARLY:
            raise ValueError(
                f"{said}, which leaves nothing of an epoch for {', '.join(others)}; "
                "lower them, or give all sets one"
            )
        return shards

    @model_validator(mode="after")
    def _cached(self) -> DataConfig:
        if self.cache == "gpu" and self.reader not in ("auto", "mapped"):
            raise ValueError(f"cache gpu goes with reader mapped, not with {self.reader}")
        return self

    @property
    def copies(self) -> Cache:
        """Where copies of remote shards are kept."""
        folder = Path(self.cache_dir) if self.cache_dir else default_folder()
        return Cache(folder, self.cache_bytes)


class OptimizerConfig(Section):
    """Adam, or AdamW when ``decoupled`` (weight decay outside the gradient)."""

    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    decoupled: bool = False
    clip_norm: float = Field(0.0, ge=0, description="Largest global gradient norm; 0: no limit.")


class ConstantSchedule(Section):
    """The optimizer's rate, reached linearly over ``warmup_steps``."""

    name: Literal["constant"] = "constant"
    warmup_steps: int = Field(0, ge=0)


class StepSchedule(Section):
    """The rate times ``gamma`` every ``every_epochs`` epochs, after a linear warm-up."""

    name: Literal["step"]
    gamma: float = Field(0.8, gt=0, le=1)
    every_epochs: Positive = 3
    warmup_steps: int = Field(0, ge=0)


class NoamSchedule(Section):
    """Linear warm-up to the rate, then decay with 1/sqrt(step) (Vaswani et al. 2017, Eq. 3)."""

    name: Literal["noam"]
    warmup_steps: Positive = 4000


class CosineSchedule(Section):
    """Linear warm-up to the rate, then half a cosine down to 0 at the stage's last step."""

    name: Literal["cosine"]
    warmup_steps: int = Field(0, ge=0)


Schedule = Annotated[
    ConstantSchedule | StepSchedule | NoamSchedule | CosineSchedule, Field(discriminator="name")
]


class BatchConfig(Section):
    """The one home of batch sizes, in images; every image brings all its captions.

    Accumulation follows: images = micro × ranks × accumulation steps.
    """

    images: Positive = Field(description="Images of one optimizer step, over all ranks.")
    micro: Positive = Field(description="Images of one forward pass on one rank.")

    def accumulation(self, world: int) -> int:
        """Micro-batches of a step: the same number on every rank, in every step."""
        return -(-self.images // (world * self.micro))


class ScheduledSampling(Section):
    """Share of input words taken from the model itself: ``increase`` every ``every_epochs``."""

    increase: Share = 0.05
    every_epochs: Positive = 5
    maximum: Share = 0.25


class TrainingStage(Section):
    """What all stages have."""

    epochs: Positive
    batch: BatchConfig
    optimizer: OptimizerConfig
    schedule: Schedule = ConstantSchedule()
    patience: Positive | None = Field(
        None, description="Stop after this many evaluations without a better validation score."
    )


class GroundingConfig(Section):
    """The grounding loss of Spatial-Semantic attention, on shards that have grounding."""

    weight: float = Field(1.0, gt=0, description="μ.")
    iou: float = Field(
        0.0, ge=0, lt=1, description="An object's best region overlaps it by more, or is none."
    )


class XeStage(TrainingStage):
    """Cross entropy with teacher forcing."""

    objective: Literal["xe"]
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    scheduled_sampling: ScheduledSampling | None = None
    grounding: GroundingConfig | None = None


class MilStage(TrainingStage):
    """Concepts by multiple-instance learning (Fang et al. 2015), before captions."""

    objective: Literal["mil"]
    words: Positive = Field(1000, description="Commonest content words of the training captions.")
    kept: Positive = Field(49, description="Best concepts that an image keeps.")
    folds: int = Field(5, ge=2, description="Training images' concepts are cross-fitted by these.")
    hidden: Positive = Field(512, description="Width of the layer on a region.")
    dropout: float = Field(0.5, ge=0, lt=1)


class RewardConfig(Section):
    """What self-critical training maximises, and who computes it."""

    metrics: dict[str, float] = Field({"cider_d": 1.0}, description="Weight of each reward.")
    actors: int = Field(1, ge=0, description="Ray actors; 0: in the trainer's own process.")
    cpus: float = Field(1.0, gt=0, description="CPUs that Ray reserves for an actor.")


class ScstStage(TrainingStage):
    """Self-critical training (Rennie et al. 2017) on captions that the model draws itself."""

    objective: Literal["scst"]
    samples: Positive = Field(5, description="n, captions drawn of an image.")
    baseline: Literal["greedy", "leave_one_out"] = Field(
        "leave_one_out", description="The greedy caption's reward, or the other samples' mean."
    )
    reward: RewardConfig = RewardConfig()

    @model_validator(mode="after")
    def _others(self) -> ScstStage:
        if self.baseline == "leave_one_out" and self.samples == 1:
            raise ValueError("baseline leave_one_out needs samples of 2 or more; or take greedy")
        return self


Stage = Annotated[MilStage | XeStage | ScstStage, Field(discriminator="objective")]


class LengthConfig(Section):
    """What a score is divided by where hypotheses compete; scores stay sums."""

    name: Literal["none", "average", "gnmt"] = Field(
        "none", description="1; the length with its end; or ((5 + length) / 6)^alpha."
    )
    alpha: float = Field(0.6, gt=0, description="Of gnmt (Wu et al. 2016, Eq. 14).")


class DecodingConfig(Section):
    """How captions are decoded when they are scored."""

    beam: Positive = Field(3, description="Hypotheses an image; 1 is greedy.")
    max_words: Positive = 20
    min_words: int = Field(0, ge=0)
    length: LengthConfig = LengthConfig()
    no_repeat_ngram: int = Field(0, ge=0, description="No n words twice in a caption; 0: may be.")
    no_immediate_repeat: bool = Field(False, description="No word twice in a row.")
    forbidden: tuple[str, ...] = Field((), description="Words that are never written.")
    forced: tuple[tuple[str, ...], ...] = Field(
        (), description="Sets of words; every caption has a word of each."
    )
    groups: Positive = Field(1, description="Groups of hypotheses that shun each other's words.")
    diversity: float = Field(0.5, ge=0, description="λ, what a group pays for a shunned word.")
    batch: Positive = Field(50, description="Images decoded at a time on one rank.")

    @model_validator(mode="after")
    def _room(self) -> DecodingConfig:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is more than max_words {self.max_words}")
        if self.beam % self.groups:
            raise ValueError(f"{self.groups} groups do not divide a beam of {self.beam}")
        return self


class SamplingConfig(Section):
    """How captions are drawn from a model."""

    samples: Positive = Field(5, description="Captions of an image.")
    max_words: Positive = 20
    temperature: float = Field(1.0, gt=0)
    top_k: int = Field(0, ge=0, description="Draw among the k likeliest tokens; 0: among all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw among the likeliest that make up p.")
    gumbel: bool = Field(False, description="Draw by Gumbel's trick.")


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


def read_json(path: Path | str) -> Any:
    """A JSON file's content.

    Raises:
        ConfigError: if the file is missing or does not parse.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error


def validate(section: type[SectionT], data: Any, where: str, prefix: str = "") -> SectionT:
    """``data`` as a section; ``where`` names its file and ``prefix`` its place in the tree.

    Raises:
        ConfigError: for the first thing wrong, in one line.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(section, error, prefix)}") from None


def _explain(section: type[Section], error: ValidationError, prefix: str) -> str:
    # An unknown key is often the misspelling of one that is then missing: name it first.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    # Pydantic puts the chosen member of a union into the place; it is no key of the file.
    names = [str(part) for part in first["loc"] if part not in {ONE, SEVERAL, *_tags(section)}]
    key = ".".join([prefix, *names] if prefix else names)
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(section, names)}"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    return f"{key}: {message}{got}" if key else f"{message}{got}"


def _suggestion(section: type[Section], names: list[str]) -> str:
    *above, leaf = [name for name in names if not name.isdigit()]
    known = {key: key.rpartition(".")[2] for key in _keys(section, "")}
    siblings = [k for k in known if k.rpartition(".")[0] == ".".join(above)]
    # A right key in the wrong section is as common a slip as a misspelling.
    near = [key for key, name in known.items() if name == leaf]
    near = near or difflib.get_close_matches(".".join([*above, leaf]), siblings, 1, 0.5)
    near = near or difflib.get_close_matches(leaf, known, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(siblings)}"


def _keys(section: type[Section], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key
        for part in _sections(field.annotation):
            yield from _keys(part, f"{key}.")


def _tags(section: type[Section]) -> set[str]:
    tags = set()
    for field in section.model_fields.values():
        for part in _sections(field.annotation):
            name = part.model_fields.get("name") or part.model_fields.get("objective")
            tags |= {str(tag) for tag in get_args(name.annotation)} if name else set()
            tags |= _tags(part)
    return tags


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


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
