"""Concepts that were predicted for existing shards, in files next to the tars.

concepts.json                         which detector, and the file of every shard
train-00000.concepts-0a1b2c3d.json    {"<key>": [["dog", 0.98], ...], ...}, in tar order
concept_predictor-4e5f6a7b.npz        the predictor, if it is a build's and not a run's detector

The files are in the folder of the shards, or in that of the run that predicted them. If a folder of
shards has a ``concepts.json``, every reader uses its concepts instead of those in the tars. A file
has the start of its own SHA-256 in its name, so that new concepts never change a file that a reader
has open, and ``concepts.json`` is replaced last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import NotRequired, TypedDict

from shards.atomic import atomic_write, write_json
from shards.concept_predictor import PredictorFile
from shards.concepts import Concepts
from shards.json_types import Count, T, WordScores, parse_json
from shards.listed_file import ListedFileJson
from shards.location import LocalFolder, RemoteFolder
from shards.progress import tracked
from shards.remote.remote_file import RemoteFile
from shards.schema import READABLE_VERSIONS, SCHEMA_VERSION, ShardError

CONCEPTS = "concepts.json"


@dataclass(frozen=True)
class ConceptFile:
    """The file with a shard's concepts, its SHA-256, and that of the tar it belongs to.

    ``remote``, which ``concepts.json`` does not hold, is set for a file of a remote set.
    """

    name: str
    sha256: str
    tar_sha256: str
    remote: RemoteFile | None = None


@dataclass(frozen=True)
class ConceptSet:
    """The concepts of a folder of shards.

    Args:
        root: the folder of the files.
        detector: a digest of the detector's weights, or `PredictorFile.identity`: a model that was
            trained on its concepts must not be given another's.
        made_by: the run of the detector and its scores, for people to read.
        kept: the largest number of concepts per image.
        files: by name of the shard.
        predictor: the file of the predictor, if a build made it.
    """

    root: Path
    detector: str
    made_by: dict[str, Any]
    kept: int
    files: dict[str, ConceptFile]
    predictor: PredictorFile | None = None

    @classmethod
    def load(cls, root: Path) -> ConceptSet:
        """Read ``concepts.json`` of a folder.

        Raises:
            ShardError: if there is none, or it has another schema version.
        """
        concepts = cls.load_if_present(LocalFolder(root))
        if concepts is None:
            raise ShardError(
                f"{root / CONCEPTS}: no such file; expected the folder of a run with a stage "
                "'mil', which writes it at the end of that stage"
            )
        return concepts

    @classmethod
    def load_if_present(cls, folder: LocalFolder | RemoteFolder) -> ConceptSet | None:
        """Read ``concepts.json`` of a folder, if it has one.

        Raises:
            ShardError: if it has another schema version, or a server does not answer.
        """
        path = f"{folder.location}/{CONCEPTS}"
        text = folder.read(CONCEPTS)
        if text is None:
            return None
        version = _parse(_ANY_JSON, path, text).get("schema_version")
        if version not in READABLE_VERSIONS:
            raise ShardError(
                f"{path}: schema version {version}, expected {SCHEMA_VERSION}; "
                "predict the concepts again with this version"
            )
        data = _parse(_SET_JSON, path, text)
        files = {
            shard: ConceptFile(**row, remote=folder.remote_file(row["name"], row["sha256"]))
            for shard, row in data["files"].items()
        }
        predictor = PredictorFile.listed(folder, data.get("predictor"))
        return cls(folder.root, data["detector"], data["made_by"], data["kept"], files, predictor)

    def save(self) -> None:
        """Write ``concepts.json``; from then on readers use these concepts."""
        data = asdict(self)
        del data["root"]
        for file in data["files"].values():
            del file["remote"]
        del data["predictor"]
        if self.predictor:
            data["predictor"] = self.predictor.to_json()
        write_json(self.root / CONCEPTS, {"schema_version": SCHEMA_VERSION, **data})

    def covers(self, sha256_by_shard: Mapping[str, str]) -> bool:
        """Whether they were predicted for all these shards."""
        return {file.tar_sha256 for file in self.files.values()}.issuperset(
            sha256_by_shard.values()
        )

    def of_shards(self, sha256_by_shard: Mapping[str, str]) -> ConceptSet:
        """The concepts of these shards, which may have been moved since.

        Raises:
            ShardError: naming the first shard whose tar they were not predicted for.
        """
        by_tar = {file.tar_sha256: file for file in self.files.values()}
        for shard, sha256 in sha256_by_shard.items():
            if sha256 not in by_tar:
                raise ShardError(
                    f"{self.root / CONCEPTS}: was made for other shards: {shard} has another "
                    "SHA-256; predict the concepts again with capdist concepts, or remove "
                    f"{CONCEPTS}"
                )
        files = {shard: by_tar[sha256] for shard, sha256 in sha256_by_shard.items()}
        return replace(self, files=files)

    def read(self, shard: str) -> dict[str, Concepts]:
        """The concepts of a shard's samples by key, in tar order.

        Raises:
            ShardError: if the file is missing or damaged.
        """
        entry = self.files[shard]
        path = entry.remote.fetch() if entry.remote else self.root / entry.name
        if not path.is_file():
            raise ShardError(
                f"{path}: missing, though {CONCEPTS} lists it; predict the concepts again"
            )
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ShardError(
                f"{path}: SHA-256 mismatch with {CONCEPTS}; predict the concepts again"
            )
        return _parse(_CONCEPTS_JSON, path, data)


class _ConceptFileJson(TypedDict):
    name: str
    sha256: str
    tar_sha256: str


class _SetJson(TypedDict):
    detector: str
    made_by: dict[str, Any]
    kept: Count
    files: dict[str, _ConceptFileJson]
    predictor: NotRequired[ListedFileJson | None]


_ANY_JSON, _SET_JSON = TypeAdapter(dict[str, Any]), TypeAdapter(_SetJson)
_CONCEPTS_JSON = TypeAdapter(dict[str, WordScores])


def _parse(adapter: TypeAdapter[T], path: Path | str, data: bytes) -> T:
    try:
        return parse_json(adapter, data)
    except ValueError as error:
        raise ShardError(f"{path}: {error}; predict the concepts again") from error


def write_concept_file(
    root: Path, shard: str, tar_sha256: str, concepts: Mapping[str, Concepts]
) -> ConceptFile:
    """Write the concepts of a shard's samples, by key in tar order."""
    data = json.dumps(concepts, ensure_ascii=False, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{Path(shard).stem}.concepts-{sha256[:8]}.json"
    with atomic_write(root / name) as file:
        file.write(data)
    return ConceptFile(name, sha256, tar_sha256)


def install_concepts(
    predicted: ConceptSet, root: Path, sha256_by_shard: Mapping[str, str], top: int | None
) -> ConceptSet:
    """Write a run's concepts next to the shards that they were predicted for.

    Args:
        predicted: in the folder of the run.
        root: the folder of the shards.
        sha256_by_shard: of its tars.
        top: concepts to keep per image, the best first; None keeps all.

    Raises:
        ShardError: if they are the concepts of other shards, or fewer than ``top`` per image.
    """
    predicted = predicted.of_shards(sha256_by_shard)
    kept = predicted.kept if top is None else top
    if not 1 <= kept <= predicted.kept:
        raise ShardError(
            f"--top {kept}: {predicted.root} has up to {predicted.kept} concepts per image; choose "
            f"1 to {predicted.kept}"
        )
    files, shards = {}, sha256_by_shard.items()
    for shard, sha256 in tracked(shards, len(shards), title="writing concepts", unit="shard"):
        top_concepts = {key: pairs[:kept] for key, pairs in predicted.read(shard).items()}
        files[shard] = write_concept_file(root, shard, sha256, top_concepts)
    installed = ConceptSet(root, predicted.detector, predicted.made_by, kept, files)
    installed.save()
    return installed
