"""A reward with known values that actors can import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from capdist.workers.base import PackedCaptions, Scores

#: Tokens that take time, and that kill the process that scores them.
SLOW, DEADLY = 5, 6
#: Images whose "reward" is a fact about the process; those below are ordinary.
PID, INODE, WRITABLE, THREADS, GPUS, IMAGES = 900, 901, 902, 903, 904, 905


@dataclass(frozen=True)
class Toy:
    """Σ over tokens of weight[token], times 1 + weight[image], plus the number of references.

    A process that scores slow tokens creates a file named after its id in ``folder``.
    """

    weights: Scores
    folder: Path
    seconds: float = 0.2

    def __call__(self, packed: PackedCaptions, references: PackedCaptions) -> Scores:
        if (packed[:, 1:] == DEADLY).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if slow := int((packed[:, 1:] == SLOW).sum()):
            (self.folder / str(os.getpid())).touch()
            time.sleep(self.seconds * slow)
        for image in packed[:, 0]:
            if image >= IMAGES:
                raise ValueError(f"image {image}: no references; the last is {IMAGES - 1}")
        scores = self.weights[packed[:, 1:]].sum(1) * (1 + self.weights[packed[:, 0]])
        scores += (packed[:, :1] == references[:, 0]).sum(1)
        for row, image in enumerate(packed[:, 0]):
            if image >= PID:
                scores[row] = self._fact(int(image), packed, references)
        return scores

    def _fact(self, image: int, *calls: PackedCaptions) -> float:
        return {
            PID: os.getpid(),
            INODE: inode(self.weights),
            WRITABLE: any(array.flags.writeable for array in (self.weights, *calls)),
            THREADS: int(os.environ["OMP_NUM_THREADS"]),
            GPUS: len(os.environ["CUDA_VISIBLE_DEVICES"]),
        }[image]


def inode(array: Scores) -> int:
    """The inode of the file that an array's memory is mapped from; 0 for private memory."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, number, *_ = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return int(number)
    raise AssertionError("the array is not in any mapping")


def toy(folder: Path, seconds: float = 0.2) -> Toy:
    """A megabyte of weights; that of token 7 is NaN."""
    weights = np.random.default_rng(0).random(2**17)
    weights[7] = np.nan
    return Toy(weights, folder, seconds)


def references(packed: PackedCaptions) -> PackedCaptions:
    """References for captions: of each image as many as the last digit of its number."""
    images = np.unique(packed[:, :1])
    return np.repeat(images, images % 10)[:, None]


def captions(rows: int, length: int = 21) -> PackedCaptions:
    """Ordinary captions: (rows, length) int64."""
    rng = np.random.default_rng(rows)
    packed = rng.integers(8, 900, (rows, length))
    packed[:, -1] = 0
    return packed
