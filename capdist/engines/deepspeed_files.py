"""DeepSpeed's checkpoints, read without unpickling arbitrary objects, as DeepSpeed itself would."""

from __future__ import annotations

import os
import pickle
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from enum import Enum, EnumMeta
from io import StringIO
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
    """Convert a checkpoint to one file per parameter, as DeepSpeed's own command does.

    The command would import torch and DeepSpeed again, which takes longer than the conversion.

    Raises:
        ConfigError: with DeepSpeed's message, if it fails.
    """
    from deepspeed.checkpoint.ds_to_universal import main

    shutil.rmtree(target.parent, ignore_errors=True)  # of a conversion that was killed
    target.mkdir(parents=True)
    options = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,  # more would be forked from this process
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        # DeepSpeed records the layout of parameters only for pipelines: let it infer the layout.
        inject_missing_state=True,
    )
    try:
        with numbers_only(source), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            main(options)
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{source}: DeepSpeed can't convert it to another number of ranks ({reason}); "
            "resume with as many ranks as wrote it"
        ) from error
