"""A run resumes on features with other values only if the user accepts them; the run says so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from capdist.inference.feature_check import ACCEPTED, FeatureCheck
from shards.manifest import Manifest
from shards.schema import Sample
from shards.writer import write
from tests.support.processes import launch
from tests.support.runs import refused, train
from tests.support.shards import TinySource


class OtherValues(TinySource):
    """The tiny images with features of the same name and width, but another distribution."""

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            yield replace(sample, regions=sample.regions + 3)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write(OtherValues(), tmp_path_factory.mktemp("others"), samples_per_shard=8, workers=1)


def accepted(run: Path) -> list[dict[str, str]]:
    path = run / ACCEPTED
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_other_features_are_refused_on_resuming_and_accepted_on_request(
    run: Path, config: Path, others: Manifest
) -> None:
    resume = ["--resume", "auto", "--set", f"data.shards={others.root}"]
    resume += ["--set", "stages.0.epochs=3"]
    line = refused(train(config, *resume))
    assert f"{others.root}: features are distributed differently" in line
    assert f"than those that {run}/checkpoints/step-" in line
    assert "or accept these with --accept-features" in line
    assert not accepted(run)
    result = train(config, *resume, "--accept-features")
    assert result.returncode == 0, result.stderr
    (record,) = accepted(run)
    assert record["features"] == str(others.root)
    assert record["difference"].startswith("are distributed differently")
    assert "--accept-features" in record["command"]
    assert json.loads((run / "config.json").read_text())["data"]["accept_features"]


def test_what_is_accepted_is_recorded_in_a_new_folder(
    tiny: Manifest, others: Manifest, tmp_path: Path
) -> None:
    FeatureCheck(True, (tmp_path / "new",)).shards((tiny.features,), others)
    assert accepted(tmp_path / "new")[0]["features"] == str(others.root)


def test_other_features_are_captioned_on_request(
    run: Path, others: Manifest, tmp_path: Path
) -> None:
    arguments = ["--run", str(run), "--shards", str(others.root), "--out", str(tmp_path / "c.json")]
    line = refused(launch("caption.py", *arguments))
    assert "than those that the model was trained on" in line
    for _ in range(2):
        assert launch("caption.py", *arguments, "--accept-features").returncode == 0
    assert [record["features"] for record in accepted(run)] == [str(others.root)]
