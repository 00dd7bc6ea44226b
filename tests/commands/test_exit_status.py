"""How an error becomes a line on stderr and an exit status."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from capdist.commands.lost_rank import one_line_for_lost_rank
from capdist.errors import CapdistError, OtherRankError, exit_status
from shards.schema import ShardError


def fails_with(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("command", "status", "printed"),
    [
        (lambda: 0, 0, ""),
        (lambda: 75, 75, ""),
        (fails_with(ShardError("a.tar: no such file")), 2, "error: a.tar: no such file\n"),
        (
            fails_with(ModuleNotFoundError("No module named 'numba'", name="numba.core")),
            2,
            "error: this needs numba.core; install it with: pip install 'capdist[train]'\n",
        ),
        (fails_with(OtherRankError("rank 0 reports it")), 2, ""),
        (fails_with(KeyboardInterrupt()), 130, ""),
    ],
    ids=["done", "stopped", "error", "missing package", "error of another rank", "Ctrl-C"],
)
def test_a_command_ends_with_a_status_and_at_most_one_line(
    command: Callable[[], int], status: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(command) == status
    assert capsys.readouterr() == ("", printed)


@pytest.mark.parametrize("bug", [ZeroDivisionError(), ModuleNotFoundError(name="capdist.none")])
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        exit_status(fails_with(bug))


@pytest.mark.parametrize("words", ["Connection closed by peer", "Connection reset by peer"])
def test_a_lost_rank_is_reported_with_a_remedy(words: str) -> None:
    with (
        pytest.raises(CapdistError, match=r"^another rank exited: see its log .* Do this$"),
        one_line_for_lost_rank("Do this"),
    ):
        raise RuntimeError(f"[gloo/transport/tcp/pair.cc:534] {words} [127.0.0.1]:1234")


def test_other_runtime_errors_are_not_taken_for_a_lost_rank() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), one_line_for_lost_rank("Do this"):
        raise RuntimeError("shapes differ")
