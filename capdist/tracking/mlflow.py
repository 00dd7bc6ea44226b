"""MLflow. ``MLFLOW_TRACKING_URI`` is its server or store, ``MLFLOW_EXPERIMENT_NAME`` a group."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image
from typing_extensions import Self

from capdist.tracking.base import (
    PROJECT,
    TrackedRun,
    Tracker,
    TrackingError,
    ValidationCaptions,
    register,
)
from shards.image_ids import image_key

#: Limits of MLflow: numbers and parameters of one call, characters of a parameter.
MOST_METRICS, MOST_PARAMS, LONGEST_PARAM = 1000, 100, 6000
#: Otherwise MLflow tries for minutes to reach a server, and reports its own use.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@register("mlflow")
class MlflowTracker(Tracker):
    """Numbers are metrics, the config is parameters, captions and pictures are artifacts."""

    package = "mlflow"

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    @classmethod
    def open(cls, run: TrackedRun) -> Self:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            client = MlflowClient()
            if run.known is None:
                return cls(client, _begin(client, run))
            client.update_run(run.known, status="RUNNING")
        except MlflowException as error:
            raise TrackingError(
                f"tracking mlflow: {str(error).splitlines()[0][:300]}; check "
                "MLFLOW_TRACKING_URI and that its server runs, or train without it: "
                "--set tracking=null"
            ) from error
        return cls(client, run.known)

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [
            Metric(allowed(name), float(value), now, int(record["step"]))
            for record in records
            for name, value in record.items()
            if name != "step"
        ]
        for part in _parts(metrics, MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=part)

    def show(self, step: int, captions: ValidationCaptions) -> None:
        entries = [{"image_id": i, "caption": c} for i, c in captions.by_image.items()]
        place = f"{captions.split}-{step:08d}"
        self._client.log_dict(self.run_id, {"captions": entries}, f"captions/{place}.json")
        for shown in captions.shown:
            if shown.png:
                picture = Image.open(io.BytesIO(shown.png))
                file = f"images/{place}/{image_key(shown.image)}.png"
                self._client.log_image(self.run_id, picture, artifact_file=file)

    def scores(self, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self._client.log_metric(self.run_id, allowed(name), value)

    def close(self, *, done: bool) -> None:
        self._client.set_terminated(self.run_id, status="FINISHED" if done else "KILLED")


def _begin(client: Any, run: TrackedRun) -> str:
    """A new run with the config as its parameters; its id."""
    from mlflow.entities import Param

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    run_id: str = client.create_run(experiment, run_name=run.name).info.run_id
    params = [Param(allowed(key), str(value)[:LONGEST_PARAM]) for key, value in flat(run.config)]
    for part in _parts(params, MOST_PARAMS):
        client.log_batch(run_id, params=part)
    return run_id


def flat(config: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config by dotted keys, as ``--set`` takes them: ``stages.0.epochs``."""
    items = config.items() if isinstance(config, Mapping) else enumerate(config)
    for key, value in items:
        if isinstance(value, Mapping | list) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def allowed(name: str) -> str:
    """A name as MLflow allows it, with ``_`` for other characters."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII)


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
