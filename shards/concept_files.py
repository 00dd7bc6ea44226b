"""Concepts that a detector predicted for shards that were there before: files beside the tars.

concepts.json                         which detector, and the file of every shard
train-00000.concepts-0a1b2c3d.json    {"<key>": [["dog", 0.98], ...], ...}, in tar order

They lie in the folder of the shards, or in that of the run that made them. Where a folder of
shards has a ``concepts.json``, every reader takes its concepts for those of the tars. A file's name
has the start of its own SHA-256, so that new concepts never change a file that somebody reads, and
``concepts.json`` is replaced last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from shards.atomic import replacing, write_json
from shards.concepts import Concepts
from shards.json_types import Count, Pairs, T, read_as
from shards.location import LocalFolder, RemoteFolder
from shards.remote.cache import Source
from shards.schema import SCHEMA_VERSION, ShardError

CONCEPTS = "concepts.json"


@dataclass(frozen=True)
class ConceptFile:
    """The file with a shard's concepts, its SHA-256, and that of the tar it belongs to.

    ``source``, no part of ``concepts.json``, is where that of a remote set comes from.
    """

    name: str
    sha256: str
    tar_sha256: str
    source: Source | None = None


@dataclass(frozen=True)
class ConceptSet:
    """The concepts of a folder of shards.

    Args:
        root: the folder of the files.
        detector: a digest of the detector's weights: models that were trained on its concepts
            must not be given another's.
        made_by: where it came from and how good it is, for people.
        kept: the most concepts of an image.
        files: by the shards' names.
    """

    root: Path
    detector: str
    made_by: dict[str, Any]
    kept: int
    files: dict[str, ConceptFile]

    @classmethod
    def load(cls, root: Path) -> ConceptSet:
        """Read ``concepts.json`` of a folder.

        Raises:
            ShardError: if there is none, or it is of another schema version.
        """
        found = cls.find(LocalFolder(root))
        if found is None:
            raise ShardError(
                f"{root / CONCEPTS}: no such file; a run with a stage mil writes it behind that "
                "stage"
            )
        return found

    @classmethod
    def find(cls, folder: LocalFolder | RemoteFolder) -> ConceptSet | None:
        """Read ``concepts.json`` of a folder, if it has one.

        Raises:
            ShardError: if it is of another schema version, or a server does not answer.
        """
        path = f"{folder.place}/{CONCEPTS}"
        found = folder.read(CONCEPTS)
        if found is None:
            return None
        if (version := _parse(_ANY, path, found).get("schema_version")) != SCHEMA_VERSION:
            raise ShardError(
                f"{path}: schema version {version}, expected {SCHEMA_VERSION}; "
                "write the concepts again with this version"
            )
        data = _parse(_SET, path, found)
        files = {
            shard: ConceptFile(**row, source=folder.source(row["name"], row["sha256"]))
            for shard, row in data["files"].items()
        }
        return cls(folder.root, data["detector"], data["made_by"], data["kept"], files)

    def save(self) -> None:
        """Write ``concepts.json``: from then on readers take these concepts."""
        data = asdict(self)
        del data["root"]
        for file in data["files"].values():
            del file["source"]
        write_json(self.root / CONCEPTS, {"schema_version": SCHEMA_VERSION, **data})

    def check(self, tars: Mapping[str, str]) -> None:
        """Refuse concepts of other tars; ``tars`` are the SHA-256 of shards by name.

        Raises:
            ShardError: naming the first shard that they are not for.
        """
        for shard, sha256 in tars.items():
            if shard not in self.files or self.files[shard].tar_sha256 != sha256:
                raise ShardError(
                    f"{self.root / CONCEPTS}: not the concepts of this {shard}; predict them anew "
                    f"by launcher/concepts.py, or remove {CONCEPTS}"
                )

    def read(self, shard: str) -> dict[str, Concepts]:
        """The concepts of a shard's samples by key, in tar order.

        Raises:
            ShardError: if the file is missing or damaged.
        """
        entry = self.files[shard]
        path = entry.source.fetch() if entry.source else self.root / entry.name
        if not path.is_file():
            raise ShardError(
                f"{path}: missing, though {CONCEPTS} names it; write the concepts again"
            )
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ShardError(
                f"{path}: another SHA-256 than in {CONCEPTS}; write the concepts again"
            )
        return _parse(_CONCEPTS, path, data)


class _ConceptFileJson(TypedDict):
    name: str
    sha256: str
    tar_sha256: str


class _SetJson(TypedDict):
    detector: str
    made_by: dict[str, Any]
    kept: Count
    files: dict[str, _ConceptFileJson]


_ANY, _SET = TypeAdapter(dict[str, Any]), TypeAdapter(_SetJson)
_CONCEPTS = TypeAdapter(dict[str, Pairs])


def _parse(form: TypeAdapter[T], path: Path | str, data: bytes) -> T:
    try:
        return read_as(form, data)
    except ValueError as error:
        raise ShardError(f"{path}: {error}; write the concepts again") from error


def write_concept_file(
    root: Path, shard: str, tar_sha256: str, concepts: Mapping[str, Concepts]
) -> ConceptFile:
    """Write the concepts of a shard's samples, by key in tar order."""
    data = json.dumps(concepts, ensure_ascii=False, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{Path(shard).stem}.concepts-{sha256[:8]}.json"
    with replacing(root / name) as file:
        file.write(data)
    return ConceptFile(name, sha256, tar_sha256)


def install(source: ConceptSet, root: Path, tars: Mapping[str, str], top: int | None) -> ConceptSet:
    """Write a run's concepts beside the shards that they were predicted for.

    Args:
        source: of the run.
        root: the folder of the shards.
        tars: SHA-256 of its shards by name.
        top: of every image, keep this many; all if None.

    Raises:
        ShardError: if they are the concepts of other shards, or fewer than ``top``.
    """
    source.check(tars)
    kept = source.kept if top is None else top
    if not 1 <= kept <= source.kept:
        raise ShardError(f"--top {kept}: {source.root} has 1 to {source.kept} concepts of an image")
    files = {}
    for shard, sha256 in tars.items():
        cut = {key: pairs[:kept] for key, pairs in source.read(shard).items()}
        files[shard] = write_concept_file(root, shard, sha256, cut)
    installed = ConceptSet(root, source.detector, source.made_by, kept, files)
    installed.save()
    return installed
