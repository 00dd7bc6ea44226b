"""Memory that a process frees and needs again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Prints the page faults of filling 64 MB, after the same size was filled and freed.
PROGRAM = """
from resource import RUSAGE_SELF, getrusage
from capdist.memory import keep_freed_memory

def faults():
    before = getrusage(RUSAGE_SELF).ru_minflt
    b"1" * 2**26
    return getrusage(RUSAGE_SELF).ru_minflt - before

if {keep}:
    keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it changes glibc's settings")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    def faults(keep: bool) -> int:
        command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    # Huge pages, where the system gives them unasked, are 32.
    assert faults(keep=True) < 20 < faults(keep=False)
