"""What trackers write into their services' stores on disk, read back."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from capdist.config.base import ConfigError
from capdist.tracking.base import (
    ShownImage,
    TrackedRun,
    Tracker,
    TrackingError,
    ValidationCaptions,
    find_tracker,
    registered,
)

CONFIG: dict[str, Any] = {
    "run": "runs/small",
    "stages": [{"objective": "xe", "optimizer": {"lr": 0.1}}],
    "model": {"groups": [], "a(b": 1},
}


def captions() -> ValidationCaptions:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (10, 20, 30)).save(file, "PNG")
    shown = [ShownImage(7, "a dog", file.getvalue()), ShownImage("b/c", "a cat", None)]
    return ValidationCaptions("val", {7: "a dog", "b/c": "a cat"}, shown)


def track(kind: type[Tracker], folder: Path) -> str:
    """A run that is stopped after step 2, moved, resumed from step 1, and completed; its id."""
    before, after = (folder / part / "small" for part in ("before", "after"))
    before.mkdir(parents=True)
    after.mkdir(parents=True)
    first = kind.open(TrackedRun(before, CONFIG))
    first.log([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "lr": 0.5}])
    first.close(done=False)
    again = kind.open(TrackedRun(after, CONFIG, first.run_id))
    again.log([{"step": 2, "loss": 2.0, "lr": 0.5}])
    again.log([{"step": 3, "loss": 1.0}])
    again.show(3, captions())
    again.scores({"test-beam3/CIDEr": 55.5})
    again.close(done=True)
    assert again.run_id == first.run_id
    return first.run_id


def test_mlflow_has_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run_id = track(find_tracker("mlflow", "tracking"), tmp_path)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("capdist")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (run_id, "small", "FINISHED")
    assert run.data.params == {
        "run": "runs/small",
        "stages.0.objective": "xe",
        "stages.0.optimizer.lr": "0.1",
        "model.groups": "[]",
        "model.a_b": "1",
    }
    history = {(m.step, m.value) for m in client.get_metric_history(run_id, "loss")}
    assert history == {(1, 3.0), (2, 2.0), (3, 1.0)}
    assert run.data.metrics["test-beam3/CIDEr"] == 55.5
    path = client.download_artifacts(run_id, "captions/val-00000003.json")
    assert json.loads(Path(path).read_text())["captions"] == [
        {"image_id": 7, "caption": "a dog"},
        {"image_id": "b/c", "caption": "a cat"},
    ]
    picture = client.download_artifacts(run_id, "images/val-00000003/000000000007.png")
    assert Image.open(picture).getpixel((0, 0)) == (10, 20, 30)


def wandb_records(folder: Path) -> Iterator[Any]:
    """The records of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    yield from map(Record.FromString, log_records(file.read_bytes()))


def values(items: Iterable[Any]) -> dict[str, Any]:
    """The values of a record by their dotted keys."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a file in the log format of LevelDB, after a header of 7 bytes.

    Blocks of 32 KiB have chunks: checksum, size, type (1 whole, 2 first, 3 middle, 4 last), bytes.
    """
    place, parts = 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        chunk = data[place + 7 : place + 7 + size]
        place += 7 + size
        parts = chunk if kind in (1, 2) else parts + chunk
        if kind in (1, 4):
            yield parts


def test_wandb_has_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_id = track(find_tracker("wandb", "tracking"), tmp_path)
    records = [r for part in ("before", "after") for r in wandb_records(tmp_path / part / "small")]
    runs = [record.run for record in records if record.HasField("run")]
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {
        (run_id, "capdist", "small")
    }
    config = values(runs[0].config.update)
    assert {name: config[name] for name in CONFIG} == CONFIG
    logged = [values(record.history.item) for record in records if record.HasField("history")]
    assert [(row["step"], row["loss"]) for row in logged if "loss" in row] == [
        (1, 3.0),
        (2, 2.0),
        (2, 2.0),
        (3, 1.0),
    ]
    (shown,) = (row for row in logged if "val/captions.path" in row)
    assert shown["step"] == 3
    (files,) = (tmp_path / "after" / "small").glob("wandb/offline-run-*/files")
    table = json.loads((files / shown["val/captions.path"]).read_text())
    assert table["data"] == [["7", "a dog"], ["b/c", "a cat"]]
    assert shown["val/7.caption"] == "a dog"
    assert Image.open(files / shown["val/7.path"]).getpixel((0, 0)) == (10, 20, 30)
    summaries = [values(record.summary.update) for record in records if record.HasField("summary")]
    assert {s["test-beam3/CIDEr"] for s in summaries if "test-beam3/CIDEr" in s} == {55.5}


def test_a_server_that_does_not_answer_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError) as raised:
        find_tracker("mlflow", "tracking").open(TrackedRun(tmp_path, CONFIG))
    (line,) = str(raised.value).splitlines()
    assert line.startswith("tracking mlflow: API request to http://127.0.0.1:9/")
    assert line.endswith("or train without it: --set tracking=null")


def test_a_user_who_is_not_logged_in_is_told_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(TrackingError) as raised:
        find_tracker("wandb", "tracking").open(TrackedRun(tmp_path, CONFIG))
    assert str(raised.value) == (
        "tracking wandb: not logged in; run 'wandb login', set WANDB_API_KEY, or train without it: "
        "--set tracking=null"
    )


def test_unknown_trackers_are_refused() -> None:
    assert list(registered()) == ["mlflow", "wandb"]
    with pytest.raises(
        ConfigError, match=r"a\.json: tracking: no tracker 'x'; known: mlflow, wandb"
    ):
        find_tracker("x", "a.json: tracking")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered()["wandb"], "package", "no_such_package")
    with pytest.raises(ConfigError) as raised:
        find_tracker("wandb", "a.json: tracking")
    assert str(raised.value) == (
        "a.json: tracking: wandb needs the package no_such_package, which is not installed; "
        "pip install -e '.[wandb]', or set tracking to null"
    )
