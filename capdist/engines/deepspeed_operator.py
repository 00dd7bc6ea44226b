"""The operator that DeepSpeed compiles where there is no GPU."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from pathlib import Path

import torch


def load_operator() -> None:
    """Compile it, or load what was compiled, one process at a time.

    Torch lets processes wait for a file that whoever compiles has made: one that is killed leaves
    it behind, and all later ones would wait for ever. The system's lock ends with its process, and
    whoever holds it may remove such a file. Each environment has a folder of its own, for another's
    compiler and paths make torch compile again.
    """
    if torch.cuda.is_available():
        return
    # It must find the ninja of this environment.
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
    root = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(own_folder())))
    root.mkdir(parents=True, exist_ok=True)
    import deepspeed  # noqa: F401  # by itself, what follows is not found
    from deepspeed.comm.torch import build_shm_op

    with (root / "capdist.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (root / "deepspeed_shm_comm" / "lock").unlink(missing_ok=True)
        build_shm_op()


def own_folder() -> Path:
    """Where this environment's is, beside those that torch keeps of others."""
    from torch.utils.cpp_extension import get_default_build_root

    environment = f"{sys.prefix} {sys.version} {torch.__version__}"
    digest = hashlib.sha256(environment.encode()).hexdigest()[:16]
    return Path(get_default_build_root()) / f"capdist-{digest}"
