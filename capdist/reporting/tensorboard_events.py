"""TensorBoard events of a run: its numbers, and the captions and pictures of its validations."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from capdist.tracking.base import ValidationCaptions

#: Captions of a validation that are listed.
LISTED = 100


class TensorBoardEvents:
    """Events in a folder, which is made when something is written.

    One line is printed, and nothing is written, if TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._purge_step: int | None = None
        self._writer: Any = None

    def purge_after(self, step: int) -> None:
        """Hide the events after a step, which a resumed run writes again."""
        self._purge_step = step + 1

    def log(self, record: Mapping[str, float]) -> None:
        """Numbers by name, with their ``step``."""
        if writer := self._opened():
            for name, value in record.items():
                if name != "step":
                    writer.add_scalar(name, value, record["step"])

    def show(self, step: int, captions: ValidationCaptions) -> None:
        """The first `LISTED` captions as a table, and the pictures of those that are shown."""
        if writer := self._opened():
            listed = list(captions.by_image.items())[:LISTED]
            rows = [
                f"| {_escaped(str(image))} | {_escaped(caption)} |" for image, caption in listed
            ]
            table = "\n".join(["| image | caption |", "|---|---|", *rows])
            writer.add_text(f"{captions.split}/captions", table, step)
            for shown in captions.shown:
                if shown.png:
                    pixels = np.array(Image.open(io.BytesIO(shown.png)).convert("RGB"))
                    name = f"{captions.split}/{shown.image}"
                    writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def _opened(self) -> Any:
        """The writer; False without TensorBoard."""
        if self._writer is None:
            self._writer = _open(self._folder, self._purge_step)
        return self._writer


def _escaped(caption: str) -> str:
    """A caption as a cell of Markdown, in which TensorBoard shows HTML as text."""
    return caption.replace("\\", "\\\\").replace("|", "\\|")


def _open(folder: Path, purge_step: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        print(f"no TensorBoard events ({error}); metrics.jsonl has the same numbers", flush=True)
        return False
    return SummaryWriter(str(folder), purge_step=purge_step)
