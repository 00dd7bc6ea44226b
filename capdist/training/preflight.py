"""Whether config, model, shards and checkpoint fit each other, before anything trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capdist.config.base import ConfigError, read_json
from capdist.config.run_config import Config
from capdist.config.stage import MilStage, ScstStage, XeStage
from capdist.data.dataset import members
from capdist.engines.base import zero_stage
from capdist.inference.concept_prediction import Detector
from capdist.inference.exported_model import DETECTOR, MODEL, check_concepts, read_weights
from capdist.inference.run_folder import find_checkpoint
from capdist.losses.grounding import Salient
from capdist.models.base import CaptionModel, parse
from capdist.objectives.concept_detection import Detection, DetectorValidator
from capdist.rewards.base import check_names
from capdist.vocab import Vocabulary
from shards.manifest import Manifest


@dataclass(frozen=True)
class Preflight:
    """Of one run; ``where`` names the config's file, ``ranks`` is their number."""

    config: Config
    where: str
    ranks: int
    manifest: Manifest
    vocab: Vocabulary
    model: CaptionModel[Any]

    def stages(self) -> None:
        """Refuse rewards that are not there, and what model or shards have nothing for.

        Raises:
            ConfigError: naming the stage.
        """
        for number, stage in enumerate(self.config.stages):
            place = f"{self.where}: stages.{number}"
            match stage:
                case MilStage():
                    Detection.of(self.config, stage, self.manifest)
                case ScstStage():
                    check_names(stage.reward.metrics, f"{place}.reward.metrics")
                case XeStage():
                    self._cross_entropy(stage, place)
        self._zero()

    def _cross_entropy(self, stage: XeStage, place: str) -> None:
        if stage.scheduled_sampling and not self.model.recurrent:
            raise ConfigError(
                f"{place}.scheduled_sampling needs a recurrent model, "
                f"{self.config.model['name']} is none; remove it"
            )
        if stage.grounding:
            self._grounding(f"{place}.grounding")

    def _grounding(self, option: str) -> None:
        """Refuse the grounding loss where nothing can be told, or there is nothing to tell."""
        if not isinstance(self.model, Salient):
            raise ConfigError(
                f"{option} needs a model that says which regions captions speak of, as ss_updown "
                f"does; {self.config.model['name']} does not; remove it"
            )
        if "grounding" not in members(self.manifest, "train"):
            raise ConfigError(
                f"{option}: {self.manifest.location}: its samples have no grounding; remove it, or "
                "choose other shards"
            )

    def _zero(self) -> None:
        """Refuse ZeRO 3 where ranks would gather weights at different words."""
        if self.config.engine != "deepspeed" or zero_stage(self.config.deepspeed) != 3:
            return
        if self.ranks > 1 and self.model.recurrent:
            raise ConfigError(
                f"{self.where}: deepspeed.zero_optimization.stage 3 on {self.ranks} ranks: "
                f"DeepSpeed gathers weights at every word that {self.config.model['name']} reads, "
                "and the ranks' captions have different lengths; choose stage 2"
            )

    def checkpoint(self, last: Path) -> None:
        """Refuse to go on with a checkpoint of another vocabulary, model or detector.

        Raises:
            ConfigError: naming the checkpoint.
        """
        if (last / DETECTOR).is_file():
            read_weights(last, self.vocab, DETECTOR)
            Detector.read(last).check(self.config.mil, f"{self.where}: stages.0")
        else:
            self._captioner(last)

    def _captioner(self, last: Path) -> None:
        """Refuse to go on with another model, or with concepts of another detector."""
        read_weights(last, self.vocab, MODEL)
        described = read_json(last / "config.json")
        if self.config.mil and not find_checkpoint(
            Path(self.config.run), DetectorValidator.kept_as
        ):
            raise ConfigError(
                f"{self.where}: stages.0 is mil, but {last} was trained without it; resume with "
                "its config, or choose another folder by --set run=FOLDER"
            )
        if self.config.mil is None and "concepts" in self.model.needs:
            check_concepts(described.get("concepts"), self.manifest, self.config)
        trained = described["run"]["model"]
        if parse(trained, str(last)) != parse(self.config.model, self.where):
            raise ConfigError(
                f"{self.where}: model is not the one of {last}, {trained}; "
                "resume with its config, or choose another folder by --set run=FOLDER"
            )
