"""The bench command measures what it says, on a small setting."""

from __future__ import annotations

import json
from pathlib import Path

from tests.launcher.conftest import launch, refused


def test_decode(tmp_path: Path) -> None:
    out, page = tmp_path / "figures.json", tmp_path / "page.md"
    setting = ["--model", "lstm", "--batch", "2", "--beam", "2"]
    result = launch("bench.py", "decode", *setting, "--json", str(out), "--page", str(page))
    assert result.returncode == 0, result.stderr
    figures = json.loads(out.read_text())
    speeds = {name: row["median"] for name, row in figures["images_per_s"].items()}
    assert figures["fraction_of_bare"] == speeds["reference"] / speeds["bare model"]
    assert all(
        row["slowest"] <= row["median"] <= row["fastest"]
        for row in figures["images_per_s"].values()
    )
    assert "| bare model" in page.read_text()
    assert "bare model" in result.stdout


def test_a_model_that_is_not_there() -> None:
    assert "no model 'gleid'" in refused(launch("bench.py", "decode", "--model", "gleid"))
