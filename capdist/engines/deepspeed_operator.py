"""The shared-memory operator that DeepSpeed compiles on machines without a GPU."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import torch
from filelock import FileLock

from capdist.errors import CapdistError
from shards.outputs import check_output_folder


def load_operator() -> None:
    """Compile the operator, or load it if it is compiled, one process at a time.

    Raises:
        CapdistError: if its folder can't be written to.

    Torch makes processes wait for a lock file of the one that compiles: if that is killed, the file
    remains, and all later processes would wait for ever. The system's lock ends with its process,
    and its owner may remove such a file. Each environment has a folder of its own, because another
    environment's compiler and paths make torch compile again.
    """
    if torch.cuda.is_available():
        return
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
    import deepspeed  # noqa: F401  # else the next import fails
    from deepspeed.comm.torch import build_shm_op

    with FileLock(root / "capdist.lock"):
        (root / "deepspeed_shm_comm" / "lock").unlink(missing_ok=True)
        build_shm_op()


def own_folder() -> Path:
    """The folder of this environment's operator, among torch's other extensions."""
    from torch.utils.cpp_extension import get_default_build_root

    environment = f"{sys.prefix} {sys.version} {torch.__version__}"
    digest = hashlib.sha256(environment.encode()).hexdigest()[:16]
    return Path(get_default_build_root()) / f"capdist-{digest}"
