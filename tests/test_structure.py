"""What tests share lives in `tests/support` and in fixtures."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutations.faults import FAULTS
from tests.mutations.runner import Fault, find

TESTS = Path(__file__).parent


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports, also inside its functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "file", sorted(TESTS.rglob("*.py")), ids=lambda file: str(file.relative_to(TESTS))
)
def test_no_file_imports_a_test_or_a_conftest(file: Path) -> None:
    names = {part for module in imported(file) for part in module.split(".")}
    assert not {name for name in names if name == "conftest" or name.startswith("test_")}, (
        "move what tests share to tests/support, or make it a fixture"
    )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_place_of_every_deliberate_fault_is_found(fault: Fault) -> None:
    find(TESTS.parent, fault)
