"""DeepSpeed's checkpoints, read without unpickling arbitrary objects, as DeepSpeed itself would.

``python -m capdist.engines.deepspeed_files --input_folder A --output_folder B`` is DeepSpeed's
conversion to the universal format, with the same restriction.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, EnumMeta
from pathlib import Path
from typing import Any

import torch

from capdist.config.base import ConfigError

#: Torch's own switch, which overrides DeepSpeed's explicit ``weights_only=False``.
SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def numbers_only(folder: Path | str) -> Iterator[None]:
    """Let torch load only tensors, plain values and DeepSpeed's own three kinds of objects.

    Raises:
        ConfigError: naming the folder, if a file in it holds anything else.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    known: list[Any] = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    # Python before 3.11.4 pickles members of enumerations this way.
    known.append((_stage, "builtins.getattr"))
    try:
        with torch.serialization.safe_globals(known):
            yield
    except pickle.UnpicklingError as error:
        named = str(error).partition("GLOBAL ")[2].split(" ")[0] or "what torch can't read"
        raise ConfigError(
            f"{folder}: contains {named}, which DeepSpeed never saves and which could run any "
            "code; use only run folders from sources that you trust"
        ) from error
    finally:
        os.environ.pop(SWITCH)
        if before is not None:
            os.environ[SWITCH] = before


def _stage(enumeration: type[Enum], name: str) -> Enum:
    """A member by its name; ``getattr`` of any other object is refused."""
    if isinstance(enumeration, EnumMeta):
        return enumeration[name]
    raise pickle.UnpicklingError("GLOBAL getattr of an object that is not an enumeration")


def convert(source: Path, target: Path) -> None:
    """Convert a checkpoint to one file per parameter, with DeepSpeed's own command.

    Raises:
        ConfigError: with DeepSpeed's message, if it fails.
    """
    shutil.rmtree(target.parent, ignore_errors=True)  # of a conversion that was killed
    target.mkdir(parents=True)
    folders = ["--input_folder", str(source), "--output_folder", str(target)]
    done = subprocess.run(
        # DeepSpeed records the layout of parameters only for pipelines: let it infer the layout.
        [sys.executable, "-m", __name__, *folders, "--inject_missing_state"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[-1]
        raise ConfigError(
            f"{source}: DeepSpeed can't convert it to another number of ranks ({reason}); "
            "resume with as many ranks as wrote it"
        )


if __name__ == "__main__":
    from deepspeed.checkpoint.ds_to_universal import main, parse_arguments

    with numbers_only(sys.argv[2]):
        main(parse_arguments())
