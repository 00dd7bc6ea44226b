"""Progress bars in terminals, plain lines in log files, JSON lines for programs."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from capdist.errors import CapdistError
from shards.progress import BYTES, VARIABLE, Progress, tracked


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_log_file_gets_plain_lines() -> None:
    log = io.StringIO()
    with Progress(10, title="training", unit="step", initial=4, stream=log, every_s=0) as progress:
        progress.advance(note="loss 2.3")
        progress.say("epoch 1: done")
        progress.advance()
    first, second, message, last = log.getvalue().splitlines()
    assert first.startswith("training: 4/10 [")
    assert second.startswith("training: 5/10 [")
    assert second.endswith(", loss 2.3]")
    assert message == "epoch 1: done"
    assert last.startswith("training: 6/10 [")
    assert "\r" not in log.getvalue()
    assert "\x1b" not in log.getvalue()


def test_log_file_gets_the_beginning_one_line_per_interval_and_the_end() -> None:
    log = io.StringIO()
    with Progress(100, title="decoding", unit="image", stream=log, every_s=3600) as progress:
        for _ in range(5):
            progress.advance(20)
    begin, end = log.getvalue().splitlines()
    assert begin.startswith("decoding: 0/100 [")
    assert end.startswith("decoding: 100/100 [")
    assert "image/s" in end


def test_log_file_gets_parts_of_other_work_only_if_they_take_long() -> None:
    quick, long = io.StringIO(), io.StringIO()
    for log, every_s in ((quick, 3600), (long, 0)):
        with Progress(
            2, title="validating", unit="batch", inner=True, stream=log, every_s=every_s
        ) as progress:
            progress.advance(2)
    assert quick.getvalue() == ""
    assert long.getvalue().startswith("validating: 2/2 [")


def test_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    with Progress(2, title="training", unit="step", stream=terminal) as progress:
        progress.advance()
        progress.advance(note="loss 1.000")
    assert "\r" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
    assert "loss 1.000" in terminal.getvalue()


def test_bytes_have_prefixes() -> None:
    log = io.StringIO()
    with Progress(3 * 10**9, title="hashing files", unit=BYTES, stream=log) as progress:
        progress.advance(15 * 10**8)
    assert log.getvalue().splitlines()[1].startswith("hashing files: 1.50G/3.00G [")


def test_other_ranks_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(enabled: bool) -> str:
        stream = io.StringIO()
        with Progress(2, title="a", unit="b", enabled=enabled, stream=stream, every_s=0) as bar:
            bar.advance()
            bar.say("hello")
        return stream.getvalue()

    assert shown(enabled=False) == ""
    monkeypatch.setenv("RANK", "1")
    assert shown(enabled=True) == ""
    monkeypatch.setenv("RANK", "0")
    assert "hello" in shown(enabled=True)


def test_programs_get_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "json")
    stream = Terminal()  # also there
    with Progress(8, title="a", unit="b", initial=3, stream=stream, every_s=0) as bar:
        bar.advance(2)
        bar.say("hello")
        bar.advance(note="loss 1")
    first, second, message, last = map(json.loads, stream.getvalue().splitlines())
    elapsed, rate = second.pop("elapsed_s"), second.pop("rate")
    assert second == {"title": "a", "done": 5, "total": 8, "unit": "b"}
    assert first["done"] == 3
    assert elapsed >= 0
    assert rate >= 0
    assert message == {"title": "a", "message": "hello"}
    assert (last["done"], last["note"]) == (6, "loss 1")


def test_an_unknown_kind_of_progress_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "xml")
    with pytest.raises(CapdistError, match="CAPDIST_PROGRESS=xml: expected json; unset it"):
        Progress(1, title="a", unit="b")


def test_items_are_counted_when_they_are_done() -> None:
    items = tracked(iter("abc"), 3, title="a", unit="b", enabled=False)
    assert list(items) == ["a", "b", "c"]


def scenes(folder: Path) -> list[str]:
    """A command that writes shards."""
    sizes = ["--train", "12", "--val", "2", "--test", "2", "--samples-per-shard", "4"]
    return [
        sys.executable,
        "-m",
        "shards",
        "scenes",
        *sizes,
        "--workers",
        "2",
        "--out",
        f"{folder}",
    ]


def run(folder: Path, **environment: str) -> str:
    """Standard error of the command, which is a pipe."""
    command, variables = scenes(folder), os.environ | environment
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return done.stderr


def test_a_command_writes_lines_to_a_pipe_and_a_bar_to_a_terminal(tmp_path: Path) -> None:
    lines = run(tmp_path / "pipe")
    begin, end, *counting = lines.split("\n")[:-1]
    assert begin.startswith("writing: 0/5 [")
    assert end.startswith("writing: 5/5 [")
    assert [line.partition(" [")[0] for line in counting] == ["counting: 0/1", "counting: 1/1"]
    assert "\r" not in lines
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with subprocess.Popen(scenes(tmp_path / "terminal"), stderr=theirs, stdout=theirs) as command:
        os.close(theirs)
        shown = b""
        while part := read(ours):
            shown += part
    os.close(ours)
    assert command.returncode == 0
    assert b"\rwriting: 100%" in shown


def read(terminal: int) -> bytes:
    """What a terminal shows next; nothing once its other end is closed."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def test_a_command_writes_json_lines(tmp_path: Path) -> None:
    lines = list(map(json.loads, run(tmp_path / "json", CAPDIST_PROGRESS="json").splitlines()))
    found = [(line["title"], line["done"], line["total"], line["unit"]) for line in lines]
    assert found[0] == ("writing", 0, 5, "shard")
    assert ("writing", 5, 5, "shard") in found
    assert found[-1] == ("counting", 1, 1, "part")


def test_a_command_refuses_an_unknown_kind_before_it_begins(tmp_path: Path) -> None:
    command = scenes(tmp_path / "out")
    variables = os.environ | {VARIABLE: "bar"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "error: CAPDIST_PROGRESS=bar: expected json; unset it for bars and lines\n"
    )
    assert not (tmp_path / "out").exists()
