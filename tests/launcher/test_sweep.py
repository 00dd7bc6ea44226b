"""A sweep: its table, a second call, interrupted sweeps and failed runs."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from capdist.commands.main import main
from capdist.config.base import ConfigError
from capdist.data.dataset import evaluation_batches
from capdist.data.rank_plan import Ranks
from capdist.inference.exported_model import read_run
from capdist.inference.run_folder import read_names
from capdist.signals import STOPPED
from capdist.sweeps.kept_runs import read_kept, write_kept
from capdist.sweeps.sweep import Sweep
from capdist.sweeps.sweep_runs import SweepEnsemble
from capdist.vocab import BOS, PAD, UNK
from capdist.workers.commands import CommandTask
from shards.manifest import Manifest
from tests.support.processes import ROOT, Running, environment, launch
from tests.support.runs import losses, refused


def write(where: Path, config: Path, **changes: Any) -> Path:
    settings = {
        "folder": str(where / "runs"),
        "rows": {"GLIED": {"config": str(config), "paper": {"CIDEr": 118.2}}},
        "seeds": [1, 2],
        **changes,
    }
    (where / "list.json").write_text(json.dumps(settings))
    return where / "list.json"


pytestmark = pytest.mark.usefixtures("without_java")


@pytest.fixture(scope="module")
def finished(
    without_java: Path, tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a config and of a finished sweep over it."""
    folder = tmp_path_factory.mktemp("sweep")
    config = folder / "config.json"
    config.write_text(json.dumps({**tiny_config, "run": "nowhere"}))
    (folder / "page.md").write_text("before\n<!-- results:list --><!-- /results -->\nafter\n")
    result = launch("sweep.py", str(write(folder, config)), "--page", str(folder / "page.md"))
    assert result.returncode == 0, result.stderr
    return folder


def test_the_table_has_the_means_over_seeds(finished: Path) -> None:
    ciders = []
    for run in ("glied-1", "glied-2"):
        scores = json.loads((finished / "runs" / run / "scores" / "test-beam3.json").read_text())
        ciders.append(scores[f"{run}, beam 3"]["values"]["CIDEr"])
    before, _, head, _, row, *_, after, _ = (finished / "page.md").read_text().split("\n")
    assert (before, after) == ("before", "after")
    cells = [cell.strip() for cell in row.split("|")]
    titles = [title.strip() for title in head.split("|")]
    assert cells[titles.index("paper's CIDEr")] == "118.2"
    assert cells[1] == "GLIED"
    assert cells[6] == f"{sum(ciders) / 2:.1f}"
    assert cells[7] == f"{abs(ciders[0] - ciders[1]) / 2**0.5:.1f}"
    assert losses(finished / "runs" / "glied-1") != losses(finished / "runs" / "glied-2")


def test_only_runs_whose_config_changed_run_again(finished: Path, tmp_path: Path) -> None:
    runs = finished / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    config = json.loads((finished / "config.json").read_text())
    config["description"] = "its scores"
    (finished / "config.json").write_text(json.dumps(config))
    again = launch("sweep.py", str(finished / "list.json"))
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    moved = tmp_path / "runs"
    shutil.copytree(runs, moved)
    longer = write(tmp_path, finished / "config.json", set={"stages.0.epochs": 3})
    refusal = refused(launch("sweep.py", str(longer), "--only", "0"))
    assert f"{moved / 'glied-1'}: was trained with another config than row 'GLIED'" in refusal
    shutil.rmtree(moved / "glied-1")
    assert launch("sweep.py", str(longer), "--only", "0").returncode == 0
    first, second = losses(moved / "glied-1"), losses(moved / "glied-2")
    assert len(first) * 2 == len(second) * 3


def test_runs_kept_beside_the_page_need_no_run_folder(finished: Path, tmp_path: Path) -> None:
    kept = finished / "runs" / "runs"
    assert sorted(file.name for file in kept.iterdir()) == [
        "glied-1-test-beam3.json.gz",
        "glied-2-test-beam3.json.gz",
    ]
    shutil.copytree(kept, tmp_path / "runs" / "runs")
    shutil.copy(finished / "page.md", tmp_path)
    rows = {
        "GLIED": {"config": str(finished / "config.json"), "paper": {"CIDEr": 118.2}},
        "longer": {
            "config": str(finished / "config.json"),
            "set": {"stages.0.epochs": 3},
            "against": "GLIED",
        },
    }
    # Its runs are where the first sweep's were, of which nothing is left there.
    moved = (finished / "runs").rename(finished / "moved")
    try:
        path = write(tmp_path, finished / "config.json", rows=rows, folder=str(finished / "runs"))
        page = tmp_path / "page.md"
        result = launch("sweep.py", str(path), "--only", "2", "--page", str(page))
        assert result.returncode == 0, result.stderr
        assert not (finished / "runs" / "glied-1").exists()
        glied = next(line for line in page.read_text().splitlines() if "| GLIED" in line)
        first = next(
            line for line in (finished / "page.md").read_text().splitlines() if "GLIED" in line
        )
        assert glied.split("|")[2:] == first.split("|")[2:]
        assert "| longer − GLIED |" in page.read_text()
        assert "1 of 4 runs are not finished" in page.read_text()
        shutil.rmtree(finished / "runs")
    finally:
        moved.rename(finished / "runs")


def test_kept_runs_are_those_of_the_folder_and_of_the_evaluation(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These shards have no grounding; those of a run that was scored before they had it would.
    monkeypatch.setattr("capdist.sweeps.sweep.check_grounding", lambda *_: None)
    shutil.copytree(finished / "runs" / "runs", tmp_path / "runs" / "runs")
    rows = {"GLIED": {"config": str(finished / "config.json")}}
    others: list[dict[str, Any]] = [{"beam": 2}, {"split": "val"}, {"grounding": True}]
    for changes, kept in ({}, True), *((other, False) for other in others):
        path = write(
            tmp_path, finished, rows=rows, folder=str(finished / "runs"), **changes
        ).rename(tmp_path / "other.json")
        runs = Sweep.load(path, tmp_path / "page.md").runs
        assert [(run.kept is not None, run.done) for run in runs] == [(kept, kept)] * 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-20],
        lambda whole: b"",
        lambda whole: gzip.compress(b"[1]"),
        lambda whole: gzip.compress(gzip.decompress(whole).replace(b'"summary"', b'"other"')),
        lambda whole: gzip.compress(gzip.decompress(whole).replace(b'"config"', b'"other"', 1)),
    ],
)
def test_a_damaged_kept_run_is_one_line(
    finished: Path,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "glied-1-test-beam3.json.gz"
    kept = tmp_path / "runs" / "runs" / name
    kept.parent.mkdir(parents=True)
    kept.write_bytes(damage((finished / "runs" / "runs" / name).read_bytes()))
    shutil.copy(finished / "page.md", tmp_path)
    path = write(tmp_path, finished / "config.json", folder=str(finished / "runs"))
    assert main(["sweep", str(path), "--page", str(tmp_path / "page.md")]) == 2
    assert f"{kept}: not what is kept of a run, or damaged (" in capsys.readouterr().err


def test_a_run_of_another_config_is_neither_counted_nor_touched(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    rows = {"GLIED": {"config": str(finished / "config.json"), "set": {"model.dropout": 0.3}}}
    path = write(tmp_path, finished / "config.json", rows=rows)
    before = {file: file.read_bytes() for file in (tmp_path / "runs").rglob("*.json")}
    first = (
        f"{path}: {tmp_path}/runs/glied-{{}}: was trained with another config than row "
        "'GLIED' has, model.dropout 0.1 instead of 0.3; remove the folder to train it anew"
    )
    options: list[tuple[list[str], int]] = [([], 1), (["--only", "1"], 2)]
    for only, number in options:
        assert main(["sweep", str(path), *only]) == 2
        assert first.format(number) in capsys.readouterr().err
    assert {file: file.read_bytes() for file in before} == before


def test_scores_count_for_the_weights_that_were_scored(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    sweep = Sweep.load(write(tmp_path, finished / "config.json"))
    assert [run.done for run in sweep.runs] == [True, True]
    first, second = (tmp_path / "runs" / f"glied-{seed}" / "checkpoints" for seed in (1, 2))
    names = read_names(first)
    del names["finished"]  # as while it is trained further
    (first / "names.json").write_text(json.dumps(names))
    with (second / read_names(second)["best"] / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    assert [run.done for run in sweep.runs] == [False, False]


def test_spice_is_in_the_table_where_it_is_known(finished: Path, tmp_path: Path) -> None:
    assert "SPICE" not in (finished / "page.md").read_text()
    kept = finished / "runs" / "runs" / "glied-1-test-beam3.json.gz"
    run = read_kept(kept)
    assert run is not None
    run["summary"] |= {"SPICE": 12.3, "SPICE Color": 4.5}
    (tmp_path / "page.md").write_text("<!-- results:list --><!-- /results -->")
    write_kept(tmp_path / "runs" / "runs" / kept.name, run)
    path = write(tmp_path, finished / "config.json", seeds=[1], folder=str(finished / "runs"))
    sweep = Sweep.load(path, tmp_path / "page.md")
    assert "  12.3 " in sweep.table()
    assert sweep.rows()["GLIED"]["SPICE Color"] == 4.5
    assert {"SPICE", "SPICE Color"} <= set(sweep.columns)


def until_saved(process: Running | subprocess.Popen[bytes], run: Path) -> None:
    """Wait for the first checkpoint of a run of a sweep."""
    while not (run / "checkpoints" / "names.json").exists():
        assert process.poll() is None
        time.sleep(0.05)


def test_a_killed_sweep_resumes_its_runs(finished: Path, tmp_path: Path) -> None:
    path = write(tmp_path, finished / "config.json", seeds=[2])
    process = Running("sweep.py", str(path))
    run = tmp_path / "runs" / "glied-2"
    until_saved(process, run)
    process.kill()
    process.wait()
    result = launch("sweep.py", str(path))
    assert result.returncode == 0, result.stderr
    assert losses(run) == losses(finished / "runs" / "glied-2")


@pytest.mark.parametrize("only", [[], ["--only", "0"]])
def test_runs_of_a_stopped_sweep_save_their_state(
    finished: Path, tmp_path: Path, only: list[str]
) -> None:
    path = write(tmp_path, finished / "config.json", seeds=[2], set={"stages.0.epochs": 10_000})
    # As a script starts it in the background.
    command = [sys.executable, str(ROOT / "launcher/sweep.py"), str(path), *only]
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command], env=environment()
    )
    run = tmp_path / "runs" / "glied-2"
    until_saved(process, run)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == STOPPED
    last = run.with_suffix(".log").read_text().splitlines()[-1]
    assert last.startswith("stopped at step")
    assert last.endswith("is complete. Continue with --resume auto")


def test_a_failed_run_is_reported_and_the_others_run(finished: Path, tmp_path: Path) -> None:
    config = finished / "config.json"
    rows = {
        "both": {"ensemble": ["bad", "GLIED"]},
        "GLIED": {"config": str(config)},
        "bad": {"config": str(config), "set": {"data.shards": str(tmp_path / "none")}},
    }
    path = write(tmp_path, config, rows=rows, seeds=[2], folder=str(finished / "runs"))
    result = launch("sweep.py", str(path))
    log = finished / "runs" / "bad-2.log"
    assert result.returncode == 1
    assert f"bad-2 failed with status 2: see {log}" in result.stderr
    assert "error: " in log.read_text()
    assert "GLIED" in result.stdout
    assert "bad" not in result.stdout
    assert f"both-2 is left out: no finished run in {log.with_suffix('')}; it" in result.stderr


def without_ray(
    tasks: Sequence[CommandTask], *resources: object
) -> Iterator[tuple[CommandTask, int]]:
    """What `run_tasks` does, one task after the other."""
    for task in tasks:
        yield (
            task,
            max(launch(f"{word}.py", *rest).returncode for _, _, word, *rest in task.commands),
        )


def test_an_ensemble_is_a_row(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(finished / "config.json")
    rows = {
        "both": {"ensemble": ["short", "GLIED"], "against": "GLIED", "paper": {"CIDEr": 120}},
        "GLIED": {"config": config},
        "short": {"config": config, "set": {"stages.0.epochs": 1}},
    }
    page = tmp_path / "page.md"
    page.write_text("<!-- results:list --><!-- /results -->")
    path = write(tmp_path, Path(config), rows=rows, seeds=[2], folder=str(finished / "runs"))
    monkeypatch.setattr("capdist.workers.commands.run_tasks", without_ray)
    assert main(["sweep", str(path), "--page", str(page)]) == 0
    sweep = Sweep.load(path, page)
    found, size = sweep.rows(), sweep.rows()["GLIED"]["M parameters"]
    assert size
    both = found["both"]
    assert both["M parameters"] == pytest.approx(2 * size)
    assert (both["seeds"], both["±"], both.get("epochs")) == (1, None, None)
    assert page.read_text().splitlines()[3].startswith("| both ")
    assert "| both − GLIED |" in page.read_text()
    difference = sweep.differences()["both − GLIED"]["CIDEr"]
    ciders = [found[name]["CIDEr"] for name in ("both", "GLIED")]
    assert difference == pytest.approx(ciders[0] - ciders[1], abs=1e-3)
    # What is kept beside the page is enough, until a member's config changes.
    moved = (finished / "runs").rename(finished / "moved")
    try:
        ensemble = sweep.run(0)
        assert (ensemble.done, len(ensemble.missing)) == (True, 2)
        rows["GLIED"]["set"] = {"stages.0.epochs": 3}
        ensemble = Sweep.load(write(tmp_path, Path(config), rows=rows, seeds=[2]), page).run(0)
        assert (ensemble.done, len(ensemble.missing)) == (False, 2)
    finally:
        moved.rename(finished / "runs")


def test_a_row_begins_with_the_runs_of_another(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(finished / "config.json")
    rows: dict[str, Any] = {
        "GLIED": {"config": config},
        "tuned": {"config": config, "init": "GLIED", "set": {"stages.0.epochs": 1}},
        "both": {"ensemble": ["tuned", "GLIED"]},
    }
    page = tmp_path / "page.md"
    page.write_text("<!-- results:list --><!-- /results -->")
    path = write(tmp_path, Path(config), rows=rows, seeds=[2], folder=str(finished / "runs"))
    monkeypatch.setattr("capdist.workers.commands.run_tasks", without_ray)
    tuned = Sweep.load(path, page).run(1)
    moved = (finished / "runs").rename(finished / "moved")
    try:
        assert tuned.missing == [str(finished / "runs" / "glied-2")]
    finally:
        moved.rename(finished / "runs")
    assert main(["sweep", str(path), "--page", str(page)]) == 0
    origin = json.loads((tuned.folder / "checkpoints" / "initial" / "init.json").read_text())
    assert str(finished / "runs" / "glied-2") in str(origin)
    assert losses(tuned.folder)[0] < losses(finished / "runs" / "glied-2")[0]
    assert Sweep.load(path, page).run(1).kept
    # Of other weights it would be another run.
    checkpoints = finished / "runs" / "glied-2" / "checkpoints"
    best = checkpoints / read_names(checkpoints)["best"] / "model.safetensors"
    weights = best.read_bytes()
    best.write_bytes(weights[:-1] + b"\0")
    assert "began with other weights than" in (Sweep.load(path).run(1).conflict or "")
    assert not Sweep.load(path).run(2).in_folder
    best.write_bytes(weights)
    assert Sweep.load(path).run(2).in_folder
    # It is of the runs as they were: with another first run it is another run.
    rows["GLIED"]["set"] = {"stages.0.epochs": 3}
    path = write(tmp_path, Path(config), rows=rows, seeds=[2], folder=str(finished / "runs"))
    changed = Sweep.load(path, page).run(1)
    assert (changed.done, len(changed.missing)) == (False, 1)


def test_rows_of_other_shards_are_not_compared(config: Path, tmp_path: Path) -> None:
    other = {"config": str(config), "set": {"data.shards": "elsewhere"}, "against": "a"}
    path = write(tmp_path, config, rows={"a": {"config": str(config)}, "b": other})
    with pytest.raises(ConfigError, match=r"rows\.b\.against: row 'a' has data\.shards .*, and"):
        Sweep.load(path)


def test_an_ensemble_has_the_seeds_of_one_row_or_several_rows_with_one_seed(
    config: Path, tmp_path: Path
) -> None:
    rows = {
        "seeds": {"ensemble": ["A"]},
        "rows": {"ensemble": ["B", "A"]},
        **{name: {"config": str(config)} for name in "AB"},
    }
    runs = Sweep.load(write(tmp_path, config, rows=rows)).runs
    members = {
        run.folder.name: [member.folder.name for member in run.members]
        for run in runs
        if isinstance(run, SweepEnsemble)
    }
    expected = {"seeds": ["a-1", "a-2"], "rows-1": ["b-1", "a-1"], "rows-2": ["b-2", "a-2"]}
    assert members == expected


def test_an_ensemble_writes_the_words_of_the_mean_probability(
    finished: Path, tmp_path: Path, tiny: Manifest
) -> None:
    runs = [finished / "runs" / name for name in ("glied-1", "glied-2")]
    names = ["--run", *map(str, runs), "--beam", "1", "--out", str(tmp_path)]
    assert main(["evaluate", *names]) == 0
    models = [read_run(run) for run in runs]
    data, vocab = models[0].config.data, models[0].vocab
    ((batch,),) = evaluation_batches(tiny, "test", data, 50, vocab, Ranks()).epoch(0)
    tokens = torch.full((len(batch.keys), 1, 1), BOS)
    with torch.inference_mode():
        for _ in range(20):
            probs = [m.model(m.model.encode(batch), tokens)[:, 0, -1].softmax(-1) for m in models]
            mean = torch.stack(probs).mean(0)
            mean[:, [PAD, BOS, UNK]] = 0
            tokens = torch.cat([tokens, mean.argmax(-1)[:, None, None]], -1)
    expected = [" ".join(vocab.decode(row)) for row in tokens[:, 0, 1:].tolist()]
    written = json.loads((tmp_path / "captions" / "test-beam1.json").read_text())
    assert [entry["caption"] for entry in written] == expected
    assert not (tmp_path / "report.html").exists()
    refusal = ["evaluate", "--run", *map(str, runs)]
    assert [main(refusal), main([*refusal, "--out", str(runs[1])])] == [2, 2]


def test_a_damaged_metrics_log_is_one_line(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    path = write(tmp_path, finished / "config.json", seeds=[2], folder=str(tmp_path / "runs"))
    config = tmp_path / "runs" / "glied-2" / "config.json"
    config.write_text(config.read_text().replace(str(finished), str(tmp_path)))
    (tmp_path / "runs" / "glied-2" / "metrics.jsonl").write_text("no JSON\n")
    assert "metrics.jsonl: line 1 is not JSON" in refused(launch("sweep.py", str(path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": {"stages.0.epoch": 1}}, "did you mean"),
        ({"cpus": 10000}, "no node has 10000 CPUs"),
        ({"ray": {"address": "127.0.0.1:1"}}, "ray.address 127.0.0.1:1"),
    ],
)
def test_bad_input_is_one_line(
    config: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refused(launch("sweep.py", str(write(tmp_path, config, **changes))))


def test_a_page_without_the_section_is_refused_before_anything_runs(
    config: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- results:other --><!-- /results -->\n")
    refusal = refused(launch("sweep.py", str(write(tmp_path, config)), "--page", str(page)))
    assert f"{page}: no <!-- results:list -->" in refusal
    assert not (tmp_path / "runs").exists()


def test_rows_that_share_a_folder_are_refused(config: Path, tmp_path: Path) -> None:
    rows = {"a b": {"config": str(config)}, "a_b": {"config": str(config)}}
    path = write(tmp_path, config, rows=rows)
    assert "two rows would share ['a_b-1', 'a_b-2']" in refused(launch("sweep.py", str(path)))


def test_a_split_that_the_shards_do_not_have_is_refused_first(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, finished / "config.json", split="tset")
    assert main(["sweep", str(path), "--only", "0"]) == 2
    assert f"{path}: split: " in (line := capsys.readouterr().err)
    assert "no split 'tset', expected one of test, train, val" in line
