"""What DeepSpeed's checkpoints may hold: whatever else a file names is refused, not run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from capdist.config.base import ConfigError
from capdist.engines.deepspeed_files import SWITCH, convert, numbers_only

pytest.importorskip("deepspeed")


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_what_a_file_names_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mark = tmp_path / "mp_rank_00_model_states.pt", tmp_path / "ran"
    torch.save({"module": {"w": torch.ones(2)}, "ds_version": Evil(mark)}, path)
    for before in ("", "0"):
        monkeypatch.setenv(SWITCH, before)
        refused = pytest.raises(
            ConfigError, match=rf"^{tmp_path}: contains \w+\.mkdir, which DeepSpeed never saves"
        )
        with refused, numbers_only(tmp_path):
            torch.load(path, weights_only=False)  # as DeepSpeed does
        assert os.environ[SWITCH] == before
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_deepspeeds_own_objects_are_read(tmp_path: Path) -> None:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    scaler = DynamicLossScaler(2.0**8, 2.0, 1000, 1.0, 2, False)
    parts = {"w": fragment_address(numel=3, start=4)}
    torch.save([scaler, ZeroStageEnum.weights, parts], tmp_path / "states.pt")
    with numbers_only(tmp_path):
        found = torch.load(tmp_path / "states.pt", weights_only=False)
    assert vars(found[0]) == vars(scaler)
    assert found[1:] == [ZeroStageEnum.weights, parts]


def test_a_checkpoint_that_deepspeed_cannot_convert_is_one_line(tmp_path: Path) -> None:
    source, target = tmp_path / "saved", tmp_path / "universal" / "saved"
    with pytest.raises(ConfigError) as raised:
        convert(source, target)
    start = f"{source}: DeepSpeed can't convert it to another number of ranks (FileNotFoundError: "
    assert str(raised.value).startswith(start)
    assert str(raised.value).endswith("); resume with as many ranks as wrote it")
    source.mkdir()
    mark = tmp_path / "ran"
    torch.save(
        {"optimizer_state_dict": Evil(mark)}, source / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    )
    with pytest.raises(ConfigError, match=rf"^{source}: contains \w+\.mkdir"):
        convert(source, target)
    assert not mark.exists()
