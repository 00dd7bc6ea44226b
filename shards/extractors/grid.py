"""What backbones with a grid of cells have in common."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from PIL import Image

from shards.extractor_spec import Preprocessing, Resample
from shards.formats import RegionFeatures
from shards.formats.layout import grid_boxes
from shards.schema import Array, ShardError

if TYPE_CHECKING:
    from torch import Tensor, nn


class GridExtractor(ABC):
    """A network whose last feature map (B, D, rows, columns) has the regions, row by row."""

    weights: str
    width: int
    preprocessing: Preprocessing

    def _take(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        """Use a network: fp32, in evaluation mode, on a GPU if there is one."""
        import torch

        self.preprocessing = preprocessing
        self.weights = weights_digest(network)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = network.eval().float().to(self._device)
        blank = np.zeros((preprocessing.height, preprocessing.width, 3), np.uint8)
        self.width = self([blank])[0].regions.shape[1]

    @abstractmethod
    def _map(self, pixels: Tensor) -> Tensor:
        """The feature map (B, D, rows, columns) of normalised pixels (B, 3, height, width)."""

    def _classes(self, regions: Tensor) -> Array | None:
        """Likeliest classes (B, R, T) of CLASS_DTYPE of regions (B, R, D), if it knows any."""
        return None

    def prepare(self, picture: Image.Image) -> Array:
        return self.preprocessing.resize(picture)

    def __call__(self, prepared: Sequence[Array]) -> list[RegionFeatures]:
        import torch

        pixels = torch.from_numpy(self.preprocessing.normalise(np.stack(prepared)))
        with torch.inference_mode():
            grid = self._map(pixels.to(self._device))
            boxes = grid_boxes(*grid.shape[2:])
            regions = grid.flatten(2).transpose(1, 2)
            classes = self._classes(regions)
        numbers = regions.cpu().numpy()
        return [
            RegionFeatures(
                numbers[row], boxes=boxes, classes=None if classes is None else classes[row]
            )
            for row in range(len(numbers))
        ]


def limit_threads(count: int) -> None:
    """Let the networks of this process compute with so many threads."""
    import torch

    torch.set_num_threads(count)


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of all weights with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def wrap_load_errors(backbone: str, extra: str) -> Iterator[None]:
    """Turn an error of loading a backbone into one line.

    Args:
        backbone: its name.
        extra: the extra of capdist that installs its packages.

    Raises:
        ShardError: naming what is missing.
    """
    try:
        yield
    except ShardError:
        raise
    except ImportError as error:
        raise ShardError(
            f"backbone {backbone!r}: {error}; install it with: pip install 'capdist[{extra}]'"
        ) from error
    except Exception as error:  # the libraries raise many kinds
        raise ShardError(
            f"backbone {backbone!r}: can't be loaded ({_first_line(error)}); give a folder or a "
            "name of a vision model of this library"
        ) from error


def scaled(values: Any, where: str) -> tuple[float, float, float]:
    """Mean or deviation of the channels on the scale of pixels, from numbers for [0, 1].

    Raises:
        ShardError: if they are not three numbers.
    """
    channels = [255.0 * float(value) for value in values]
    if len(channels) != 3:
        raise ShardError(f"{where}: {len(channels)} channels, expected red, green and blue")
    return channels[0], channels[1], channels[2]


def resample_name(resample: int | str) -> Resample:
    """The filter of a library's settings: its name, or its number in Pillow.

    Raises:
        ShardError: if there is none of this name or number.
    """
    name = Image.Resampling(resample).name if isinstance(resample, int) else resample
    for known in get_args(Resample):
        if known == name.lower():
            return known
    raise ShardError(f"filter {resample!r}, expected one of {', '.join(get_args(Resample))}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
