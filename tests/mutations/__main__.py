"""Finds out which deliberate faults the tests find: ``python -m tests.mutations --whole``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.faults import FAULTS
from tests.mutations.runner import Outcome, check_without_fault, copy, measure

PAGE = Path(__file__).with_name("README.md")
#: Between these lines of the page stands what was measured last.
START, END = "<!-- measured -->\n", "<!-- end of what is measured -->\n"


def main() -> None:
    """Measure, print the table, and write it into the page if all faults were tried here."""
    arguments = parser().parse_args()
    root = Path(__file__).parents[2]
    faults = [fault for fault in FAULTS if not arguments.names or fault.name in arguments.names]
    with tempfile.TemporaryDirectory() as folder:
        tree = copy(arguments.tree or root, Path(folder))
        check_without_fault(tree, faults)
        outcomes = []
        for fault in faults:
            outcomes.append(measure(tree, fault, whole=arguments.whole))
            print(row(outcomes[-1]), file=sys.stderr, flush=True)
    print(table(outcomes))
    if not arguments.names and not arguments.tree:
        replace_section(PAGE, table(outcomes))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    made.add_argument("names", nargs="*", metavar="NAME", help="only faults of these names")
    made.add_argument(
        "--whole", action="store_true", help="run all tests where the likely ones find nothing"
    )
    made.add_argument("--tree", type=Path, help="another checkout than this one")
    return made


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for every fault, and how many were found."""
    found = sum(bool(outcome.test) for outcome in outcomes)
    lines = [
        f"{found} of {len(outcomes)} faults found.",
        "",
        "| fault | in | found by | seconds |",
        "| --- | --- | --- | --: |",
        *map(row, outcomes),
    ]
    return "\n".join(lines) + "\n"


def row(outcome: Outcome) -> str:
    """A line of the table."""
    fault, test = outcome.fault, f"`{outcome.test}`" if outcome.test else "nothing"
    return f"| {fault.name}: {fault.what} | `{outcome.file}` | {test} | {outcome.seconds:.0f} |"


def replace_section(page: Path, text: str) -> None:
    """Put a text between the page's marks."""
    before, _, rest = page.read_text().partition(START)
    page.write_text(before + START + text + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
