"""Whether config, model, shards and checkpoint fit each other, before anything trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capdist.config.base import ConfigError
from capdist.config.run_config import Config, zero_stage
from capdist.config.stage import TrainingStage
from capdist.decoding.constraints import Constraints
from capdist.engines.optimizer import check_groups, check_implementation
from capdist.inference.concept_prediction import Detector, detector_sizes
from capdist.inference.exported_model import (
    DETECTOR,
    MODEL,
    check_concepts,
    read_features,
    read_weights,
)
from capdist.inference.feature_check import NOTHING_ACCEPTED, FeatureCheck
from capdist.inference.run_folder import (
    BEST_DETECTOR,
    find_checkpoint,
    read_progress,
    read_saved_model,
    saved_config,
)
from capdist.models.base import CaptionModel
from capdist.objectives.base import StageContext, objective_of
from capdist.training.trainer import has_ended
from capdist.vocab import Vocabulary
from shards.manifest import Manifest


@dataclass(frozen=True)
class Preflight:
    """The checks of one run; ``where`` names the config's file, ``ranks`` is their number.

    ``check`` compares the features with those of a checkpoint.
    """

    config: Config
    where: str
    ranks: int
    manifest: Manifest
    vocab: Vocabulary
    model: CaptionModel[Any]
    check: FeatureCheck = NOTHING_ACCEPTED

    def stages(self, context: Callable[[int], StageContext]) -> None:
        """Refuse what an objective, its optimizer or the engine can't do.

        Raises:
            ConfigError, ShardError: naming the stage.
        """
        for number, stage in enumerate(self.config.stages):
            objective_of(stage).preflight(stage, context(number))
            if stage.trains_captions:
                place = f"{self.where}: stages.{number}.optimizer"
                check_groups(self.model, stage.optimizer, place)
                check_implementation(stage.optimizer, place)
            if stage.optimizer.clip_value and self.config.engine == "deepspeed":
                raise ConfigError(
                    f"{self.where}: stages.{number}.optimizer.clip_value: DeepSpeed clips by norm "
                    "only; set clip_norm instead, or engine to torch"
                )
        self._zero()
        self._decoding()

    def _decoding(self) -> None:
        """Refuse words that the decoding section forbids or forces, but no caption can have."""
        try:
            Constraints.of(self.config.decoding, self.vocab)
        except ConfigError as error:
            raise ConfigError(f"{self.where}: {error}") from None

    def _zero(self) -> None:
        """Refuse ZeRO 3 where ranks would gather weights at different words."""
        if self.config.engine != "deepspeed" or zero_stage(self.config.deepspeed) != 3:
            return
        if self.ranks > 1 and self.model.recurrent:
            raise ConfigError(
                f"{self.where}: deepspeed.zero_optimization.stage 3 on {self.ranks} ranks: "
                f"DeepSpeed gathers weights at every word that {self.config.model.name} reads, "
                "and the ranks' captions have different lengths; choose stage 2"
            )

    def checkpoint(self, last: Path) -> None:
        """Refuse to resume with another engine, state, features, vocabulary, model or detector.

        Raises:
            ConfigError: naming the checkpoint.
        """
        self._engine(last)
        self._stage(last)
        trained = read_features(read_saved_model(last))
        self.check.shards(trained, self.manifest, f"{last}")
        if (last / DETECTOR).is_file():
            self._detector(last)
        else:
            self._captioner(last)

    def _engine(self, last: Path) -> None:
        """Refuse another engine or precision, and a ZeRO stage that can't be converted."""
        saved = saved_config(last)
        self._same("engine is", saved.engine, self.config.engine, last)
        self._same("precision is", saved.precision, self.config.precision, last)
        self._same("ZeRO stage is", _zero_kind(saved), _zero_kind(self.config), last)

    def _stage(self, last: Path) -> None:
        """Refuse other parts of the state in the middle of a stage."""
        progress = read_progress(last)
        number, stages = progress.stage, self.config.stages
        if number >= len(stages) or has_ended(stages[number], progress):
            return
        for (name, wrote), (_, now) in zip(
            _parts(saved_config(last).stages[number]), _parts(stages[number]), strict=True
        ):
            self._same(f"stages.{number}.{name}", wrote, now, last)

    def _same(self, what: str, wrote: str, now: str, last: Path) -> None:
        if wrote != now:
            raise ConfigError(
                f"{self.where}: {what} {now}, but {last} was written with {wrote}; resume with its "
                "config, or choose another folder with --set run=FOLDER"
            )

    def _detector(self, last: Path) -> None:
        read_weights(last, self.vocab, DETECTOR)
        detector = Detector.read(last)
        if "concepts" not in self.config.provides:
            raise ConfigError(
                f"{self.where}: no stage detects concepts, but {last} has detectors; resume with "
                "its config, or choose another folder with --set run=FOLDER"
            )
        detector.check(detector_sizes(self.config), f"{self.where}: stages.0")

    def _captioner(self, last: Path) -> None:
        """Refuse another model, and concepts of another detector."""
        read_weights(last, self.vocab, MODEL)
        detects = "concepts" in self.config.provides
        if detects and not find_checkpoint(Path(self.config.run), BEST_DETECTOR):
            raise ConfigError(
                f"{self.where}: stages.0 is {self.config.stages[0].objective}, but {last} was "
                "trained without it; resume with its config, or choose another folder with "
                "--set run=FOLDER"
            )
        if not detects and "concepts" in self.model.needs:
            concepts = read_saved_model(last).get("concepts")
            check_concepts(concepts, self.manifest, self.config)
        trained = saved_config(last).model
        if trained != self.config.model:
            raise ConfigError(
                f"{self.where}: model is not the one of {last}, {trained.model_dump()}; "
                "resume with its config, or choose another folder with --set run=FOLDER"
            )


def _parts(stage: TrainingStage) -> Iterator[tuple[str, str]]:
    """The settings that decide of which parts the state of a stage consists, in words."""
    groups = [f"{g.match} (frozen)" if g.frozen else g.match for g in stage.optimizer.groups]
    yield "optimizer.groups are", ", ".join(groups) or "none"
    yield "optimizer.ema is", "on" if stage.optimizer.ema else "off"
    yield "reinforce is", "on" if getattr(stage, "reinforce", None) else "off"


def _zero_kind(config: Config) -> str:
    """Its ZeRO stage, or those that DeepSpeed's universal checkpoint converts into each other."""
    stage = zero_stage(config.deepspeed) if config.engine == "deepspeed" else 0
    return "1 or 2" if stage in (1, 2) else str(stage)
