"""A process that was killed while it compiled keeps no other from starting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from capdist.engines.deepspeed_operator import own_folder
from tests.support.processes import environment

LOAD = (
    "from capdist.engines.deepspeed_operator import load_operator\n"
    "load_operator('deepspeed_shm_comm', 'engine=torch')"
)
ADAM = """
import sys
from torch import nn
from capdist.config.base import validate
from capdist.config.stage import OptimizerConfig
from capdist.engines.optimizer import make_optimizer
from capdist.errors import exit_status

section = {"lr": 1e-3, "implementation": "deepspeed"}
config = validate(OptimizerConfig, section, "c.json")
sys.exit(exit_status(lambda: make_optimizer(nn.Linear(2, 2), config)))
"""


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="DeepSpeed's Adam is another one on a GPU")
def test_an_operator_that_cannot_be_compiled_is_one_line(tmp_path: Path) -> None:
    left = tmp_path / "cpu_adam" / "lock"  # of a process that was killed
    left.parent.mkdir()
    left.touch()
    env = environment() | {"TORCH_EXTENSIONS_DIR": str(tmp_path), "PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", ADAM],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        "error: DeepSpeed's operator cpu_adam can't be compiled (there is no C++ compiler c++); "
        "install what is missing, or choose optimizer.implementation=fused"
    )
    assert "Traceback" not in done.stderr
    assert not left.exists()
