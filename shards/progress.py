"""Progress of long work on standard error: a bar in a terminal, otherwise plain lines.

With ``CAPDIST_PROGRESS=json``, JSON lines for programs that show progress themselves::

    {"title": "writing", "done": 3, "total": 8, "unit": "shard", "elapsed_s": 1.52, "rate": 1.97}
    {"title": "training", "message": "epoch 1: validation CIDEr 41.2"}

``elapsed_s`` are seconds since this process began the work, and ``rate`` units per second.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, TextIO, TypeVar

from tqdm import tqdm

from capdist.errors import CapdistError

VARIABLE, JSON = "CAPDIST_PROGRESS", "json"
#: Seconds between the lines that people read in a log file, and between those for programs.
LINES_EVERY_S, JSON_EVERY_S = 30.0, 1.0
#: The unit of work that is counted in bytes, and shown with prefixes: 1.5GB.
BYTES = "B"

_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"

_T = TypeVar("_T")


def wants_json() -> bool:
    """Whether ``CAPDIST_PROGRESS`` asks for JSON lines.

    Raises:
        CapdistError: if it has another value.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", JSON):
        raise CapdistError(f"{VARIABLE}={value}: expected {JSON}; unset it for bars and lines")
    return value == JSON


class Progress:
    """How much of some work is done, and the remaining time.

    Args:
        total: number of units.
        title: name of the activity.
        unit: what is counted.
        initial: number done before, in a run that continues.
        enabled: whether to show anything. Other ranks than a launcher's first one never do.
        inner: whether it is a part of work that has a bar already. Then the bar is removed at the
            end, and a log file gets lines only if the part takes long.
        stream: standard error by default. If it is not a terminal, it gets a line at the beginning,
            one every ``every_s`` seconds, and one at the end.
        every_s: see ``stream``; by default, `LINES_EVERY_S` or `JSON_EVERY_S`.
    """

    def __init__(
        self,
        total: int,
        *,
        title: str,
        unit: str,
        initial: int = 0,
        enabled: bool = True,
        inner: bool = False,
        stream: TextIO | None = None,
        every_s: float | None = None,
    ) -> None:
        stream = stream or sys.stderr
        as_json, in_terminal = wants_json(), stream.isatty()
        self._display: _Display | None = None
        if not enabled or os.environ.get("RANK", "0") != "0":
            return
        if in_terminal and not as_json:
            self._display = _Bar(total, title, unit, initial, inner, stream)
            return
        kind = _JsonLines if as_json else _Lines
        default_s = JSON_EVERY_S if as_json else LINES_EVERY_S
        interval_s = default_s if every_s is None else every_s
        self._display = kind(total, title, unit, initial, inner, stream, interval_s)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count units that are done; ``note`` is shown after the figures."""
        if self._display is not None:
            self._display.advance(count, note)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._display is not None:
            self._display.say(line)

    def close(self) -> None:
        """Show the last state and leave it there."""
        if self._display is not None:
            self._display.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def tracked(
    items: Iterable[_T],
    total: int,
    *,
    title: str,
    unit: str,
    enabled: bool = True,
    inner: bool = False,
) -> Iterator[_T]:
    """The items, each counted when the next one is asked for; arguments as of `Progress`."""
    with Progress(total, title=title, unit=unit, enabled=enabled, inner=inner) as progress:
        for item in items:
            yield item
            progress.advance()


class _Display(Protocol):
    """One way to show progress."""

    def advance(self, count: int, note: str) -> None: ...
    def say(self, line: str) -> None: ...
    def close(self) -> None: ...


class _Bar:
    """A bar of tqdm's, in a terminal."""

    def __init__(
        self, total: int, title: str, unit: str, initial: int, inner: bool, stream: TextIO
    ) -> None:
        self._stream = stream
        self._bar: tqdm[Any] = tqdm(
            total=total,
            desc=title,
            unit=unit,
            unit_scale=unit == BYTES,
            initial=initial,
            leave=not inner,
            file=stream,
            dynamic_ncols=True,
        )

    def advance(self, count: int, note: str) -> None:
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)

    def say(self, line: str) -> None:
        tqdm.write(line, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """Lines in a log file.

    tqdm itself returns the carriage instead of ending a line, and redraws after every ``write``.
    """

    def __init__(
        self,
        total: int,
        title: str,
        unit: str,
        initial: int,
        inner: bool,
        stream: TextIO,
        every_s: float,
    ) -> None:
        self._total, self._title, self._unit = total, title, unit
        self._initial, self._inner, self._stream = initial, inner, stream
        self._every_s = every_s
        self._done, self._note = initial, ""
        self._started = self._shown = time.monotonic()
        self._shown_done: int | None = None
        if not inner:
            self._show()

    def advance(self, count: int, note: str) -> None:
        self._done, self._note = self._done + count, note or self._note
        if time.monotonic() - self._shown >= self._every_s:
            self._show()

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        if self._done != self._shown_done and not (self._inner and self._shown_done is None):
            self._show()

    def _show(self) -> None:
        self._shown, self._shown_done = time.monotonic(), self._done
        print(self._line(self._shown - self._started), file=self._stream, flush=True)

    def _line(self, elapsed_s: float) -> str:
        return tqdm.format_meter(
            n=self._done,
            total=self._total,
            elapsed=elapsed_s,
            prefix=self._title,
            unit=self._unit,
            unit_scale=self._unit == BYTES,
            bar_format=_LINE,
            postfix=self._note,
            initial=self._initial,
        )


class _JsonLines(_Lines):
    """The same as JSON objects, one on each line."""

    def say(self, line: str) -> None:
        super().say(json.dumps({"title": self._title, "message": line}))

    def _line(self, elapsed_s: float) -> str:
        rate = (self._done - self._initial) / elapsed_s if elapsed_s > 0 else 0.0
        state = {
            "title": self._title,
            "done": self._done,
            "total": self._total,
            "unit": self._unit,
            "elapsed_s": round(elapsed_s, 3),
            "rate": round(rate, 3),
        }
        return json.dumps(state | ({"note": self._note} if self._note else {}))
