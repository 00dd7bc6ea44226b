"""The predictor of a build's concepts, in a file: it gives new images their concepts.

Legend: N images, P pooled width (twice the feature width), W words. An npz file with the arrays

``mean``, ``deviation``  (P,) float64        of the pooled features of the training images
``weights``              (P, W) float64
``bias``                 (W,) float64
``penalty``              () float64          λ, for people to read
``words``                (W,) text           in the order of their columns
``kept``                 () integer          concepts per image
``images``               () integer          how many images the two below are of
``feature_mean``         (D,) float64        the `Fingerprint` of the features it was fitted on
``feature_deviation``    (D,) float64

``shards build`` writes it next to the tars, and training copies it into the run.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.atomic import atomic_write
from shards.concepts import Concepts, Ridge, pool_regions, top_concepts
from shards.fingerprint import DIMENSIONS, Fingerprint
from shards.listed_file import ListedFile
from shards.npy import decode_npy
from shards.schema import Array, ShardError

#: The name that it has in the folder of a run.
PREDICTOR = "concept_predictor.npz"
#: Limit of its arrays in bytes: a small archive can expand to any size.
_MAX_BYTES = 2**31
#: Begins the name of a predictor's concepts; those of a detector (stage ``mil``) have none.
_PREFIX = "ridge-"


@dataclass(frozen=True, eq=False)
class ConceptPredictor:
    """Ridge regression with its words.

    ``kept`` is the number of concepts per image; ``features`` are statistics of those it was
    fitted on.
    """

    ridge: Ridge
    words: tuple[str, ...]
    kept: int
    features: Fingerprint

    def check(self, where: str, found: Fingerprint, otherwise: str = "") -> None:
        """Refuse features of another extractor.

        Args:
            where: names their file or folder.
            found: their statistics.
            otherwise: what else can be done, for the message.

        Raises:
            ShardError: saying how they differ.
        """
        if difference := self.features.difference(found):
            raise ShardError(
                f"{where}: features {difference} than those that the concept predictor was fitted "
                f"on; use features of the same extractor with the same settings{otherwise}"
            )

    def __call__(self, regions: Array) -> Concepts:
        """The concepts of an image, best first, from its regions (R, F) of any dtype.

        Raises:
            ShardError: if the features have another width than those it was fitted on.
        """
        return self.of_pooled(pool_regions(regions)[None])[0]

    def of_pooled(self, pooled: Array) -> list[Concepts]:
        """The concepts of images, from `pool_regions` (N, P)."""
        if pooled.shape[1] != len(self.ridge.mean):
            raise ShardError(
                f"features of width {pooled.shape[1] // 2}, but the concept predictor was fitted "
                f"on width {len(self.ridge.mean) // 2}; use features of the same extractor"
            )
        return top_concepts(self.ridge(pooled), self.words, self.kept)

    def to_bytes(self) -> bytes:
        """The content of its file; the same bytes every time."""
        file, ridge = io.BytesIO(), self.ridge
        np.savez(
            file,
            mean=ridge.mean,
            deviation=ridge.deviation,
            weights=np.ascontiguousarray(ridge.weights),
            bias=ridge.bias,
            penalty=ridge.penalty,
            words=np.array(self.words, np.str_),
            kept=self.kept,
            images=self.features.images,
            feature_mean=self.features.mean,
            feature_deviation=self.features.deviation,
        )
        return file.getvalue()


@dataclass(frozen=True)
class PredictorFile(ListedFile):
    """The file of a predictor in a folder of shards."""

    @classmethod
    def of(cls, data: bytes) -> PredictorFile:
        """The file with these bytes; its name has the start of their SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        return cls(f"concept_predictor-{sha256[:8]}.npz", sha256)

    @property
    def identity(self) -> str:
        """What tells its concepts from those of other predictors and detectors."""
        return f"{_PREFIX}{self.sha256[:16]}"


def is_predicted(identity: str) -> bool:
    """Whether concepts are those of a predictor, not of a detector."""
    return identity.startswith(_PREFIX)


def same_concepts(first: str | None, second: str | None) -> bool:
    """Whether two sets' concepts may have one source; None: in tars of an unknown source.

    Sets that older versions built do not say which predictor made their concepts.
    """
    known = [source for source in (first, second) if source is not None]
    return first == second or (len(known) == 1 and is_predicted(known[0]))


def write_predictor(data: bytes, folder: Path) -> PredictorFile:
    """Write a predictor's bytes next to shards."""
    file = PredictorFile.of(data)
    with atomic_write(folder / file.name) as opened:
        opened.write(data)
    return file


def parse_predictor(where: str, data: bytes) -> ConceptPredictor:
    """Inverse of `ConceptPredictor.to_bytes`; ``where`` names the file.

    Raises:
        ShardError: if it is not such a file.
    """
    try:
        return _parse(data)
    except Exception as error:  # zipfile, numpy and Python's parser raise many kinds
        raise ShardError(f"{where}: not a concept predictor ({error}); copy it again") from error


def _parse(data: bytes) -> ConceptPredictor:
    arrays = _read_arrays(data)
    mean, deviation, weights, bias = (
        np.asarray(arrays[name], np.float64) for name in ("mean", "deviation", "weights", "bias")
    )
    words, kept, penalty = arrays["words"], int(arrays["kept"]), float(arrays["penalty"])
    shapes = [array.shape for array in (mean, deviation, weights, bias, words)]
    pooled, count = weights.shape
    if shapes != [(pooled,), (pooled,), (pooled, count), (count,), (count,)] or kept < 1:
        raise ValueError(f"arrays of shapes {shapes}, {kept} kept")
    if not all(np.isfinite(array).all() for array in (mean, deviation, weights, bias)):
        raise ValueError("numbers that are not finite")
    if words.dtype.kind != "U":
        raise ValueError(f"words of dtype {words.dtype}")
    ridge = Ridge(penalty, mean, deviation, weights, bias)
    return ConceptPredictor(ridge, tuple(map(str, words)), kept, _fingerprint(arrays, pooled // 2))


def _fingerprint(arrays: dict[str, Array], width: int) -> Fingerprint:
    statistics = [
        np.asarray(arrays[name], np.float64) for name in ("feature_mean", "feature_deviation")
    ]
    if not all(array.shape == (min(width, DIMENSIONS),) for array in statistics):
        raise ValueError("statistics of features of another width")
    if not all(np.isfinite(array).all() for array in statistics):
        raise ValueError("statistics that are not finite")
    mean, deviation = (tuple(map(float, array)) for array in statistics)
    return Fingerprint(int(arrays["images"]), mean, deviation)


def _read_arrays(data: bytes) -> dict[str, Array]:
    """The arrays of an npz file by name, whose sizes are checked before anything is read."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if (size := sum(info.file_size for info in archive.infolist())) > _MAX_BYTES:
            raise ValueError(f"{size} bytes, expected at most {_MAX_BYTES}")
        return {
            name.removesuffix(".npy"): decode_npy(archive.read(name)) for name in archive.namelist()
        }
