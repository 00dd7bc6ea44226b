"""Progress of training and decoding: a bar in a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol, TextIO

from tqdm import tqdm

_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class StepFigures(Protocol):
    """The figures of a training step: ``data_s`` of its ``step_s`` seconds were spent waiting for
    data, ``skipped`` counts steps that the loss scaler skipped, and ``figures`` has the reward in
    self-critical training.
    """

    @property
    def loss(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def captions_per_s(self) -> float: ...
    @property
    def step_s(self) -> float: ...
    @property
    def data_s(self) -> float: ...
    @property
    def skipped(self) -> int: ...
    @property
    def figures(self) -> dict[str, float]: ...


class Progress:
    """Steps or images done, and the remaining time.

    Args:
        total: number of steps or images.
        initial: number done before, in a resumed run.
        enabled: whether to show anything; true on the first rank only.
        title: name of the activity.
        unit: what is counted.
        stream: standard error by default. If it is not a terminal, it gets one plain line every
            ``every_s`` seconds, so that a log file stays readable.
        every_s: see ``stream``.
    """

    def __init__(
        self,
        total: int,
        *,
        initial: int = 0,
        enabled: bool = True,
        title: str = "training",
        unit: str = "step",
        stream: TextIO | None = None,
        every_s: float = 30.0,
    ) -> None:
        self._stream = stream or sys.stderr
        self._bar: tqdm[Any] | _Lines | None = None
        if enabled and self._stream.isatty():
            self._bar = tqdm(
                total=total,
                initial=initial,
                desc=title,
                unit=unit,
                file=self._stream,
                dynamic_ncols=True,
            )
        elif enabled:
            self._bar = _Lines(total, initial, title, unit, self._stream, every_s)

    def update(self, step: StepFigures) -> None:
        """Count one training step and show its figures."""
        if self._bar is not None:
            shown = f"loss {step.loss:.3f}, {step.captions_per_s:.0f} captions/s, lr {step.lr:.2e}"
            shown += f", data {100 * step.data_s / step.step_s:.0f} %"
            if "reward" in step.figures:
                shown += f", reward {step.figures['reward']:.3f}"
            if step.skipped:
                shown += f", {step.skipped} skipped"
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(1)

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.update(count)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            tqdm.write(line, file=self._stream)
            self._stream.flush()

    def close(self) -> None:
        """Show the last state and leave it there."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Lines:
    """The part of tqdm's interface that `Progress` uses, for a stream that is not a terminal.

    tqdm itself returns the carriage instead of ending a line, and redraws after every ``write``.
    """

    def __init__(
        self, total: int, initial: int, title: str, unit: str, stream: TextIO, every_s: float
    ) -> None:
        self._total, self._initial, self._done = total, initial, initial
        self._title, self._unit, self._stream, self._every_s = title, unit, stream, every_s
        self._started = self._shown = time.monotonic()
        self._shown_done = -1
        self._postfix = ""

    def set_postfix_str(self, s: str, refresh: bool) -> None:
        self._postfix = s

    def update(self, n: int) -> None:
        self._done += n
        if time.monotonic() - self._shown >= self._every_s:
            self._show()

    def close(self) -> None:
        if self._done != self._shown_done:
            self._show()

    def _show(self) -> None:
        self._shown, self._shown_done = time.monotonic(), self._done
        line = tqdm.format_meter(
            n=self._done,
            total=self._total,
            elapsed=self._shown - self._started,
            prefix=self._title,
            unit=self._unit,
            bar_format=_LINE,
            postfix=self._postfix,
            initial=self._initial,
        )
        print(line, file=self._stream, flush=True)
