"""What a run takes over from another one: its weights and its words (``stages.0.init``).

The run keeps a copy in ``checkpoints/initial``: an exported model, and ``init.json``, which says
where it comes from. So it resumes without the other run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from capdist.config.base import ConfigError, read_json_as
from capdist.config.run_config import Config
from capdist.config.stage import InitConfig
from capdist.inference.exported_model import ExportedModel, read_export, write_export
from capdist.inference.feature_check import FeatureCheck
from capdist.inference.run_folder import INITIAL, find_checkpoint, saved_config
from capdist.vocab import SPECIALS, Vocabulary
from shards.atomic import fsync_folder, write_json
from shards.manifest import Manifest

#: Where the weights of a run come from; next to its initial model.
ORIGIN = "init.json"
_SHOWN = 10


@dataclass(frozen=True)
class InitialModel:
    """Another run's model, from which a run begins.

    Args:
        init: the config's section.
        place: of the section, for messages.
        folder: the other run's checkpoint.
        source: the model in it.
        counted: the vocabulary of the training captions alone.
    """

    init: InitConfig
    place: str
    folder: Path
    source: ExportedModel
    counted: Vocabulary

    @classmethod
    def open(
        cls,
        config: Config,
        where: str,
        manifest: Manifest,
        counted: Vocabulary,
        check: FeatureCheck,
    ) -> InitialModel | None:
        """The model that a config's ``init`` names, if it has one.

        Raises:
            ConfigError: if there is none, or it is of another model or extractor.
        """
        if config.init is None:
            return None
        number, init = config.init
        place = f"{where}: stages.{number}.init"
        folder = find_checkpoint(Path(init.run), init.checkpoint)
        if folder is None:
            raise ConfigError(
                f"{place}.run: {init.run} has no {init.checkpoint} checkpoint; give the folder of "
                "a run that has one"
            )
        source = read_export(folder)
        if source.config.model != config.model:
            raise ConfigError(
                f"{place}.run: model is not the one of {init.run}, "
                f"{source.config.model.model_dump_json()}; give both the same"
            )
        check.shards(source.all_features, manifest, init.run)
        source.check_text(manifest)
        return cls(init, place, folder, source, counted)

    @property
    def vocab(self) -> Vocabulary:
        """The words of the run: those of the other one, and new ones after them."""
        known = self.source.vocab
        return known if self.init.vocabulary == "keep" else known.extended(self.counted)

    def weights(self, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The other run's weights; what belongs to new words is as in ``fresh``.

        Args:
            fresh: the weights of a newly initialised model with `vocab`.

        Raises:
            ConfigError: naming a weight whose shape differs in more than its words.
        """
        known = self.source.model.state_dict()
        added = len(self.vocab) - len(self.source.vocab)
        mapped = {}
        for name, tensor in fresh.items():
            if (found := _with_new_words(known[name], tensor, added)) is None:
                raise ConfigError(
                    f"{self.place}.run: {name} is {tuple(known[name].shape)} in {self.folder}, "
                    f"expected {tuple(tensor.shape)}; give both runs the same class names"
                )
            mapped[name] = found
        return mapped

    def report(self, fresh: Mapping[str, Tensor]) -> list[str]:
        """Lines that say which weights and words are taken over, and which are new."""
        known, counted = self.source.vocab, self.counted.words[len(SPECIALS) :]
        new = [word for word in counted if word not in known]
        shown = f" ({', '.join(new[:_SHOWN])}{', ...' if len(new) > _SHOWN else ''})" if new else ""
        fate = "become UNK" if self.init.vocabulary == "keep" else "initialised afresh"
        weights = self.source.model.state_dict()
        grown = [
            f"{name} {tuple(weights[name].shape)} -> {tuple(tensor.shape)}"
            for name, tensor in fresh.items()
            if weights[name].shape != tensor.shape
        ]
        return [
            f"init: {len(fresh)} weights of {self.folder}",
            f"init: vocabulary {self.init.vocabulary}: that run's {len(known) - len(SPECIALS)} "
            f"words keep their ids; of {len(counted)} words of the training captions, "
            f"{len(counted) - len(new)} are known and {len(new)} new{shown}: {fate}",
            *(f"init: {line}" for line in grown),
        ]

    def write(self, config: Config, manifest: Manifest, weights: Mapping[str, Tensor]) -> None:
        """Keep the model that a run begins with in its folder."""
        final = Path(config.run) / "checkpoints" / INITIAL
        temporary = final.with_name(f".writing-{INITIAL}")
        for folder in (temporary, final):
            shutil.rmtree(folder, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_export(temporary, dict(weights), config, self.vocab, manifest)
        origin = {
            **self.init.model_dump(),
            "folder": str(self.folder.absolute()),
            "weights": self.source.weights,
            "known_words": len(self.source.vocab),
            "new_words": self.vocab.words[len(self.source.vocab) :],
        }
        write_json(temporary / ORIGIN, origin)
        fsync_folder(temporary)
        temporary.rename(final)


def kept_vocabulary(config: Config, last: Path | None) -> Vocabulary | None:
    """The words of a run that began from another one, as it has kept them; None if it has not.

    Args:
        config: of the run.
        last: its last checkpoint, if it has one.

    Raises:
        ConfigError: if it has kept the initial model of another config.
    """
    folder = last or initial_folder(config)
    if config.init is None or folder is None:
        return None
    if last is None:
        saved = saved_config(folder)
        if (saved.model, saved.init) != (config.model, config.init):
            raise ConfigError(
                f"{folder}: was made with another model or init; resume with its config, or choose "
                "another folder with --set run=FOLDER"
            )
    return Vocabulary.load(folder / "vocab.json")


def initial_folder(config: Config) -> Path | None:
    """Where a run keeps the model that it took over; None if it begins afresh."""
    folder = Path(config.run) / "checkpoints" / INITIAL
    return folder if config.init and folder.is_dir() else None


def read_origin(config: Config) -> dict[str, Any] | None:
    """Where the weights of a run come from; None if it begins afresh."""
    folder = initial_folder(config)
    return read_json_as(dict[str, Any], folder / ORIGIN) if folder else None


def _with_new_words(known: Tensor, fresh: Tensor, added: int) -> Tensor | None:
    """``known`` where it has entries, ``fresh`` for the ``added`` words after them.

    None if the shapes differ in anything but one axis that has as many more entries.
    """
    if known.shape == fresh.shape:
        return known.clone()
    if known.dim() != fresh.dim():
        return None
    differ = [axis for axis in range(known.dim()) if known.shape[axis] != fresh.shape[axis]]
    if len(differ) != 1 or fresh.shape[differ[0]] - known.shape[differ[0]] != added:
        return None
    extended = fresh.clone()
    extended.narrow(differ[0], 0, known.shape[differ[0]]).copy_(known)
    return extended
