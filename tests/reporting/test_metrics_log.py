import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from capdist.reporting.metrics_log import METRICS_LOG, MetricsLog, MetricsLogError, read_records
from capdist.tracking.base import ShownImage, ValidationCaptions


def steps(path):
    return [record["step"] for record in read_records(path)]


def test_records_are_on_disk_before_close(tmp_path):
    log = MetricsLog(tmp_path / "run")
    records = [{"step": 1, "stage": "xe", "loss": 2.5, "grad_norm": None}, {"step": 1, "val": 3}]
    for record in records:
        log.write(record)
    assert read_records(tmp_path / "run" / METRICS_LOG) == records
    log.close()


def test_truncating_removes_later_steps_and_a_partial_line(tmp_path):
    path = tmp_path / METRICS_LOG
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 2, 3)) + '{"ste')
    assert steps(path) == [1, 2, 2, 3]
    log = MetricsLog(tmp_path)
    log.truncate_after(2, evaluated=True)
    assert steps(path) == [1, 2, 2]
    log.write({"step": 3, "loss": 1.0})
    log.close()
    assert steps(path) == [1, 2, 2, 3]
    assert {file.name for file in tmp_path.iterdir()} == {METRICS_LOG, "tensorboard"}


def test_truncating_removes_an_evaluation_that_is_repeated(tmp_path):
    log = MetricsLog(tmp_path)
    for record in ({"loss": 1.0}, {"val_cider": 5.0}):
        log.write({"step": 1, **record})
    log.truncate_after(1, evaluated=False)
    assert read_records(tmp_path / METRICS_LOG) == [{"step": 1, "loss": 1.0}]
    log.close()


def test_a_full_disk_is_reported(tmp_path):
    log = MetricsLog(tmp_path)
    log._file = Path("/dev/full").open("a")  # noqa: SIM115
    with pytest.raises(
        MetricsLogError, match=r"metrics\.jsonl: No space left on device; free disk space"
    ):
        log.write({"step": 1})


def test_a_partial_line_is_removed_before_the_next_record(tmp_path):
    (tmp_path / METRICS_LOG).write_text('{"step": 1}\n{"step": 2, "lo')
    log = MetricsLog(tmp_path)
    log.write({"step": 2})
    log.close()
    assert read_records(tmp_path / METRICS_LOG) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1.0}'])
def test_an_invalid_line_is_named(tmp_path, line):
    path = tmp_path / METRICS_LOG
    path.write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(MetricsLogError, match=rf"{METRICS_LOG}: line 2 is not"):
        read_records(path)


def test_other_ranks_write_nothing(tmp_path):
    log = MetricsLog(tmp_path / "run", enabled=False)
    log.truncate_after(0, evaluated=True)
    log.write({"step": 1, "loss": 1.0})
    log.close()
    assert not (tmp_path / "run").exists()


def test_tensorboard_has_each_step_once_after_truncating(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        first.write({"step": step, "stage": "xe", "loss": float(step), "grad_norm": None})
    first.close()
    second = MetricsLog(tmp_path)
    second.truncate_after(1, evaluated=True)
    for step in (2, 3):
        second.write({"step": step, "stage": "xe", "loss": 10.0 * step, "grad_norm": None})
    second.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 20.0), (3, 30.0)]


def test_without_tensorboard_one_line_is_printed_and_the_log_is_written(tmp_path):
    code = (
        "import sys; sys.modules['tensorboard'] = None; sys.modules['torch'] = None\n"
        "from capdist.reporting.metrics_log import MetricsLog\n"
        f"log = MetricsLog({str(tmp_path)!r})\n"
        "log.write({'step': 1, 'loss': 1.0}); log.write({'step': 2, 'loss': 1.0})\n"
        "log.close()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.count("no TensorBoard events") == 1
    assert steps(tmp_path / METRICS_LOG) == [1, 2]


def test_tensorboard_has_captions_and_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    drawn = io.BytesIO()
    Image.new("RGB", (5, 4), (10, 20, 30)).save(drawn, "PNG")
    shown = [ShownImage(7, "a dog", drawn.getvalue()), ShownImage("x|y", "a | cat", None)]
    captions = ValidationCaptions("val", {7: "a dog", "x|y": "a | cat"}, shown)
    with MetricsLog(tmp_path) as log:
        log.show(3, captions)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["val/7"]
    (image,) = events.Images("val/7")
    assert (image.step, image.width, image.height) == (3, 5, 4)
    assert Image.open(io.BytesIO(image.encoded_image_string)).getpixel((0, 0)) == (10, 20, 30)
    (text,) = events.Tensors("val/captions/text_summary")
    assert text.step == 3
    (table,) = text.tensor_proto.string_val
    assert table.decode().splitlines()[2:] == ["| 7 | a dog |", "| x\\|y | a \\| cat |"]
