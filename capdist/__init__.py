"""Distributed training of image captioning models on region features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capdist.inference.photographs import PhotographCaptioner

__all__ = ["load"]


def load(*runs: str | Path, beam: int | None = None) -> PhotographCaptioner:
    """Open a trained run, to caption photographs; several runs decode as an ensemble.

    Args:
        runs: folders of runs.
        beam: width; None: the config's.

    Raises:
        CapdistError: in one line, if a run can't be used.
    """
    from capdist.inference.photographs import PhotographCaptioner

    return PhotographCaptioner.load([Path(run) for run in runs], beam)
