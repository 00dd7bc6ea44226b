"""Two evaluated runs, and the report that compares them."""

from __future__ import annotations

from pathlib import Path

import pytest

from capdist.reporting.report.files import RunFiles
from capdist.reporting.report.page import write_report
from shards.manifest import Manifest
from shards.writer import write
from tests.support.reports import GLIED, SS_UPDOWN, PictureSource, evaluated_run


@pytest.fixture(scope="session")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards with pictures and classes."""
    return write(
        PictureSource(), tmp_path_factory.mktemp("pictured"), samples_per_shard=16, workers=1
    )


@pytest.fixture(scope="module")
def runs(
    pictured: Manifest, without_java: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """GLIED and Spatial-Semantic attention, both evaluated on the test split."""
    folder = tmp_path_factory.mktemp("runs")
    models = {"glied": GLIED, "ss": SS_UPDOWN}
    return [
        evaluated_run(folder / name, pictured, model, seed)
        for seed, (name, model) in enumerate(models.items(), 1)
    ]


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of both runs."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    write_report([RunFiles.open(run) for run in runs], out)
    return out
