"""Whether features are those that a run was trained on; what the user accepts instead is recorded.

``accepted_features.jsonl`` in the run folder has one line for each: time, command, what the
features are of, and how they differ.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from capdist.config.base import ConfigError
from shards.feature_spec import FeatureSpec
from shards.fingerprint import Fingerprint
from shards.manifest import Manifest

ACCEPTED = "accepted_features.jsonl"


@dataclass(frozen=True)
class FeatureCheck:
    """Compares features with those of training.

    Args:
        accept: whether the user accepts features with other statistics.
        runs: folders in which that is recorded.
    """

    accept: bool = False
    runs: tuple[Path, ...] = ()

    def shards(
        self, trained: Sequence[FeatureSpec], manifest: Manifest, reader: str = "the model"
    ) -> None:
        """Refuse shards whose features have another name, width or fingerprint.

        Args:
            trained: the features of training, of every feature set that is read.
            manifest: of the shards.
            reader: of the features, for messages.

        Raises:
            ConfigError: naming both.
        """
        chosen = manifest.chosen_sets
        if len(chosen) != len(trained):
            raise ConfigError(
                f"{manifest.location}: {len(chosen)} feature sets are read, but {reader} was "
                f"trained on {len(trained)}; set model.features as in training"
            )
        for expected, feature_set in zip(trained, chosen, strict=True):
            found = feature_set.spec
            if not expected.same_name(found):
                raise ConfigError(
                    f"{manifest.location}: features {found.name!r} of width {found.dim}, but "
                    f"{reader} was trained on {expected.name!r} of width {expected.dim}; use "
                    "shards of the same extractor"
                )
            self.fingerprint(manifest.location, expected, found.fingerprint, reader)

    def fingerprint(
        self, where: str, trained: FeatureSpec, found: Fingerprint, reader: str = "the model"
    ) -> None:
        """Refuse features with other statistics, or record that they are accepted.

        Raises:
            ConfigError: if they are not accepted, or it can't be recorded.
        """
        difference = trained.fingerprint.difference(found)
        if not difference:
            return
        if not self.accept:
            raise ConfigError(
                f"{where}: features {difference} than those that {reader} was trained on; use "
                f"features of the same extractor, {trained.name!r}, with the same settings, or "
                "accept these with --accept-features, which the run records"
            )
        for run in self.runs:
            _record(run, {"features": where, "difference": difference})
            print(f"warning: {where}: features {difference} than those of training; accepted")


NOTHING_ACCEPTED = FeatureCheck()


def _record(run: Path, accepted: dict[str, str]) -> None:
    """Add a line to the run's record, unless the last one is the same."""
    entry = {**accepted, "command": shlex.join(sys.argv)}
    path = run / ACCEPTED
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        last = json.loads(lines[-1]) if lines else {}
        if entry.items() <= last.items():
            return
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        run.mkdir(parents=True, exist_ok=True)  # an ensemble's may be new
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time, **entry}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(
            f"{path}: can't record that features are accepted: {error.strerror}; copy the run to "
            "where it can be written to"
        ) from error
