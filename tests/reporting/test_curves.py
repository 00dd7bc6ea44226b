import json

import pytest
from PIL import Image

from capdist.reporting.curves import draw_curves, smooth
from capdist.reporting.metrics_log import MetricsLogError

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
