"""Operators that DeepSpeed compiles when they are first used."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock

from capdist.errors import CapdistError
from shards.outputs import check_output_folder

#: Of messages between ranks on a machine without a GPU, and of Adam on a CPU and on a GPU.
Operator = Literal["deepspeed_shm_comm", "cpu_adam", "fused_adam"]


def load_operator(name: Operator, instead: str) -> None:
    """Compile an operator, or load it if it is compiled, one process at a time.

    Args:
        name: of the operator.
        instead: the option of a config that does without it.

    Raises:
        CapdistError: if it can't be compiled, or its folder can't be written to.

    Torch makes processes wait for a lock file of the one that compiles: if that is killed, the file
    remains, and all later processes would wait for ever. The system's lock ends with its process,
    and its owner may remove such a file. Each environment has a folder of its own, because another
    environment's compiler and paths make torch compile again.
    """
    if name == "deepspeed_shm_comm" and torch.cuda.is_available():
        return  # DeepSpeed doesn't use it
    # Torch must find the ninja of this environment.
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
    root = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(own_folder())))
    try:
        check_output_folder(root)
    except OSError as error:
        raise CapdistError(
            f"{root}: DeepSpeed's operator can't be compiled there ({error.strerror}); set "
            "TORCH_EXTENSIONS_DIR to a folder that you can write to"
        ) from error
    with FileLock(root / "capdist.lock"):
        (root / name / "lock").unlink(missing_ok=True)
        if not (root / name / f"{name}.so").exists():
            print(f"compiling DeepSpeed's operator {name}; it is kept in {root}", flush=True)
        try:
            _load(name)
        except Exception as error:  # torch and DeepSpeed raise many kinds
            raise CapdistError(
                f"DeepSpeed's operator {name} can't be compiled ({_reason(error)}); install what "
                f"is missing, or choose {instead}"
            ) from error


def _load(name: Operator) -> None:
    import deepspeed  # noqa: F401  # else the next imports fail
    from deepspeed.comm.torch import build_shm_op
    from deepspeed.ops.op_builder import CPUAdamBuilder, FusedAdamBuilder

    match name:
        case "deepspeed_shm_comm":
            build_shm_op()
        case "cpu_adam":
            CPUAdamBuilder().load(verbose=False)
        case "fused_adam":
            FusedAdamBuilder().load(verbose=False)


def _reason(error: Exception) -> str:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler}"
    return str(error).strip().rpartition("\n")[2]


def own_folder() -> Path:
    """The folder of this environment's operators, among torch's other extensions."""
    from torch.utils.cpp_extension import get_default_build_root

    environment = f"{sys.prefix} {sys.version} {torch.__version__}"
    digest = hashlib.sha256(environment.encode()).hexdigest()[:16]
    return Path(get_default_build_root()) / f"capdist-{digest}"
