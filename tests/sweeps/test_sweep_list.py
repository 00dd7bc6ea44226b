"""The sweep file: mistakes in it are refused before anything runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from capdist.config.base import ConfigError
from capdist.sweeps.sweep import Sweep
from shards.manifest import Manifest


def write(config: Path, **changes: Any) -> Path:
    rows = {"GLIED": {"config": str(config)}}
    path = config.with_name("list.json")
    path.write_text(json.dumps({"folder": "runs/none", "rows": rows, "seeds": [1, 2], **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": {}}, "list.json: row: unknown key"),
        ({"rows": {"a <!-- /results -->": {"config": "c.json"}}}, "can't be in a table; rename"),
        ({"rows": {"a": {"config": "none.json"}}}, "none.json: no such file"),
        (
            {"rows": {"a": {"config": "none.json", "against": "b"}}},
            "list.json: rows.a.against: no row 'b'; known rows: a",
        ),
        (
            {"rows": {"a": {"ensemble": ["b"]}, "b": {"config": "c.json"}}, "seeds": [1]},
            "list.json: rows.a.ensemble: fewer than two runs; name more rows, or give its row",
        ),
        (
            {
                "rows": {
                    "a": {"ensemble": ["b", "c"]},
                    "b": {"config": "c.json"},
                    "c": {"config": "c.json", "seeds": [3, 4]},
                }
            },
            "rows.a.ensemble: its rows have different seeds, [[1, 2], [3, 4]]; give them",
        ),
        ({"rows": {"a": {"ensemble": ["b", "c"]}}}, "a.ensemble: no row 'b'; known rows: a"),
        (
            {"rows": {"a": {"ensemble": ["b"]}, "b": {"ensemble": ["a"]}}},
            "rows.a.ensemble: 'b' is an ensemble itself; name its members instead",
        ),
        ({"rows": {"a": {"ensemble": ["b"], "set": {"x": 1}}}}, "rows.a: an ensemble trains"),
        (
            {"rows": {"a": {"config": "c.json", "init": "b"}, "b": {"config": "c.json"}}},
            "rows.a.init: no row 'b' with a config above it; there is: none",
        ),
        (
            {
                "rows": {
                    "a": {"config": "c.json", "seeds": [3]},
                    "b": {"config": "c.json", "init": "a"},
                }
            },
            "rows.b.init: row 'a' has other seeds; give them the same",
        ),
        ({"rows": {"a": {}}}, "list.json: rows.a: expected either a config or an ensemble"),
        ({"rows": {"a": {"zzz": 1}}}, "zzz: unknown key; known here: rows.config, rows.set, rows"),
        ({"seeds": [0, 1, 0]}, "list.json: seeds: 0 is there twice; name each seed once"),
        (
            {"rows": {"a": {"config": "c.json", "seeds": [3, 3]}}},
            "list.json: rows.a.seeds: 3 is there twice; name each seed once",
        ),
    ],
)
def test_a_mistake_is_named(config: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Sweep.load(write(config, **changes))


def test_grounding_is_refused_for_shards_without_it(config: Path, grounded: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"list\.json: grounding: .*split test has no grounding"):
        Sweep.load(write(config, grounding=True))
    assert Sweep.load(write(config, grounding=True, set={"data.shards": str(grounded.root)})).runs
