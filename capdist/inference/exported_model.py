"""A trained model as three files that load without DeepSpeed.

``model.safetensors`` (fp32 weights), ``config.json`` (the resolved run configuration, the features
and the captions' tokeniser), ``vocab.json``.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from capdist.config.base import ConfigError, validate
from capdist.config.decoding import DecodingConfig
from capdist.config.run_config import Config, apply_override
from capdist.data.dataset import check_needs, members
from capdist.data.mixture import load_shards
from capdist.inference.feature_check import NOTHING_ACCEPTED, FeatureCheck
from capdist.inference.run_folder import (
    BEST,
    SavedModelJson,
    find_checkpoint,
    read_saved_model,
    saved_config,
)
from capdist.models.base import CaptionModel, Dims, build
from capdist.reporting.report.files import read_scores
from capdist.vocab import Vocabulary
from shards.atomic import write_text
from shards.concept_files import ConceptSet
from shards.concept_predictor import is_predicted, same_concepts
from shards.feature_spec import FeatureSpec
from shards.manifest import Manifest
from shards.npy import decode_npy
from shards.schema import ShardError
from shards.tokenisers import CaptionText

#: A captioning model's weights, those of detectors, and the words that these detect.
MODEL, DETECTOR, WORDS = "model.safetensors", "detector.safetensors", "detector.json"


@dataclass(frozen=True)
class ExportedModel:
    """A model in evaluation mode, with everything needed to use it.

    ``concepts`` identifies the detector, or the predictor of a build, whose concepts it was trained
    on; None: unknown, those of the tars. ``classes_kept`` are the classes of each region that it
    was given, 0 if unknown or none. ``features`` are those of the first feature set that it reads,
    ``further_features`` those of the others. ``text`` is tokeniser and language of the captions
    that it was trained on. ``weights`` is `weights_digest`.
    """

    model: CaptionModel[Any]
    config: Config
    vocab: Vocabulary
    features: FeatureSpec
    classes: int
    concepts: str | None
    text: CaptionText
    classes_kept: int = 0
    predicates: int = 0
    further_features: tuple[FeatureSpec, ...] = ()
    weights: str = ""

    @property
    def all_features(self) -> tuple[FeatureSpec, ...]:
        """Those of every feature set that it reads."""
        return (self.features, *self.further_features)

    def decoding(self, overrides: Sequence[str] = ()) -> DecodingConfig:
        """The decoding section of its config, with overrides such as ``decoding.beam=5``.

        Raises:
            ConfigError: if one is not of this section, or its value is not valid.
        """
        chosen = {"decoding": self.config.decoding.model_dump(mode="json")}
        for override in overrides:
            if not override.startswith("decoding."):
                raise ConfigError(
                    f"--set {override}: only decoding.* can be set for a trained model; the rest "
                    "is as it was trained"
                )
            apply_override(chosen, override)
        return validate(DecodingConfig, chosen["decoding"], "command line", "decoding")

    def check_features(self, manifest: Manifest, check: FeatureCheck = NOTHING_ACCEPTED) -> None:
        """Refuse shards whose features, classes or concepts are not those of training.

        Raises:
            ConfigError: naming both.
        """
        check.shards(self.all_features, manifest)
        if "classes" in self.model.needs and self.classes != len(manifest.class_names):
            raise ConfigError(
                f"{manifest.location}: {len(manifest.class_names)} names of classes, but the model "
                f"was trained with {self.classes}; build the shards with the same --class-names"
            )
        if "classes" in self.model.needs and self.classes_kept not in (0, classes_kept(manifest)):
            raise ConfigError(
                f"{manifest.location}: {classes_kept(manifest)} classes of each region, but the "
                f"model was trained with {self.classes_kept}; build the shards with --classes-kept "
                f"{self.classes_kept}"
            )
        if "relations" in self.model.needs and self.predicates != len(manifest.predicates):
            raise ConfigError(
                f"{manifest.location}: {len(manifest.predicates)} predicates, but the model was "
                f"trained with {self.predicates}; choose shards with the same ones"
            )
        if "concepts" in self.model.needs:
            check_concepts(self.concepts, manifest, self.config)

    def check_members(self, manifest: Manifest, split: str) -> None:
        """Refuse shards that lack a member that the model reads.

        Raises:
            ShardError: naming the member.
        """
        name = self.config.model.name
        if "concepts" in self.model.needs - members(manifest, split):
            raise ShardError(
                f"{manifest.location}: its samples have no concepts, which model {name!r} reads; "
                f"{_concepts_remedy(self.concepts, manifest, self.config)}"
            )
        lacking = self.model.may_lack_sets
        check_needs(manifest, split, self.model.needs, name, lacking=lacking)

    def check_text(self, manifest: Manifest) -> None:
        """Refuse references of another tokeniser than the training captions.

        Raises:
            ConfigError: naming both.
        """
        if self.text.tokeniser != manifest.text.tokeniser:
            raise ConfigError(
                f"{manifest.location}: captions of tokeniser {manifest.text.tokeniser!r}, but the "
                f"model was trained on {self.text.tokeniser!r}; build the shards with --tokeniser "
                f"{self.text.tokeniser}"
            )


def check_concepts(trained: str | None, manifest: Manifest, config: Config) -> None:
    """Refuse shards whose concepts come from another detector or predictor than in training.

    Raises:
        ConfigError: naming both.
    """
    if not same_concepts(trained, found := manifest.concept_source):
        names = [f"detector {name}" if name else "the tars" for name in (found, trained)]
        raise ConfigError(
            f"{manifest.location}: concepts of {names[0]}, but the model was trained on those of "
            f"{names[1]}; "
            + (_concepts_remedy(trained, manifest, config) if trained else "use shards with those")
        )


def _concepts_remedy(trained: str | None, manifest: Manifest, config: Config) -> str:
    """How shards get the concepts that a model was trained on."""
    if trained and is_predicted(trained):
        command, run = "python -m shards concepts", config.run
    elif "concepts" in config.provides:
        command, run = "capdist concepts", config.run
    elif trained:
        return "use shards with those"
    else:
        command = "python -m shards concepts"
        run = config.data.shards if isinstance(config.data.shards, str) else "TRAINING_SHARDS"
    places = f"--run {shlex.quote(run)} --shards {shlex.quote(manifest.location)}"
    return f"predict those with: {command} {places}"


def run_shards(config: Config, run: Path, shards: str | None = None) -> Manifest:
    """The shards of a run, or others, with the concepts that its own detector predicted for them.

    Other shards than those of the run have the concepts next to their tars.

    Raises:
        ShardError: if either is missing.
    """
    data = config.data.model_copy(update={"shards": shards}) if shards else config.data
    manifest = load_shards(data, config.model.features)
    if "concepts" not in config.provides:
        return manifest
    own = ConceptSet.load(run / "concepts")
    return manifest.with_concepts(own) if own.covers(manifest.sha256_by_shard) else manifest


def write_export(
    folder: Path,
    weights: dict[str, Tensor],
    config: Config,
    vocab: Vocabulary,
    manifest: Manifest,
    file: str = MODEL,
) -> None:
    """Write the three files.

    Args:
        folder: that gets them.
        weights: of the model.
        config: of the run.
        vocab: of the run.
        manifest: of its shards, for the features, classes and concepts.
        file: `MODEL` or `DETECTOR`, for the weights.
    """
    from safetensors.torch import save_file

    save_file(weights, folder / file, metadata={"vocabulary": vocab.hash})
    first, *further = (found.spec.without_scale().to_json() for found in manifest.chosen_sets)
    described = {
        "features": first,
        "further_features": further,
        "classes": len(manifest.class_names),
        "classes_kept": classes_kept(manifest),
        "predicates": len(manifest.predicates),
        "concepts": manifest.concept_source,
        **asdict(manifest.text),
        "run": config.model_dump(mode="json", by_alias=True),
    }
    write_text(folder / "config.json", json.dumps(described, indent=1))
    vocab.save(folder / "vocab.json")


def read_export(folder: Path) -> ExportedModel:
    """Load the three files.

    Raises:
        ConfigError: if one is missing, or the vocabulary is not the one of the weights.
    """
    for name in (MODEL, "config.json", "vocab.json"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name}: no such file; expected a checkpoint's folder")
    described = read_saved_model(folder)
    config = saved_config(folder)
    vocab = Vocabulary.load(folder / "vocab.json")
    weights = read_weights(folder, vocab)
    (features, *further), classes = read_features(described), described.get("classes", 0)
    predicates = described.get("predicates", 0)
    widths = tuple(spec.dim for spec in further)
    dims = Dims(features.dim, len(vocab), classes, predicates, widths)
    model = build(config.model, dims, str(folder))
    model.load_state_dict(weights)
    text = CaptionText.from_json(str(folder / "config.json"), described)
    return ExportedModel(
        model.eval(),
        config,
        vocab,
        features,
        classes,
        described.get("concepts"),
        text,
        described.get("classes_kept", 0),
        predicates,
        tuple(further),
        weights_digest(folder),
    )


def outdated(run: Path, scores: Path) -> str | None:
    """A line about scores of other weights than a run's best; None if they are of these.

    Older versions did not record the weights.
    """
    best = find_checkpoint(run, BEST)
    recorded = [row["weights"] for row in read_scores(scores).values() if "weights" in row]
    if best is None or recorded in ([], [[weights_digest(best)]]):
        return None
    return f"{scores}: of other weights than the run's best, {best}; evaluate it again"


def weights_digest(folder: Path) -> str:
    """SHA-256 of a captioning model's weights, in the folder of its checkpoint."""
    return hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()


def read_features(described: SavedModelJson) -> list[FeatureSpec]:
    """The features of every feature set that a model reads, of its ``config.json``."""
    first, further = described["features"], described.get("further_features", ())
    return [FeatureSpec.from_json(spec) for spec in (first, *further)]


def classes_kept(manifest: Manifest) -> int:
    """The likeliest classes of a region that the samples have; 0 if they have none."""
    split = manifest.shards[0].split
    if "classes" not in members(manifest, split):
        return 0
    _, data = next(manifest.read(split, "classes.npy"))
    return int(decode_npy(data).shape[1])


def read_run(run: Path, checkpoint: str = "best") -> ExportedModel:
    """The model of the ``best`` or ``last`` checkpoint of a run folder, which may have been moved.

    Raises:
        ConfigError: if there is none, or it is damaged.
    """
    folder = find_checkpoint(run, checkpoint)
    if folder is None:
        raise ConfigError(f"{run}: no {checkpoint} checkpoint; train first, or give another --run")
    exported = read_export(folder)
    return replace(exported, config=exported.config.model_copy(update={"run": str(run)}))


def read_weights(folder: Path, vocab: Vocabulary, file: str = MODEL) -> dict[str, Tensor]:
    """The weights, if they were trained with this vocabulary.

    Raises:
        ConfigError: if they were not, or the file is damaged.
        OSError: if it can't be read.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / file
    path.open("rb").close()  # safetensors' own errors do not name the file
    try:
        with safe_open(path, framework="pt") as stored:
            trained = stored.metadata()["vocabulary"]
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError(
            f"{path}: damaged ({error}); restore it, or use another checkpoint"
        ) from error
    if trained != vocab.hash:
        raise ConfigError(
            f"{folder / 'vocab.json'}: vocabulary {vocab.hash} ({len(vocab)} words), but the "
            f"weights were trained with {trained}; use the checkpoint's own vocab.json"
        )
    return weights
