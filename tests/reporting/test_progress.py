import io
from dataclasses import dataclass, field

from capdist.reporting.progress import Progress


@dataclass
class Step:
    loss: float = 2.3456
    lr: float = 5e-4
    captions_per_s: float = 1234.4
    step_s: float = 0.5
    data_s: float = 0.124
    skipped: int = 0
    figures: dict[str, float] = field(default_factory=dict)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_log_file_gets_plain_lines():
    log = io.StringIO()
    with Progress(10, initial=4, stream=log, every_s=0) as progress:
        progress.update(Step())
        progress.say("epoch 1: done")
        progress.update(Step(skipped=2))
    first, message, second = log.getvalue().splitlines()
    assert first.startswith("training: 5/10 [")
    assert "loss 2.346, 1234 captions/s, lr 5.00e-04, data 25 %]" in first
    assert message == "epoch 1: done"
    assert second.startswith("training: 6/10 [")
    assert "data 25 %, 2 skipped]" in second
    assert "\r" not in log.getvalue()
    assert "\x1b" not in log.getvalue()


def test_log_file_gets_one_line_per_interval_and_the_last_state():
    log = io.StringIO()
    with Progress(100, title="decoding", unit="image", stream=log, every_s=3600) as progress:
        for _ in range(5):
            progress.advance(20)
    (line,) = log.getvalue().splitlines()
    assert line.startswith("decoding: 100/100 [")
    assert "image/s" in line


def test_terminal_gets_a_bar():
    terminal = Terminal()
    with Progress(2, stream=terminal) as progress:
        progress.update(Step())
        progress.update(Step(loss=1.0))
    assert "\r" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
    assert "loss 1.000" in terminal.getvalue()


def test_other_ranks_show_nothing():
    for stream in (io.StringIO(), Terminal()):
        with Progress(2, enabled=False, stream=stream, every_s=0) as progress:
            progress.update(Step())
            progress.advance(1)
            progress.say("hello")
        assert stream.getvalue() == ""
