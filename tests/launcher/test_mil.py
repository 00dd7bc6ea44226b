"""A concept detector, then captions from its concepts, in one run on tiny shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capdist.inference.captioner import Captioner
from shards.concept_files import CONCEPTS, ConceptSet
from shards.manifest import Manifest
from shards.schema import Sample
from shards.writer import write as write_shards
from tests.support.processes import Running, environment, free_port, launch
from tests.support.resume import finish, same_run, started, steps_done, wait_for
from tests.support.runs import checkpoint, records, refused, train
from tests.support.shards import TinySource, tiny_sample

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


class WithoutConcepts(TinySource):
    """The tiny images without concepts."""

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        return (replace(sample, concepts=None) for sample in super().load(split, ids))


@pytest.fixture(scope="module")
def base_settings(tiny_config: dict[str, Any]) -> dict[str, Any]:
    return {
        **tiny_config,
        "model": {**tiny_config["model"], "dropout": 0.3},
        "stages": [MIL, {**tiny_config["stages"][0], "epochs": 2}, SCST],
        "decoding": {"max_words": 8},
    }


def write(folder: Path, base_settings: dict[str, Any], name: str = "run") -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**base_settings, "run": str(folder / name)}))
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, base_settings: dict[str, Any]) -> Path:
    """An uninterrupted run of the three stages."""
    folder = tmp_path_factory.mktemp("mil")
    finish(write(folder, base_settings))
    return folder / "run"


def test_all_stages_train_and_the_best_detector_is_kept(reference: Path) -> None:
    steps = [record["stage"] for record in records(reference) if "loss" in record]
    assert steps == ["mil"] * 16 + ["xe"] * 8 + ["scst"] * 4
    precisions = [record for record in records(reference) if "val_ap" in record]
    assert [record["epoch"] for record in precisions] == [1, 2, 3, 4]
    assert all(0 < record["val_ap"] <= 100 for record in precisions)
    assert all(0 < record["val_ap_image"] <= 100 for record in precisions)
    kept = json.loads((checkpoint(reference, "detector") / "progress.json").read_text())
    assert kept["best"]["AP"] == max(record["val_ap"] for record in precisions)


def test_the_run_predicts_concepts_for_every_image(reference: Path, tiny: Manifest) -> None:
    found = ConceptSet.load(reference / "concepts")
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
    "before the detector is validated": lambda run: (
        run / "checkpoints/step-00000008-inside"
    ).is_dir(),
    "while concepts are written": lambda run: any(run.glob("concepts/train-00003.*")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_resume_is_bit_exact_around_the_prediction_of_concepts(
    reference: Path, base_settings: dict[str, Any], tmp_path: Path, moment: str
) -> None:
    config, run = write(tmp_path, base_settings), tmp_path / "run"
    with started(config) as (rank,):
        wait_for(lambda: steps_done(run) > 0 and MOMENTS[moment](run), rank)
        rank.kill()
        rank.wait()
    finish(config, "--resume", "auto")
    same_run(run, reference)
    resumed, expected = (ConceptSet.load(folder / "concepts") for folder in (run, reference))
    assert (resumed.detector, resumed.files) == (expected.detector, expected.files)


def test_two_ranks_train_as_one_does(base_settings: dict[str, Any], tmp_path: Path) -> None:
    stage = {**MIL, "dropout": 0, "batch": {"images": 16, "micro": 3}}
    for name, world in (("alone", 1), ("run", 2)):
        finish(write(tmp_path, {**base_settings, "stages": [stage]}, name), world=world)
    for record, expected in zip(
        records(tmp_path / "run"), records(tmp_path / "alone"), strict=True
    ):
        compared = ("loss", "grad_norm") if "loss" in record else ("val_ap", "val_ap_image")
        for name in compared:
            assert record[name] == pytest.approx(expected[name], rel=1e-5)
    two, one = (ConceptSet.load(tmp_path / name / "concepts") for name in ("run", "alone"))
    assert list(two.files) == list(one.files)
    for shard in two.files:
        concepts, expected_concepts = two.read(shard), one.read(shard)
        assert list(concepts) == list(expected_concepts)
        for key, pairs in concepts.items():
            assert dict(pairs) == pytest.approx(dict(expected_concepts[key]), abs=2e-4)


def test_other_shards_are_captioned_with_the_runs_concepts(
    without_java: Path,
    reference: Path,
    base_settings: dict[str, Any],
    tiny: Manifest,
    tmp_path: Path,
) -> None:
    """Evaluation reads the run's own concepts; other shards get files beside their tars."""
    result = launch("evaluate.py", "--run", str(reference), "--split", "val")
    assert result.returncode == 0, result.stderr
    shards = tmp_path / "shards"
    shutil.copytree(tiny.root, shards)
    caption = ("--run", str(reference), "--shards", str(shards), "--out", str(tmp_path / "c.json"))
    line = refused(launch("caption.py", *caption))
    assert f"{shards}: concepts of the tars, but the model was trained on those of dete" in line
    assert f"capdist concepts --run {reference}" in line
    predict = ("--run", str(reference), "--shards", str(shards))
    line = refused(launch("concepts.py", *predict, "--top", "99"))
    assert "--top 99: the detector of" in line
    result = launch("concepts.py", *predict)
    assert result.returncode == 0, result.stderr
    written, expected = ConceptSet.load(shards), ConceptSet.load(reference / "concepts")
    assert (written.detector, written.files) == (expected.detector, expected.files)
    assert launch("caption.py", *caption).returncode == 0
    source = TinySource(sizes=(("train", 8), ("val", 4)))
    other = str(write_shards(source, tmp_path / "other", workers=1).root)
    score = ("--run", str(reference), "--shards", other, "--split", "val", "--accept-features")
    remedy = f"capdist concepts --run {reference} --shards {other}"
    assert remedy in refused(launch("evaluate.py", *score))
    assert launch("concepts.py", *score[:4], "--accept-features").returncode == 0
    result = launch("evaluate.py", *score, "--out", str(tmp_path / "scores"))
    assert result.returncode == 0, result.stderr
    (tmp_path / "new").mkdir()
    for number in range(2000, 2005):
        np.savez(tmp_path / f"new/{number}.npz", feat=tiny_sample(number, "test").regions)
    found = Captioner.open([reference]).of_features(str(tmp_path / "new"))
    assert {image: " ".join(captions[0].words) for image, captions in found.items()} == {
        entry["image_id"]: entry["caption"]
        for entry in json.loads((tmp_path / "c.json").read_text())
    }


def test_a_damaged_shard_is_reported_by_one_rank(
    reference: Path, tiny: Manifest, tmp_path: Path
) -> None:
    """The second of two ranks predicts the concepts of the damaged shard."""
    shards = tmp_path / "shards"
    shutil.copytree(tiny.root, shards)
    damaged = shards / tiny.shards[1].name
    damaged.write_bytes(damaged.read_bytes()[:9000])
    rendezvous = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        Running(
            "concepts.py",
            *("--run", str(reference), "--shards", str(shards)),
            env=environment(**rendezvous, RANK=rank, LOCAL_RANK=rank),
        )
        for rank in "01"
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.poll() for rank in ranks] == [2, 2]
    lines = [line for text in errors for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    assert damaged.name in lines[0]
    assert "Traceback" not in "".join(errors)
    assert not (shards / CONCEPTS).exists()


def test_a_run_does_not_resume_with_other_concepts(
    tiny_config: dict[str, Any], tiny: Manifest, reference: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(tiny.root, shards)
    data = {**tiny_config["data"], "shards": str(shards)}
    config = write(tmp_path, {**tiny_config, "data": data})
    assert train(config).returncode == 0
    assert launch("concepts.py", "--run", str(reference), "--shards", str(shards)).returncode == 0
    line = refused(train(config, "--set", "stages.0.epochs=3", "--resume", "auto"))
    assert f"{shards}: concepts of detector " in line
    assert "but the model was trained on those of the tars; use shards with those" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stages.0.folds=27"], "53 training images are too few for 27 folds, expected 54"),
        (["stages.0.folds=1"], "stages.0.folds: Input should be greater than or equal to 2, got 1"),
    ],
)
def test_impossible_settings_are_one_line(
    base_settings: dict[str, Any], tmp_path: Path, settings: list[str], message: str
) -> None:
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert message in refused(train(write(tmp_path, base_settings), *arguments))


def test_concept_detection_must_be_the_first_stage(
    base_settings: dict[str, Any], tmp_path: Path
) -> None:
    config = write(tmp_path, {**base_settings, "stages": base_settings["stages"][::-1]})
    line = refused(train(config))
    assert "stages.2: 'mil' must come before the stages that train on its concepts" in line


def test_a_run_does_not_resume_with_a_detector_of_other_sizes(
    reference: Path, base_settings: dict[str, Any], tmp_path: Path
) -> None:
    config = write(tmp_path, {**base_settings, "stages": [MIL]})
    assert train(config, "--set", "stages.0.epochs=1").returncode == 0
    line = refused(train(config, "--set", "stages.0.hidden=13", "--resume", "auto"))
    assert f"stages.0 is not that of the detector in {tmp_path / 'run'}, which" in line
    assert "has words 6, folds 3, hidden 12; resume with its config" in line
    shutil.copytree(reference, tmp_path / "plain")
    xe_only = write(tmp_path, {**base_settings, "stages": base_settings["stages"][1:]}, "plain")
    assert "the model was trained on those of" in refused(train(xe_only, "--resume", "auto"))


def test_the_detector_needs_no_concepts_in_the_shards(
    base_settings: dict[str, Any], tmp_path: Path
) -> None:

    shards = write_shards(WithoutConcepts(), tmp_path / "shards", samples_per_shard=8, workers=1)
    config = write(
        tmp_path, {**base_settings, "data": {**base_settings["data"], "shards": str(shards.root)}}
    )
    stages = ["--set", "stages.0.epochs=1", "--set", "stages.1.epochs=1"]
    result = train(config, *stages)
    assert result.returncode == 0, result.stderr
