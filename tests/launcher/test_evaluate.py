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


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_scores_captions_and_report(run: Path, tiny: Manifest) -> None:
    result = launch("evaluate.py", "--run", str(run), "--split", "test")
    assert result.returncode == 0, result.stderr
    captions = json.loads((run / "captions" / "test-beam3.json").read_text())
    assert [entry["image_id"] for entry in captions] == list(range(2000, 2005))
    scores = json.loads((run / "scores" / "test-beam3.json").read_text())
    assert set(scores) == {"run, beam 3", "constant caption"}
    assert {"BLEU-4", "ROUGE-L", "CIDEr"} <= set(scores["run, beam 3"]["values"])
    assert "SPICE" in scores["run, beam 3"]["absent"] or "SPICE" in result.stdout
    assert "<html" in (run / "report-test.html").read_text()


def test_grounding_is_learned_and_scored(config: Path, grounded: Manifest, tmp_path: Path) -> None:
    described = json.loads(config.read_text())
    described["data"]["shards"] = str(grounded.root)
    described["model"] = {"name": "ss_updown", "width": 16, "embedding": 8, "attention": 8}
    described["stages"][0]["grounding"] = {"weight": 1.0}
    config.write_text(json.dumps(described))
    assert launch("train.py", "--config", str(config)).returncode == 0
    arguments = ["--run", str(tmp_path / "run"), "--split", "val", "--beam", "1"]
    result = launch("evaluate.py", *arguments, "--grounding")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "run" / "scores" / "val-beam1.json").read_text())
    assert list(rows["run, beam 1"]["values"])[-2:] == ["F1_all", "F1_loc"]
    assert "F1_all" not in rows["constant caption"]["values"]
    (row,) = (line for line in result.stdout.splitlines() if line.startswith("run, beam 1"))
    values = [f"{rows['run, beam 1']['values'][name]:.1f}" for name in ("F1_all", "F1_loc")]
    assert row.split()[-2:] == values


def test_grounding_that_is_not_there_is_refused(run: Path, tiny: Manifest) -> None:
    line = refused(launch("evaluate.py", "--run", str(run), "--grounding"))
    assert f"{tiny.root}: sample 000000002000 of test has no grounding" in line


def test_results_page(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    line = refused(launch("results.py", "--run", str(run), "--split", "val"))
    assert "run launcher/evaluate.py" in line
    assert launch("evaluate.py", "--run", str(run), "--split", "val").returncode == 0
    result = launch("results.py", "--run", str(run), "--split", "val", "--out", str(page))
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert "| constant caption |" in text
    assert text.count("\n- **") == 7
    page.write_text(text + "\n## Discussion\n\nBoth failures are hard.\n")
    again = launch("results.py", "--run", str(run), "--split", "val", "--out", str(page))
    assert again.returncode == 0, again.stderr
    assert page.read_text() == text + "\n## Discussion\n\nBoth failures are hard.\n"
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- results:x -->\nold\n<!-- /results -->\nb\n")
    Results(run, "val").fill(readme, "x")
    assert "| constant caption |" in readme.read_text()
    assert "old" not in readme.read_text()
    with pytest.raises(ResultsError, match="no <!-- results:y -->"):
        Results(run, "val").fill(readme, "y")
    assert (tmp_path / "page_curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_exported_model_loads_without_the_run(run: Path, tmp_path: Path) -> None:
    from capdist.inference.exported_model import read_export

    best = checkpoint(run, "best")
    for name in ("model.safetensors", "config.json", "vocab.json"):
        shutil.copy(best / name, tmp_path / name)
    exported = read_export(tmp_path)
    assert not exported.model.training
    assert exported.config.model["width"] == 16


def test_withheld_captions_are_decoded_only(run: Path, tiny: Manifest, tmp_path: Path) -> None:
    import dataclasses

    class Withheld(TinySource):
        def load(self, split: str, ids):  # type: ignore[no-untyped-def]
            for sample in super().load(split, ids):
                yield dataclasses.replace(sample, captions=(), tokens=())

    shards = write(Withheld(sizes=(("test", 3),)), tmp_path / "withheld", workers=1).root
    config = checkpoint(run, "best") / "config.json"
    config.write_text(config.read_text().replace(str(tiny.root), str(shards)))
    result = launch("evaluate.py", "--run", str(run), "--split", "test")
    assert result.returncode == 0, result.stderr
    assert "nothing is scored" in result.stdout
    assert len(json.loads((run / "captions" / "test-beam3.json").read_text())) == 3


def test_bad_input_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    line = refused(launch("evaluate.py", "--run", str(tmp_path / "nothing")))
    assert "no best checkpoint; train first" in line
    line = refused(launch("evaluate.py", "--run", str(run), "--split", "tset"))
    assert "no split 'tset'; it has test, train, val" in line


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
