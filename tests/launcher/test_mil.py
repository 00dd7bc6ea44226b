"""A detector of concepts, then captions from its concepts, in one run on tiny shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shards.concept_files import CONCEPTS, ConceptSet
from shards.manifest import Manifest
from shards.schema import Sample
from tests.support.processes import launch
from tests.support.resume import finish, same_run, started, steps_done, wait_for
from tests.support.runs import checkpoint, losses, records, refused, train
from tests.support.shards import TinySource

MIL = {
    "objective": "mil",
    "epochs": 4,
    "batch": {"images": 16, "micro": 8},
    "optimizer": {"lr": 0.01, "clip_norm": 1.0},
    "words": 6,
    "kept": 4,
    "folds": 3,
    "hidden": 12,
    "dropout": 0.3,
}
SCST = {
    "objective": "scst",
    "epochs": 1,
    "batch": {"images": 16, "micro": 8},
    "optimizer": {"lr": 0.003},
    "samples": 2,
    "reward": {"actors": 0},
}


class Bare(TinySource):
    """The tiny images without concepts."""

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        return (replace(sample, concepts=None) for sample in super().load(split, ids))


@pytest.fixture(scope="module")
def described(tiny_config: dict[str, Any]) -> dict[str, Any]:
    return {
        **tiny_config,
        "model": {**tiny_config["model"], "dropout": 0.3},
        "stages": [MIL, {**tiny_config["stages"][0], "epochs": 2}, SCST],
        "decoding": {"max_words": 8},
    }


def write(folder: Path, described: dict[str, Any], name: str = "run") -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**described, "run": str(folder / name)}))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, described: dict[str, Any]) -> Path:
    """A run of the three stages that nothing disturbed."""
    folder = tmp_path_factory.mktemp("mil")
    finish(write(folder, described))
    return folder / "run"


def test_the_stages_follow_each_other(whole: Path) -> None:
    steps = [record["stage"] for record in records(whole) if "loss" in record]
    assert steps == ["mil"] * 16 + ["xe"] * 8 + ["scst"] * 4
    precisions = [record for record in records(whole) if "val_ap" in record]
    assert [record["epoch"] for record in precisions] == [1, 2, 3, 4]
    assert all(0 < record["val_ap"] <= 100 for record in precisions)
    assert all(0 < record["val_ap_image"] <= 100 for record in precisions)
    kept = json.loads((checkpoint(whole, "detector") / "progress.json").read_text())
    assert kept["best"]["AP"] == max(record["val_ap"] for record in precisions)


def test_every_image_has_concepts(whole: Path, tiny: Manifest) -> None:
    found = ConceptSet.load(whole / "concepts")
    for shard in tiny.shards:
        concepts = found.read(shard.name)
        assert list(concepts) == [entry.key for entry in tiny.index(shard)]
        for pairs in concepts.values():
            scores = [score for _, score in pairs]
            assert len(pairs) == 4
            assert scores == sorted(scores, reverse=True)
            assert all(0 < score < 1 for score in scores)
    assert not (tiny.root / CONCEPTS).exists()


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "in the first stage": lambda run: steps_done(run) >= 6,
    "before the detector is judged": lambda run: (
        run / "checkpoints/step-00000008-inside"
    ).is_dir(),
    "while concepts are written": lambda run: any(run.glob("concepts/train-00003.*")),
    "in the second stage": lambda run: steps_done(run) >= 19,
    "in the third stage": lambda run: steps_done(run) >= 26,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_is_the_same_run(
    whole: Path, described: dict[str, Any], tmp_path: Path, moment: str
) -> None:
    config, run = write(tmp_path, described), tmp_path / "run"
    with started(config) as (rank,):
        wait_for(lambda: steps_done(run) > 0 and MOMENTS[moment](run), rank)
        rank.kill()
        rank.wait()
    finish(config, "--resume", "auto")
    same_run(run, whole)
    mine, its = (ConceptSet.load(folder / "concepts") for folder in (run, whole))
    assert (mine.detector, mine.files) == (its.detector, its.files)


def test_two_ranks_learn_what_one_does(described: dict[str, Any], tmp_path: Path) -> None:
    still = {**MIL, "dropout": 0, "batch": {"images": 16, "micro": 3}}
    for name, world in (("alone", 1), ("run", 2)):
        finish(write(tmp_path, {**described, "stages": [still]}, name), world=world)
    two, one = (records(tmp_path / n) for n in ("run", "alone"))
    for ours, its in zip(two, one, strict=True):
        same = ("loss", "grad_norm") if "loss" in ours else ("val_ap", "val_ap_image")
        for figure in same:
            assert ours[figure] == pytest.approx(its[figure], rel=1e-5)
    mine, its_own = (ConceptSet.load(tmp_path / n / "concepts") for n in ("run", "alone"))
    assert list(mine.files) == list(its_own.files)
    for shard in mine.files:
        ours, theirs = mine.read(shard), its_own.read(shard)
        assert list(ours) == list(theirs)
        for key, pairs in ours.items():
            assert dict(pairs) == pytest.approx(dict(theirs[key]), abs=2e-4)


@pytest.mark.parametrize("stage", [1, 3])
def test_deepspeed_learns_what_torch_does(
    described: dict[str, Any], tmp_path: Path, stage: int
) -> None:
    alone = {**described, "stages": [{**MIL, "dropout": 0}]}
    finish(write(tmp_path, alone, "torch"))
    section = {"zero_optimization": {"stage": stage}}
    finish(write(tmp_path, {**alone, "engine": "deepspeed", "deepspeed": section}))
    pairs = list(zip(losses(tmp_path / "run"), losses(tmp_path / "torch"), strict=True))
    assert len(pairs) == 16
    for ours, twin in pairs:
        assert ours == pytest.approx(twin, rel=1e-5)


def test_the_runs_concepts_reach_shards_and_captions(
    whole: Path, described: dict[str, Any], tiny: Manifest, tmp_path: Path
) -> None:
    """Scoring reads the run's own; others' shards get them beside their tars."""
    result = launch("evaluate.py", "--run", str(whole), "--split", "val")
    assert result.returncode == 0, result.stderr
    shards = tmp_path / "shards"
    shutil.copytree(tiny.root, shards)
    caption = ("--run", str(whole), "--shards", str(shards), "--out", str(tmp_path / "c.json"))
    line = refused(launch("caption.py", *caption))
    assert f"{shards}: concepts of the tars, but the model was trained on those of dete" in line
    assert f"by launcher/concepts.py --run {whole}" in line
    predict = ("--run", str(whole), "--shards", str(shards))
    result = launch("concepts.py", *predict)
    assert result.returncode == 0, result.stderr
    mine, its = ConceptSet.load(shards), ConceptSet.load(whole / "concepts")
    assert (mine.detector, mine.files) == (its.detector, its.files)
    assert launch("caption.py", *caption).returncode == 0


def test_a_run_does_not_go_on_with_other_concepts(
    tiny_config: dict[str, Any], tiny: Manifest, whole: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny.root, shards)
    data = {**tiny_config["data"], "shards": str(shards)}
    config = write(tmp_path, {**tiny_config, "data": data})
    assert train(config).returncode == 0
    assert launch("concepts.py", "--run", str(whole), "--shards", str(shards)).returncode == 0
    line = refused(train(config, "--set", "stages.0.epochs=3", "--resume", "auto"))
    assert f"{shards}: concepts of detector " in line
    assert "but the model was trained on those of the tars; give the shards those" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stages.0.folds=27"], "53 training images are too few for 27 folds, expected 54"),
        (["stages.0.folds=1"], "stages.0.folds: Input should be greater than or equal to 2, got 1"),
    ],
)
def test_what_can_not_be_is_refused(
    described: dict[str, Any], tmp_path: Path, settings: list[str], message: str
) -> None:
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert message in refused(train(write(tmp_path, described), *arguments))


def test_it_stands_first(described: dict[str, Any], tmp_path: Path) -> None:
    config = write(tmp_path, {**described, "stages": described["stages"][::-1]})
    line = refused(train(config))
    assert "stages.2: a stage mil makes concepts for the others; it stands first" in line


def test_another_detector_does_not_go_on(
    whole: Path, described: dict[str, Any], tmp_path: Path
) -> None:
    config = write(tmp_path, {**described, "stages": [MIL]})
    assert train(config, "--set", "stages.0.epochs=1").returncode == 0
    line = refused(train(config, "--set", "stages.0.hidden=13", "--resume", "auto"))
    assert f"stages.0 is not that of the detector in {tmp_path / 'run'}, which" in line
    assert "has words 6, folds 3, hidden 12; resume with its config" in line
    shutil.copytree(whole, tmp_path / "plain")
    xe_only = write(tmp_path, {**described, "stages": described["stages"][1:]}, "plain")
    assert "the model was trained on those of" in refused(train(xe_only, "--resume", "auto"))


def test_shards_without_concepts_will_do(described: dict[str, Any], tmp_path: Path) -> None:
    from shards.writer import write as write_shards

    bare = write_shards(Bare(), tmp_path / "bare", samples_per_shard=8, workers=1)
    config = write(tmp_path, {**described, "data": {**described["data"], "shards": str(bare.root)}})
    stages = ["--set", "stages.0.epochs=1", "--set", "stages.1.epochs=1"]
    result = train(config, *stages)
    assert result.returncode == 0, result.stderr
