"""launcher/bench.py measures small settings and reports errors in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import decode, reward
from benchmarks.command import main
from benchmarks.corpus import REFERENCES, VOCABULARY, make_corpus
from benchmarks.order import measure
from capdist.config.base import ConfigError
from capdist.vocab import EOS, PAD
from tests.support.processes import launch


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Any, str]]:
    """Runs a benchmark here; its figures, and its page."""
    out, page = tmp_path / "figures.json", tmp_path / "page.md"

    def run(*arguments: str) -> tuple[Any, str]:
        monkeypatch.setattr(
            sys, "argv", ["bench.py", *arguments, "--json", str(out), "--page", str(page)]
        )
        assert main() == 0
        return json.loads(out.read_text()), page.read_text()

    return run


def test_decode_writes_consistent_figures(
    run: Callable[..., tuple[Any, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(decode, "ROUNDS", 3)
    figures, page = run("decode", "--model", "lstm", "--batch", "2", "--beam", "2")
    share = f"{100 * figures['fraction_of_bare']:.1f}"
    assert share in page
    assert all(
        row["slowest"] <= row["median"] <= row["fastest"]
        for row in figures["images_per_s"].values()
    )
    assert "| bare model" in page
    assert "bare model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["decode", "--model", "gleid"], "no model 'gleid'"),
        pytest.param(
            ["gpu"],
            "no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_errors_are_reported_in_one_line(
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", *arguments])
    assert main() == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1


def test_reward_writes_consistent_figures(
    run: Callable[..., tuple[Any, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # one pool: each starts a Ray of its own
    monkeypatch.setattr(reward, "ROUNDS", 3)
    figures, page = run("reward", "--images", "40")
    speeds = {name: row["median"] for name, row in figures["captions_per_s"].items()}
    ratio = speeds["capdist"] / speeds["pycocoevalcap"]
    assert figures["ratio_vs_pycocoevalcap"] == ratio
    assert figures["largest_difference"] < 1e-9
    assert figures["pool_scaling"]["1"] == 1.0
    assert speeds["pool of 1, calls of 250"] > 0
    assert all(
        row["slowest"] <= row["median"] <= row["fastest"]
        for row in figures["captions_per_s"].values()
    )
    assert f"{ratio:.1f}" in page
    assert "pycocoevalcap, df counted too" in capsys.readouterr().out


def test_order_writes_consistent_figures(tmp_path: Path) -> None:
    out, page = tmp_path / "figures.json", tmp_path / "page.md"
    setting = ["--samples", "10000", "--images", "2600"]
    result = launch("bench.py", "order", *setting, "--json", str(out), "--page", str(page))
    assert result.returncode == 0, result.stderr
    figures = json.loads(out.read_text())
    assert figures["mixing"]["80"]["as stored"]["again"] == 10_000
    assert figures["costs"]["permutation of all samples"]["peak MB"] >= 0.08
    worst = figures["mixing"]["160"]["1 × 4096"]["source 16"]
    assert f"{worst:.1f}" in page.read_text()
    assert "order, 100 shards of 100, resumed" in result.stdout


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="--images: expected 2560 or more, got 2000"):
        measure(10_000, 2000)
    with pytest.raises(ConfigError, match="--samples: expected 10000 or more, got 10"):
        measure(10, 5000)


def test_options_of_another_benchmark_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "reward", "--beam", "3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "unrecognized arguments: --beam 3" in capsys.readouterr().err


def test_the_script_finds_the_benchmarks_of_its_checkout(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "launcher" / "bench.py"
    command = [sys.executable, "-I", str(script), "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "decode" in result.stdout


def test_synthetic_captions_are_deterministic_and_resemble_captions() -> None:
    corpus, again = make_corpus(300), make_corpus(300)
    assert again.references == corpus.references
    assert np.array_equal(again.packed, corpus.packed)
    captions = [caption for group in corpus.references.values() for caption in group]
    assert len(captions) == 300 * REFERENCES
    assert all(caption[-1] == EOS and PAD not in caption for caption in captions)
    assert 6 <= min(map(len, captions)) - 1 < 10.5 < max(map(len, captions)) - 1 <= 20
    counts = np.sort(np.bincount(np.concatenate(captions), minlength=VOCABULARY))[::-1]
    # Zipf's law: the frequency of a word falls as its rank rises (the commonest is EOS).
    slope = np.polyfit(np.log(np.arange(5, 200)), np.log(counts[5:200]), 1)[0]
    assert -1.2 < slope < -0.7
