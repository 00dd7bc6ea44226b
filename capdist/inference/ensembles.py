"""The models of several runs, which decode together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capdist.config.base import ConfigError
from capdist.decoding.ensemble import Ensemble
from capdist.inference.exported_model import ExportedModel, read_run
from capdist.inference.feature_check import FeatureCheck
from capdist.models.base import CaptionModel


def read_members(
    runs: Sequence[Path], check: FeatureCheck, checkpoint: str = "best"
) -> tuple[ExportedModel, ...]:
    """The models of one run, or of several that can decode together.

    Raises:
        ConfigError: if one is missing, or they differ in vocabulary or features.
    """
    members = tuple(read_run(run, checkpoint) for run in runs)
    first = members[0]
    for run, other in zip(runs, members, strict=True):
        pairs = list(zip(other.all_features, first.all_features, strict=False))
        same = len(other.all_features) == len(first.all_features)
        same = same and all(theirs.same_name(ours) for theirs, ours in pairs)
        if other.vocab.hash != first.vocab.hash or not same:
            raise ConfigError(
                f"{run}: its vocabulary or its features are not those of {runs[0]}; decode "
                "only models together that have both in common"
            )
        for theirs, ours in pairs:
            check.fingerprint(str(run), ours, theirs.fingerprint, f"the model of {runs[0]}")
    return members


def joined_model(members: Sequence[ExportedModel]) -> CaptionModel[Any]:
    """The model, or the ensemble of all members."""
    models = [member.model for member in members]
    return models[0] if len(models) == 1 else Ensemble(models).eval()
