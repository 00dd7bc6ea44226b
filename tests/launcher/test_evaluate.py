"""The evaluation and results commands on a small trained run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from capdist.reporting.results import Results, ResultsError
from shards.manifest import Manifest
from shards.writer import write
from tests.support.processes import launch
from tests.support.runs import checkpoint, refused
from tests.support.shards import TinySource

pytestmark = pytest.mark.usefixtures("without_java")


def test_evaluation_writes_scores_captions_and_a_report(run: Path, tiny: Manifest) -> None:
    result = launch("evaluate.py", "--run", str(run), "--split", "test")
    assert result.returncode == 0, result.stderr
    captions = json.loads((run / "captions" / "test-beam3.json").read_text())
    assert [entry["image_id"] for entry in captions] == list(range(2000, 2005))
    scores = json.loads((run / "scores" / "test-beam3.json").read_text())
    assert set(scores) == {"run, beam 3", "constant caption"}
    assert {"BLEU-4", "ROUGE-L", "CIDEr"} <= set(scores["run, beam 3"]["values"])
    assert "METEOR" in scores["run, beam 3"]["absent"]
    assert "<html" in (run / "report.html").read_text()


def test_a_model_with_grounding_loss_is_scored_with_f1(
    config: Path, grounded: Manifest, tmp_path: Path
) -> None:
    settings = json.loads(config.read_text())
    settings["data"]["shards"] = str(grounded.root)
    settings["model"] = {"name": "ss_updown", "width": 16, "embedding": 8, "attention": 8}
    settings["stages"][0]["grounding"] = {"weight": 1.0}
    config.write_text(json.dumps(settings))
    assert launch("train.py", "--config", str(config)).returncode == 0
    arguments = ["--run", str(tmp_path / "run"), "--split", "val", "--beam", "1"]
    names = tmp_path / "names.txt"
    names.write_text("dogs\nunicorn\n")
    result = launch("evaluate.py", *arguments, "--grounding", "--classes", str(names))
    assert result.returncode == 0, result.stderr
    assert "grounding: F1 over 1 classes" in result.stdout
    rows = json.loads((tmp_path / "run" / "scores" / "val-beam1.json").read_text())
    assert list(rows["run, beam 1"]["values"])[-2:] == ["F1_all", "F1_loc"]
    assert rows["run, beam 1"]["grounding_classes"] == 1
    assert "F1_all" not in rows["constant caption"]["values"]
    (row,) = (line for line in result.stdout.splitlines() if line.startswith("run, beam 1"))
    values = [f"{rows['run, beam 1']['values'][name]:.1f}" for name in ("F1_all", "F1_loc")]
    assert row.split()[-2:] == values


def test_classes_without_grounding_are_refused(run: Path, tmp_path: Path) -> None:
    line = refused(launch("evaluate.py", "--run", str(run), "--classes", str(tmp_path / "x")))
    assert "command line: --classes are those of --grounding" in line


def test_grounding_of_shards_without_it_is_refused(run: Path, tiny: Manifest) -> None:
    line = refused(launch("evaluate.py", "--run", str(run), "--grounding"))
    assert f"{tiny.root}: sample 000000002000 of test has no grounding" in line


def test_a_results_page_keeps_its_discussion_and_fills_the_readme(
    run: Path, tmp_path: Path
) -> None:
    page = tmp_path / "a page.md"
    line = refused(launch("results.py", "--run", str(run), "--split", "val"))
    assert "no scores of val" in line
    assert launch("evaluate.py", "--run", str(run), "--split", "val").returncode == 0
    result = launch("results.py", "--run", str(run), "--split", "val", "--out", str(page))
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert "| constant caption |" in text
    assert "](a%20page_curves.png)" in text
    assert text.count("\n- **") == 7
    page.write_text(text + "\n## Discussion\n\nBoth failures are hard.\n")
    again = launch("results.py", "--run", str(run), "--split", "val", "--out", str(page))
    assert again.returncode == 0, again.stderr
    assert page.read_text() == text + "\n## Discussion\n\nBoth failures are hard.\n"
    captions = run / "captions" / "val-beam3.json"
    captions.write_text(json.dumps(json.loads(captions.read_text())[1:]))
    line = refused(launch("results.py", "--run", str(run), "--split", "val"))
    assert "the scores of val are of other images than those of" in line
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- results:x -->\nold\n<!-- /results -->\nb\n")
    Results(run, "val").fill(readme, "x")
    assert "| constant caption |" in readme.read_text()
    assert "old" not in readme.read_text()
    with pytest.raises(ResultsError, match="no <!-- results:y -->"):
        Results(run, "val").fill(readme, "y")
    assert (tmp_path / "a page_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_split_with_few_images_gets_a_results_page(run: Path, tmp_path: Path) -> None:
    source = TinySource(sizes=(("train", 8), ("test", 3)))
    shards = str(write(source, tmp_path / "few", workers=1).root)
    settings = json.loads((run / "config.json").read_text())
    settings["data"]["shards"] = shards
    (run / "config.json").write_text(json.dumps(settings))
    versions = json.loads((run / "versions.json").read_text())
    del versions["shards"]["splits"]  # as older runs, which did not record their images
    (run / "versions.json").write_text(json.dumps(versions))
    assert launch("evaluate.py", "--run", str(run), "--shards", shards).returncode == 0
    result = launch("results.py", "--run", str(run), "--out", str(tmp_path / "page.md"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "page.md").read_text().count("\n- **") == 3 + 2


def test_scores_of_other_shards_do_not_replace_those_of_the_run(run: Path, tmp_path: Path) -> None:
    own = ("--run", str(run), "--split", "val", "--beam", "1")
    assert launch("evaluate.py", *own).returncode == 0
    files = ["scores.json", "scores/val-beam1.json", "captions/val-beam1.json"]
    before = [(run / file).read_bytes() for file in files]
    source = TinySource(sizes=(("train", 8), ("val", 4)))
    other = str(write(source, tmp_path / "other", workers=1).root)
    result = launch("evaluate.py", *own, "--shards", other, "--accept-features")
    assert result.returncode == 0, result.stderr
    assert [(run / file).read_bytes() for file in files] == before
    (scores,) = (run / "scores").glob("val-shards-*-beam1.json")
    assert str(scores) in result.stdout
    assert launch("report.py", str(run)).returncode == 0  # is about the run's own images
    alone = str(write(TinySource(sizes=(("val", 4),)), tmp_path / "alone", workers=1).root)
    result = launch("evaluate.py", *own, "--shards", alone, "--accept-features")
    assert (result.returncode, "constant caption" in result.stdout) == (0, False), result.stderr


def test_scores_of_the_last_checkpoint_do_not_replace_those_of_the_best(run: Path) -> None:
    own = ("--run", str(run), "--split", "val", "--beam", "1")
    assert launch("evaluate.py", *own).returncode == 0
    files = ["scores.json", "scores/val-beam1.json", "captions/val-beam1.json", "report.html"]
    before = [(run / file).read_bytes() for file in files]
    result = launch("evaluate.py", *own, "--checkpoint", "last")
    assert result.returncode == 0, result.stderr
    assert [(run / file).read_bytes() for file in files] == before
    assert str(run / "scores" / "val-checkpoint-last-beam1.json") in result.stdout
    assert launch("report.py", str(run)).returncode == 0  # is about the best


def test_a_results_page_names_the_command_that_trained_the_run(run: Path) -> None:
    versions = json.loads((run / "versions.json").read_text())
    for command, shown in (
        (["launcher/train.py", "--local_rank=0", "--config", "c"], "deepspeed launcher/train.py"),
        (["/venv/bin/capdist", "train", "--config", "c"], "capdist train"),
        (["/lib/capdist/__main__.py", "train", "--config", "c"], "capdist train"),
    ):
        (run / "versions.json").write_text(json.dumps({**versions, "command": command}))
        assert Results(run, "val")._command() == f"{shown} --config c"


def test_a_run_folder_that_does_not_read_is_one_line(run: Path) -> None:
    (run / "config.json").write_text("{")
    assert "config.json: not JSON" in refused(launch("evaluate.py", "--run", str(run)))


def test_the_exported_model_loads_without_the_run_folder(run: Path, tmp_path: Path) -> None:
    from capdist.inference.exported_model import read_export

    best = checkpoint(run, "best")
    for name in ("model.safetensors", "config.json", "vocab.json"):
        shutil.copy(best / name, tmp_path / name)
    exported = read_export(tmp_path)
    assert not exported.model.training
    assert exported.config.model.width == 16


def test_a_split_without_captions_is_decoded_but_not_scored(
    run: Path, tiny: Manifest, tmp_path: Path
) -> None:
    import dataclasses

    class WithoutCaptions(TinySource):
        def load(self, split: str, ids):  # type: ignore[no-untyped-def]
            for sample in super().load(split, ids):
                yield dataclasses.replace(sample, captions=(), tokens=())

    shards = write(WithoutCaptions(sizes=(("test", 3),)), tmp_path / "shards", workers=1).root
    config = checkpoint(run, "best") / "config.json"
    config.write_text(config.read_text().replace(str(tiny.root), str(shards)))
    result = launch("evaluate.py", "--run", str(run), "--split", "test")
    assert result.returncode == 0, result.stderr
    assert "nothing is scored" in result.stdout
    (captions,) = (run / "captions").glob("test-shards-*-beam3.json")
    assert len(json.loads(captions.read_text())) == 3


def test_bad_input_is_one_line(run: Path, tmp_path: Path) -> None:
    line = refused(launch("evaluate.py", "--run", str(tmp_path / "nothing")))
    assert "no best checkpoint; train first" in line
    line = refused(launch("evaluate.py", "--run", str(run), "--split", "tset"))
    assert "no split 'tset', expected one of test, train, val" in line


def test_another_vocabulary_is_refused(run: Path) -> None:
    best = checkpoint(run, "best")
    vocab = best / "vocab.json"
    vocab.write_text(vocab.read_text().replace('"dog"', '"god"'))
    line = refused(launch("evaluate.py", "--run", str(run)))
    assert "vocab.json: vocabulary" in line
    assert "use the checkpoint's own vocab.json" in line


def test_another_extractor_is_refused(run: Path, tiny: Manifest, tmp_path: Path) -> None:
    best = checkpoint(run, "best")
    config = best / "config.json"
    config.write_text(config.read_text().replace("tiny-v1", "other-v2"))
    assert "use shards of the same extractor" in refused(launch("evaluate.py", "--run", str(run)))
