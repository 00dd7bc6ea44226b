"""Every config in configs/ parses, and the schema that editors read is current."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from capdist.config.run_config import Config, load_config
from capdist.config.schema import OPTIONS, config_schema, options_page
from capdist.engines.optimizer import check_groups
from capdist.models.base import Dims, build
from capdist.sweeps.sweep import Sweep
from capdist.sweeps.sweep_runs import SweepRun

CONFIGS = Path(__file__).parents[2] / "configs"
SWEEPS = sorted((CONFIGS / "sweeps").iterdir())
FILES = sorted(set(CONFIGS.rglob("*.json")) - {CONFIGS / "schema.json", *SWEEPS})


def check(config: Config, path: Path) -> None:
    """The model can be built, its groups have parameters, and MIA has a rate of its own."""
    with torch.device("meta"):
        dims = Dims(features=8, vocabulary=10, classes=5, predicates=3)
        model = build(config.model, dims, str(path))
    for number, stage in enumerate(config.stages):
        check_groups(model, stage.optimizer, f"{path}: stages.{number}.optimizer")
    if getattr(config.model, "refine", None) is not None:
        # At the host's, its feed-forward part outgrows its shortcut: tests/models/test_mia.py
        first = config.stages[0].optimizer
        assert [g.lr for g in first.groups if g.match == "refine.*"] == [
            pytest.approx(first.lr / 5)
        ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_parses_and_builds(path: Path) -> None:
    config = load_config(path)
    check(config, path)
    assert config.schema_ is not None
    assert (path.parent / config.schema_).resolve() == CONFIGS / "schema.json"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_every_row_of_a_sweep_builds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)  # Rows name configs as the command is called.
    rows = {run.row: run for run in Sweep.load(path).runs if isinstance(run, SweepRun)}
    for run in rows.values():
        check(run.config, path)


def test_no_two_configs_write_into_the_same_folder() -> None:
    runs = [load_config(path).run for path in FILES]
    assert len(set(runs)) == len(runs)


def test_the_schema_is_current() -> None:
    # python -m capdist.config.schema
    assert json.loads((CONFIGS / "schema.json").read_text()) == config_schema()


def test_the_page_of_options_is_current() -> None:
    assert (CONFIGS.parent / OPTIONS).read_text(encoding="utf-8") == options_page()
