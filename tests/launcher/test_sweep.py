"""A sweep: its table, what it does when called again, and when it or a run of it dies."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, launch
from tests.support.runs import losses, refused


def write(folder: Path, config: Path, **changes: Any) -> Path:
    described = {
        "folder": str(folder / "runs"),
        "rows": {"GLIED": {"config": str(config), "paper": {"CIDEr": 118.2}}},
        "seeds": [1, 2],
        **changes,
    }
    (folder / "list.json").write_text(json.dumps(described))
    return folder / "list.json"


@pytest.fixture(scope="module", autouse=True)
def without_java(tools: Path) -> None:
    """Runs are scored without METEOR."""


@pytest.fixture(scope="module")
def settled(
    without_java: None, tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A config, and a sweep over it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("sweep")
    config = folder / "config.json"
    config.write_text(json.dumps({**tiny_config, "run": "nowhere"}))
    (folder / "page.md").write_text("before\n<!-- results:list --><!-- /results -->\nbehind\n")
    result = launch("sweep.py", str(write(folder, config)), "--page", str(folder / "page.md"))
    assert result.returncode == 0, result.stderr
    return folder


def test_the_table_has_the_mean_of_the_seeds(settled: Path) -> None:
    ciders = []
    for run in ("glied-1", "glied-2"):
        scores = json.loads((settled / "runs" / run / "scores" / "test-beam3.json").read_text())
        ciders.append(scores[f"{run}, beam 3"]["values"]["CIDEr"])
    before, _, head, _, row, *_, behind, _ = (settled / "page.md").read_text().split("\n")
    assert (before, behind) == ("before", "behind")
    cells = [cell.strip() for cell in row.split("|")]
    titles = [title.strip() for title in head.split("|")]
    assert cells[titles.index("paper's CIDEr")] == "118.2"
    assert cells[1] == "GLIED"
    assert cells[6] == f"{sum(ciders) / 2:.1f}"
    assert cells[7] == f"{abs(ciders[0] - ciders[1]) / 2**0.5:.1f}"
    assert losses(settled / "runs" / "glied-1") != losses(settled / "runs" / "glied-2")


def test_what_is_done_is_not_done_again_and_what_is_changed_is(settled: Path) -> None:
    runs = settled / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    config = json.loads((settled / "config.json").read_text())
    config["description"] = "what came of it"
    (settled / "config.json").write_text(json.dumps(config))
    again = launch("sweep.py", str(settled / "list.json"))
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    longer = write(settled, settled / "config.json", seeds=[1], set={"stages.0.epochs": 3})
    assert launch("sweep.py", str(longer)).returncode == 0
    first, second = losses(runs / "glied-1"), losses(runs / "glied-2")
    assert len(first) * 2 == len(second) * 3


def test_a_sweep_that_is_killed_goes_on(settled: Path, tmp_path: Path) -> None:
    path = write(tmp_path, settled / "config.json", seeds=[2])
    process = subprocess.Popen([sys.executable, str(ROOT / "launcher/sweep.py"), str(path)])
    run = tmp_path / "runs" / "glied-2"
    while not (run / "checkpoints" / "names.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    result = launch("sweep.py", str(path))
    assert result.returncode == 0, result.stderr
    assert losses(run) == losses(settled / "runs" / "glied-2")


def test_a_run_that_fails_is_named_and_the_others_go_on(config: Path, tmp_path: Path) -> None:
    rows = {
        "good": {"config": str(config)},
        "bad": {"config": str(config), "set": {"data.shards": str(tmp_path / "none")}},
    }
    result = launch("sweep.py", str(write(tmp_path, config, rows=rows, seeds=[1])))
    log = tmp_path / "runs" / "bad-1.log"
    assert result.returncode == 1
    assert f"bad-1 failed with 2; it says why in {log}" in result.stderr
    assert "error: " in log.read_text()
    assert "good" in result.stdout
    assert "bad" not in result.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": {}}, "list.json: row: unknown key"),
        ({"rows": {"a": {"config": "none.json"}}}, "none.json: no such file"),
        ({"rows": {"a": {"zzz": 1}}}, "zzz: unknown key; known here: rows.config, rows.set, rows"),
        ({"set": {"stages.0.epoch": 1}}, "did you mean"),
        ({"cpus": 10000}, "no node has 10000 CPUs"),
        ({"ray": {"address": "127.0.0.1:1"}}, "ray.address 127.0.0.1:1"),
    ],
)
def test_what_can_not_be_is_refused(
    config: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refused(launch("sweep.py", str(write(tmp_path, config, **changes))))


def test_a_page_without_a_place_is_refused_before_anything_runs(
    config: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- results:other --><!-- /results -->\n")
    refusal = refused(launch("sweep.py", str(write(tmp_path, config)), "--page", str(page)))
    assert f"{page}: no <!-- results:list -->" in refusal
    assert not (tmp_path / "runs").exists()


def test_rows_of_one_folder_are_refused(config: Path, tmp_path: Path) -> None:
    rows = {"a b": {"config": str(config)}, "a_b": {"config": str(config)}}
    path = write(tmp_path, config, rows=rows)
    assert "two rows would share ['a_b-1', 'a_b-2']" in refused(launch("sweep.py", str(path)))
