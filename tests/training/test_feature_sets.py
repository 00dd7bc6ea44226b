"""A run that reads two feature sets, from the first step to captions; refusals before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from capdist.config.base import ConfigError
from capdist.config.run_config import parse_config
from capdist.data.rank_plan import Ranks
from capdist.distributed.process_group import ProcessGroup
from capdist.inference.captioner import Captioner
from capdist.signals import StopSignal
from capdist.training.run import Run
from shards.manifest import Manifest
from shards.schema import ShardError
from shards.write_set import write_set
from shards.writer import write
from tests.support.runs import losses, train
from tests.support.shards import GridSource, TinySource


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("sets")
    write(TinySource(), folder, samples_per_shard=8, workers=1)
    write_set(folder, GridSource(lacking=3), workers=1)
    return folder


def section(tiny_config: dict[str, Any], root: Path, run: Path, **model: Any) -> dict[str, Any]:
    data = {**tiny_config["data"], "shards": str(root)}
    return {**tiny_config, "run": str(run), "data": data, "model": tiny_config["model"] | model}


def test_run_reads_both_sets_and_resumes(
    tiny_config: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    path, run = tmp_path / "config.json", tmp_path / "run"
    chosen = section(tiny_config, root, run, features=["regions", "grid"])
    path.write_text(json.dumps(chosen))
    assert train(path).returncode == 0
    # Stopped after an epoch and continued, as another run; the losses are the same bit for bit.
    one = {**chosen, "run": str(tmp_path / "again")}
    one["stages"] = [{**chosen["stages"][0], "epochs": 1}]
    path.write_text(json.dumps(one))
    assert train(path).returncode == 0
    path.write_text(json.dumps({**chosen, "run": str(tmp_path / "again")}))
    assert train(path, "--resume", "auto").returncode == 0
    assert losses(tmp_path / "again") == losses(run)
    captioner = Captioner.open([run], ["decoding.beam=2"])
    assert len(captioner.of_shards(str(root), "val")) == 7
    with pytest.raises(ConfigError, match="reads feature sets regions, grid, and new images have"):
        captioner.of_features("new/*.npz")
    with pytest.raises(ShardError, match=r"no feature set 'grid', expected one of regions"):
        captioner.of_shards(str(_own_set_only(tmp_path)), "val")
    other = Manifest.load(root).reading(("grid", "regions"))
    with pytest.raises(ConfigError, match="features 'tiny-grid' of width 4, but the model was"):
        captioner.first.check_features(other)


def _own_set_only(tmp_path: Path) -> Path:
    write(TinySource(), tmp_path / "own", samples_per_shard=8, workers=1)
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        ({"features": ["grid"]}, ShardError, "3 images of train lack feature set 'grid', which"),
        ({"features": ["grids"]}, ShardError, "no feature set 'grids', expected one of"),
        (
            {"name": "att2in", "features": ["regions", "grid"]},
            ConfigError,
            "model.features: regions, grid, but model 'att2in' reads one",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    tiny_config: dict[str, Any],
    root: Path,
    tmp_path: Path,
    model: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    group = ProcessGroup(Ranks(), torch.device("cpu"))
    chosen = section(tiny_config, root, tmp_path / "run", **model)
    if "name" in model:
        chosen["model"] = model
    with pytest.raises(error, match=said):
        Run.check(parse_config(chosen, "x.json"), "x.json", group, StopSignal(), resume=False)
