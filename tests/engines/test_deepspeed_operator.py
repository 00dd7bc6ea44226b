"""A process that was killed while it compiled keeps no other from starting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from capdist.engines.deepspeed_operator import own_folder
from tests.support.processes import environment

LOAD = "from capdist.engines.deepspeed_operator import load_operator; load_operator()"


@pytest.mark.skipif(torch.cuda.is_available(), reason="DeepSpeed compiles nothing where a GPU is")
def test_what_a_killed_process_left_behind_is_removed() -> None:
    def load() -> None:
        env = environment()
        env.pop("TORCH_EXTENSIONS_DIR", None)
        subprocess.run([sys.executable, "-c", LOAD], env=env, check=True, timeout=600)

    load()  # there is something compiled
    left: Path = own_folder() / "deepspeed_shm_comm" / "lock"
    left.touch()
    load()
    assert not left.exists()
