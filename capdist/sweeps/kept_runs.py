"""The runs behind the table of a page, stored next to it: one compressed file per run.

A table can so be filled row by row, on several machines and days, and one row anew: remove its
files and run its sweep again.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from capdist.config.base import ConfigError, Section, read_json_as
from capdist.metrics.coco import ScoreError
from capdist.reporting.metrics_log import METRICS_LOG, read_records
from capdist.reporting.report.files import EvaluationName, RunFiles
from capdist.reporting.report.scores import Evaluated
from shards.atomic import atomic_write

#: Of the versions of a run, those that a reader needs to make it again.
_VERSIONS = ("capdist", "git", "python", "torch", "deepspeed")
#: One of so many steps of the metrics log is kept, and every evaluation.
_STEPS_EACH = 50
_RESAMPLES = 1000


class _KeptRun(Section):
    """What a file has: ``config`` and ``log`` of a run, or ``members`` of an ensemble."""

    config: dict[str, Any] | None = None
    members: list[list[dict[str, Any]]] | None = None
    versions: dict[str, Any]
    summary: dict[str, float | None] = Field(min_length=1)
    log: tuple[dict[str, Any], ...] = ()
    captions: dict[str, str]
    cider: dict[str, float]
    init: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> _KeptRun:
        if (self.config is None) == (self.members is None):
            raise ValueError("expected either a config or members")
        return self


def kept_run(
    run: Path, evaluation: EvaluationName, summary: dict[str, float | None]
) -> dict[str, Any]:
    """What is kept of a finished run.

    Args:
        run: its folder.
        evaluation: the one in the table.
        summary: the columns of the table.

    Returns:
        ``config``, ``versions``, ``summary``, ``log``, and by image number ``captions`` and
        ``cider``, whose mean is the score; ``cider`` is empty without references.
    """
    files = RunFiles.open(run)
    records = read_records(run / METRICS_LOG)
    return {
        "config": files.config,
        "versions": _versions(run),
        "summary": summary,
        "log": [r for r in records if "loss" not in r or r["step"] % _STEPS_EACH == 0],
        **_captions(files, evaluation),
    }


def kept_ensemble(
    first: Path,
    folder: Path,
    members: Sequence[Sequence[Any]],
    evaluation: EvaluationName,
    summary: dict[str, float | None],
) -> dict[str, Any]:
    """What is kept of a scored ensemble.

    Args:
        first: the run folder of one member, for shards and versions.
        folder: that of the captions and scores.
        members: the config of each, of the run that it began with, and so on.
        evaluation: the one in the table.
        summary: the columns of the table.

    Returns:
        The same as `kept_run`, with ``members`` instead of ``config`` and ``log``.
    """
    files = RunFiles(first, folder)
    return {
        "members": members,
        "versions": _versions(first),
        "summary": summary,
        **_captions(files, evaluation),
    }


def _versions(run: Path) -> dict[str, Any]:
    versions = read_json_as(dict[str, Any], run / "versions.json")
    return {name: versions.get(name) for name in _VERSIONS}


def _captions(files: RunFiles, evaluation: EvaluationName) -> dict[str, Any]:
    images, scores = Evaluated(0, files, evaluation).per_image or ([], None)
    cider = scores.means["CIDEr"].round(4).tolist() if scores else []
    captions = files.captions(evaluation)
    return {"captions": captions, "cider": dict(zip(images, cider, strict=True))}


def write_kept(path: Path, kept: dict[str, Any]) -> None:
    """Write the file of a run; the same run gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(gzip.compress(json.dumps(kept, ensure_ascii=False).encode(), mtime=0))


def read_kept(path: Path) -> dict[str, Any] | None:
    """What a file has of a run; None if there is no file.

    Raises:
        ConfigError: if the file is damaged.
    """
    return _read(path, path.stat().st_mtime_ns) if path.is_file() else None


@lru_cache(maxsize=512)
def _read(path: Path, changed: int) -> dict[str, Any]:
    """A page asks for the same file several times; ``changed`` tells its versions apart."""
    try:
        kept: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        _KeptRun.model_validate(kept)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ConfigError(
            f"{path}: not what is kept of a run, or damaged ({reason}); restore the file, or "
            "remove it to train and score the run again"
        ) from None
    return kept


def difference(
    a: Sequence[Mapping[Any, float]], b: Sequence[dict[str, float]]
) -> dict[str, float | None]:
    """CIDEr of B minus that of A, means over seeds, with a 95 % interval.

    The bootstrap draws seeds of A, seeds of B, and images, the same for both. Where A or B has one
    seed, the interval has nothing of the spread between seeds.

    Args:
        a: by seed, CIDEr × 100 by image.
        b: the same of other runs on the same images.

    Raises:
        ScoreError: if the images differ.
    """
    images = sorted(a[0])
    if any(run.keys() != a[0].keys() for run in (*a, *b)):
        raise ScoreError("their runs were scored on different images")
    first, second = (np.array([[run[i] for i in images] for run in runs]) for runs in (a, b))
    rng = np.random.default_rng(0)
    draws = [
        _drawn(second, rng, chosen) - _drawn(first, rng, chosen)
        for chosen in (rng.integers(len(images), size=(_RESAMPLES, len(images))))
    ]
    low, high = np.percentile(draws, (2.5, 97.5))
    return {"CIDEr": second.mean() - first.mean(), "from": low, "to": high}


def _drawn(runs: NDArray[np.float64], rng: np.random.Generator, images: NDArray[np.int64]) -> float:
    """Mean of seeds drawn with replacement, on given images."""
    seeds = rng.integers(len(runs), size=len(runs))
    return float(runs[np.ix_(seeds, images)].mean())
