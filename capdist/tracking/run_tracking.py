"""The tracked run of a run folder, which is continued when the run is resumed or evaluated.

``tracking.json`` has the id that each service gave to the run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capdist.config.base import read_json_as
from capdist.errors import CapdistError
from capdist.tracking.background import BackgroundTracker
from capdist.tracking.base import TrackedRun, find_tracker
from shards.atomic import write_json

TRACKING = "tracking.json"


def known_runs(folder: Path) -> dict[str, str]:
    """The ids of a run folder's run by the name of the tracker."""
    path = folder / TRACKING
    return read_json_as(dict[str, str], path) if path.is_file() else {}


def open_tracker(name: str, folder: Path, config: Mapping[str, Any]) -> BackgroundTracker:
    """The run of a run folder in a service; it begins there, or continues.

    Args:
        name: of the tracker.
        folder: of the run.
        config: of the run, as JSON.

    Raises:
        ConfigError: if there is no such tracker, or its package is not installed.
        TrackingError: if the service can't be used.
    """
    runs = known_runs(folder)
    tracker = find_tracker(name, "tracking").open(TrackedRun(folder, config, runs.get(name)))
    write_json(folder / TRACKING, {**runs, name: tracker.run_id})
    return BackgroundTracker(tracker, name)


def send_scores(folder: Path, config: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """Add scores to a run folder's run in the services that have it.

    A service that can't be used is reported on standard error in one line.
    """
    for name in known_runs(folder):
        try:
            tracker = open_tracker(name, folder, config)
        except CapdistError as error:
            print(f"warning: scores are not sent: {error}", file=sys.stderr)
        else:
            tracker.scores(scores)
            tracker.close(done=True)
