"""Puts one fault at a time into a copy of a tree, and runs the tests on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: Where faults are put: the packages, not the tests.
PACKAGES = ("capdist", "shards")
#: Seconds after which the likely tests, or all of them, count as hanging.
LIMIT_S = 3600
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs", "corpus")


class FaultError(ValueError):
    """A fault that does not fit the tree, or tests that fail without one."""


@dataclass(frozen=True)
class Fault:
    """A small change that a test should find.

    Args:
        name: one word or two.
        what: the change, in words.
        old: text that stands once in the source; it says where the fault is.
        new: what replaces it.
        tests: files of the tests that most likely find it; they run first.
    """

    name: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What the tests said of a fault; ``test`` is the first that failed, if any did."""

    fault: Fault
    file: str
    test: str
    seconds: float


def find(tree: Path, fault: Fault) -> Path:
    """The source file that has the text of a fault.

    Raises:
        FaultError: if not exactly one place has it.
    """
    places = [
        path
        for package in PACKAGES
        for path in sorted((tree / package).rglob("*.py"))
        for _ in range(path.read_text().count(fault.old))
    ]
    if len(places) != 1:
        names = ", ".join(str(path.relative_to(tree)) for path in places) or "nowhere"
        raise FaultError(f"{fault.name}: its text must stand once in the source, found {names}")
    return places[0]


def copy(tree: Path, folder: Path) -> Path:
    """A copy of a tree without its environment, its history and its runs."""
    return Path(shutil.copytree(tree, folder / "tree", ignore=LEFT_OUT))


def check_without_fault(tree: Path, faults: Sequence[Fault]) -> None:
    """Refuse to measure where a test fails without a fault.

    Raises:
        FaultError: naming the test.
    """
    files = sorted({file for fault in faults for file in fault.tests})
    if failed := first_failure(tree, files):
        raise FaultError(f"{failed} fails without a fault: mend it first")


def measure(tree: Path, fault: Fault, *, whole: bool) -> Outcome:
    """Run the likely tests, then the others if ``whole``, on a tree with a fault.

    Raises:
        FaultError: if one of the others fails without the fault as well.
    """
    path, started = find(tree, fault), time.monotonic()
    with put_in(path, fault):
        failed = first_failure(tree, fault.tests)
        others = [f"--ignore={file}" for file in fault.tests] if whole and not failed else []
        found = first_failure(tree, others) if others else failed
    seconds = time.monotonic() - started
    if others and found and first_failure(tree, [found]):
        raise FaultError(f"{found} fails without a fault: mend it first")
    return Outcome(fault, str(path.relative_to(tree)), found, seconds)


@contextmanager
def put_in(path: Path, fault: Fault) -> Iterator[None]:
    """A file with a fault, for a while."""
    text = path.read_text()
    try:
        path.write_text(text.replace(fault.old, fault.new))
        yield
    finally:
        path.write_text(text)


def first_failure(tree: Path, arguments: Sequence[str]) -> str:
    """The first test that fails, by its name; empty if all pass.

    Raises:
        FaultError: with what pytest says, if it can't run.
    """
    # Bytecode is told apart by time and size, which a fault of one letter may leave as they are.
    more = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env={**os.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"(no end within {LIMIT_S} s)"
    if done.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if not failed:
        raise FaultError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return failed[1]
