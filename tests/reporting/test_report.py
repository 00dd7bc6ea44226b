"""What a report says about runs: scores, curves, captions and what they attended to."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from capdist.commands.main import main
from capdist.data.dataset import evaluation_batches
from capdist.data.rank_plan import Ranks
from capdist.inference.exported_model import read_run
from capdist.inference.figures import find, glied_row, mia_row
from capdist.metrics.per_image import compare
from capdist.reporting.report.data import Report
from capdist.reporting.report.files import EvaluationName, ReportError, RunFiles
from capdist.reporting.report.looks import LooksError, Map, read_looks
from capdist.reporting.report.ngram_matches import Frequencies
from capdist.reporting.report.objects import Objects
from capdist.reporting.report.page import collect, render, write_report
from capdist.reporting.report.scores import Evaluated
from capdist.reporting.report.settings import settings
from capdist.reporting.report.training import step_time
from shards.manifest import Manifest
from tests.support.reports import GLIED, evaluated_run, unevaluated_run


@pytest.fixture(scope="module")
def report(runs: list[Path]) -> Report:
    return collect([RunFiles.open(run) for run in runs])


def test_differences_are_paired_and_intervals_contain_the_scores(
    runs: list[Path], report: Report
) -> None:
    (table,) = report.tables
    first, second, constant = table.rows
    assert constant.run is None
    assert all(score.difference is None for score in first.scores.values())
    evaluated = [
        Evaluated(n, RunFiles.open(run), EvaluationName("test", 3)) for n, run in enumerate(runs)
    ]
    a, b = (each.per_image for each in evaluated)
    assert a is not None
    assert b is not None
    for metric, expected in compare(a[1], b[1]).items():
        score = second.scores[metric]
        assert score.low is not None
        assert score.high is not None
        assert score.low <= score.value <= score.high
        assert score.difference == pytest.approx(expected.difference, abs=1e-6)
        assert (score.difference_low, score.difference_high) == (expected.low, expected.high)
        assert bool(score.ahead) == expected.excludes_zero


def test_a_run_does_not_differ_from_itself(runs: list[Path]) -> None:
    report = collect([RunFiles.open(runs[0])] * 2)
    score = report.tables[0].rows[1].scores["CIDEr"]
    assert (score.difference, score.difference_low, score.difference_high) == (0, 0, 0)
    assert score.ahead == 0
    assert [setting for setting in report.settings if setting.differs] == []
    assert report.runs[0].name == str(runs[0])


@pytest.mark.parametrize("number", [0, 1])
def test_stored_attention_is_the_models(runs: list[Path], pictured: Manifest, number: int) -> None:
    exported = read_run(runs[number])
    looks = read_looks(runs[number] / "captions" / "test-beam3.attention.json.gz")
    assert [look.image for look in looks] == list(range(2000, 2030))
    data, vocab = exported.config.data, exported.vocab
    ((batch,),) = evaluation_batches(pictured, "test", data, 30, vocab, Ranks()).epoch(0)
    memory = exported.model.encode(batch.to("cpu"))
    for row in (0, 4, 29):
        look = looks[row]
        words = look.beams[0].words
        tokens = torch.tensor(vocab.encode(words)[:-1]).expand(30, 1, -1)
        attention = exported.model.attention(memory, tokens)
        for name, stored in look.maps.items():
            expected = attention[name][row, 0, : len(words)].detach().numpy()
            np.testing.assert_allclose(
                stored.weights, expected[:, : stored.columns], atol=stored.peak / 255
            )
            assert not expected[:, stored.columns :].any()


def test_every_attention_has_one_name(runs: list[Path]) -> None:
    names = [
        set(read_looks(run / "captions" / "test-beam3.attention.json.gz")[0].maps) for run in runs
    ]
    stages = {
        f"{part}/{stage}" for part in ("regions", "concepts") for stage in ("global", "local")
    }
    assert names == [stages, {"regions/α", "regions/β", "regions/γ"}]


def test_mia_adds_its_iterations(pictured: Manifest, tmp_path: Path, without_java: Path) -> None:
    refine = {"name": "mia", "heads": 2, "hidden": 8, "iterations": 2}
    model = {"name": "spatial_attention", "width": 16, "refine": refine}
    run = evaluated_run(tmp_path / "mia", pictured, model)
    looks = RunFiles.open(run).looks(EvaluationName("test", 3))
    look = looks[2004]
    assert set(look.maps) == {"regions", "regions/N=1", "regions/N=2"}
    for stored in look.maps.values():
        np.testing.assert_allclose(stored.weights.sum(1), 1, atol=0.02)
    with torch.inference_mode():
        (seen,) = find(read_run(run), pictured, "test", ["2004"], looks)
        _, panels = mia_row(read_run(run), seen)
    assert [panel.title for panel in panels] == ["picture", "N = 1", "N = 2"]
    assert {box.colour for box in panels[2].boxes} == {0, 1, 2}


def test_weights_are_stored_to_a_255th_of_the_largest() -> None:
    weights = np.random.default_rng(1).random((3, 7)) * 0.02
    stored = Map.of(weights)
    np.testing.assert_allclose(stored.weights, weights, atol=stored.peak / 500)
    assert not Map.of(np.zeros((2, 3))).weights.any()


def test_objects_are_compared_by_lemma() -> None:
    objects = Objects(frozenset({"dog", "puppy", "ball"}), english=True)
    references = [["two", "dogs", "and", "a", "ball"], ["a", "dog", "with", "balls", "runs"]]
    assert objects.missing(["a", "puppies", "runs"], references) == ["dog", "ball"]
    assert objects.invented(["two", "puppies", "and", "a", "dog"], references) == ["puppy"]
    assert objects.missing(["a", "dog", "balls"], references) == []
    assert objects.missing(["a"], []) == objects.invented(["dog"], []) == []


def test_without_classes_every_content_word_is_an_object() -> None:
    objects = Objects(None, english=True)
    assert list(objects.named(["there", "is", "a", "red", "kite", ",", "near"])) == ["red", "kite"]


def test_ngram_matches_are_the_longest_and_rarest_first() -> None:
    references = [[["a", "dog", "runs"], ["a", "dog"]], [["a", "cat"]]]
    found = Frequencies.of(references).matches(["a", "dog", "sits"], references[0])
    assert [(match.text, match.references, match.weight) for match in found] == [
        ("a dog", 2, round(math.log(2), 2)),
        ("dog", 2, round(math.log(2), 2)),
        ("a", 2, 0.0),
    ]


def test_parts_of_a_step_add_up_to_it() -> None:
    steps = [{"step_s": 1.0 + warm, "data_s": 0.25, "forward_s": 0.5} for warm in [9] * 5 + [0] * 9]
    time = step_time("xe", steps)
    assert time.seconds == 1.0
    assert [(part.name, part.share) for part in time.parts] == [
        ("data", 0.25),
        ("forward", 0.5),
        ("everything else", 0.25),
    ]


def test_settings_name_what_differs() -> None:
    found = settings([{"run": "a", "lr": 1, "x": [2]}, {"run": "b", "lr": 3, "x": [2], "y": None}])
    assert [(s.key, s.values) for s in found if s.differs] == [
        ("lr", ["1", "3"]),
        ("y", [None, "null"]),
    ]


def test_a_run_that_was_not_evaluated_has_curves_only(
    pictured: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unevaluated_run(tmp_path / "run", pictured, GLIED)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    html = (run / "report.html").read_text()
    assert "not finished" in html
    assert "step 11: train-00000.tar: sample 3" in html
    assert '"gallery":null' in html
    training = collect([RunFiles.open(run)]).runs[0].training
    assert (training.skipped, len(training.lost), training.best) == (1, 1, {"val_cider": 80.0})
    loss = next(curve for curve in training.curves if curve.name == "loss")
    assert loss.values[-2:] == [3.0, None]


def test_the_page_fetches_nothing(page: Path) -> None:
    html = page.read_text()
    html = html[: html.index('<script type="application/json"')]
    assert re.findall(r'(?:src|href)="([^#"][^"]*)', html) == ["data:,"]
    assert "@import" not in html
    assert "url(" not in html


def test_captions_cannot_end_the_script(report: Report) -> None:
    assert report.gallery is not None
    report.gallery.images[0].references.append("</script><script>alert(1)</script>")
    assert "<script>alert" not in render(report)


def test_what_is_no_run_is_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, message in ((tmp_path / "none", "no such folder"), (tmp_path, "no config.json")):
        assert main(["report", str(folder)]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(
        ReportError, match="no captions of split 'val'; first run: capdist evaluate"
    ):
        write_report([RunFiles.open(runs[0])], tmp_path / "x.html", "val")


def test_damaged_attention_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json.gz").write_bytes(b"no gzip")
    with pytest.raises(LooksError, match=r"x\.json\.gz: damaged \(Not a gzipped file"):
        read_looks(tmp_path / "x.json.gz")


def test_glied_is_drawn_as_in_its_figure_3(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figure.png"
    assert main(["report", str(runs[0]), "--figure", "2004", "2009", "--out", str(out)]) == 0
    with Image.open(out) as figure:
        assert figure.size == (round(3 * 3.4 * 110), round(2 * 4.6 * 110))
    exported, files = read_run(runs[0]), RunFiles.open(runs[0])
    looks = files.looks(EvaluationName("test", 3))
    with torch.inference_mode():
        (seen,) = find(exported, files.manifest, "test", ["2004"], looks)
        _, (picture, distilled, local) = glied_row(exported, seen)
    stored = looks[2004].maps["regions/local"].weights
    region = stored[stored.max(1).argmax()].argmax()
    assert not picture.boxes
    assert [box.what for box in local.boxes] == [[v / 1000 for v in looks[2004].boxes[region]]]
    assert len(distilled.boxes) == 3
    assert distilled.boxes[0].weight >= distilled.boxes[1].weight >= distilled.boxes[2].weight


def test_a_figure_of_another_model_or_image_is_refused(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for run, image, message in (
        (runs[1], "2004", "no paper has a figure of model 'ss_updown'"),
        (runs[0], "7", "image 7 of test has no stored attention"),
    ):
        assert main(["report", str(run), "--figure", image]) == 2
        assert message in capsys.readouterr().err
