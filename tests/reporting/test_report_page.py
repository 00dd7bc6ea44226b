import base64
import json
import re

import pytest
from PIL import Image

from capdist.reporting.curves import draw_curves, smooth
from capdist.reporting.metrics_log import MetricsLogError
from capdist.reporting.page import ReportError, ReportSample, write_report

TRAIN = [
    {"step": step, "stage": stage, "epoch": 0.1, "loss": loss, "lr": 1e-3, "captions_per_s": 9.0}
    | {"step_s": step / 10, "data_s": 0.1}
    for step, (stage, loss) in enumerate([("xe", 4.0)] * 5 + [("scst", -0.1)] * 5, 1)
]
SKIPPED = {"step": 1, "stage": "mil", "epoch": 0.1, "loss": float("inf"), "lr": 1e-3}
EVALUATIONS = [{"step": 5, "epoch": 1, "val_cider": 80.0}, {"step": 10, "epoch": 2, "val_cider": 9}]


def write_log(folder, records):
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def png(folder):
    path = folder / "picture.png"
    Image.new("RGB", (4, 4), "red").save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("records", "panels"),
    [(TRAIN + EVALUATIONS, 3), (TRAIN[:3], 1), (EVALUATIONS, 1), ([SKIPPED, *EVALUATIONS], 1)],
)
def test_curves_have_a_panel_for_each_stage_and_one_for_cider(tmp_path, records, panels):
    out = tmp_path / "curves.png"
    draw_curves(write_log(tmp_path, records), out)
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.height == pytest.approx(2.8 * 110 * panels, abs=2)


def test_a_log_without_losses_and_scores_is_refused(tmp_path):
    with pytest.raises(MetricsLogError, match="no loss and no val_cider"):
        draw_curves(write_log(tmp_path, [{"step": 1}]), tmp_path / "curves.png")


def test_smoothing_is_a_weighted_mean():
    # after three values the weights are 0.25, 0.5, 1, divided by their sum
    assert smooth([8.0, 4.0, 1.0], decay=0.5)[-1] == pytest.approx((2 + 2 + 1) / 1.75)
    assert smooth([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])


def test_report_is_complete_and_self_contained(tmp_path):
    write_log(tmp_path, TRAIN + EVALUATIONS)
    config = {"description": "Tiny <b>run</b>", "stages": [{"optimizer": {"lr": 0.0005}}]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    scores = {
        "test": {"values": {"CIDEr": 118.24}, "absent": {"SPICE": "no jar"}, "tokeniser": "ptb"},
        "constant caption": {"values": {"CIDEr": 6.96}, "absent": {}, "tokeniser": "plain"},
    }
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    picture = png(tmp_path)
    samples = [
        ReportSample("0001", "a <cat> & a dog", ("one", "two"), picture),
        ReportSample("0002", "a tree", ("three",)),
    ]
    write_report(tmp_path, tmp_path / "report.html", samples=samples)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Tiny &lt;b&gt;run&lt;/b&gt;" in html
    assert "<th>stages.0.optimizer.lr</th><td>0.0005</td>" in html
    assert "<th>test</th><td>118.2</td>" in html
    assert "<tr class='baseline'><th>constant caption</th><td>7.0</td>" in html
    assert "test: SPICE is absent: no jar." in html
    assert "constant caption: plain tokeniser" in html
    assert "a &lt;cat&gt; &amp; a dog" in html
    # 10 steps of 0.1, 0.2, ... 1 s waited 0.1 s each: 1 of 5.5 s
    assert "18.2 % of the steps' time: waiting for data." in html
    assert base64.b64encode(picture).decode() in html
    sources = re.findall(r"(?:src|href)='([^']{0,22})", html)
    assert sources == ["data:image/png;base64,"] * 2


def test_report_names_missing_files(tmp_path):
    write_report(tmp_path, tmp_path / "report.html", samples=[])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in ("scores.json", "metrics.jsonl", "config.json"):
        assert f"The run folder has no {name} yet." in html


def test_invalid_run_folder_is_refused(tmp_path):
    with pytest.raises(ReportError, match="no such folder"):
        write_report(tmp_path / "none", tmp_path / "report.html", samples=[])
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(ReportError, match=r"scores\.json: not JSON"):
        write_report(tmp_path, tmp_path / "report.html", samples=[])
