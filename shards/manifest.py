"""What a folder of shards holds: ``manifest.json``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from shards.checksum import crc32
from shards.concept_files import ConceptSet
from shards.concept_predictor import PredictorFile
from shards.feature_sets import OWN, FeatureSet, listed_set, select, set_json
from shards.feature_spec import FeatureSpec
from shards.index import Index, index_path, write_index
from shards.listed_file import ListedFile
from shards.location import folder_at
from shards.manifest_json import parse_manifest
from shards.remote.cache import Cache
from shards.remote.remote_file import PREFETCH_THREADS, prefetch
from shards.schema import SCHEMA_VERSION, ShardError
from shards.shard import Shard
from shards.tar import read_tar
from shards.tokenisers import ENGLISH_TEXT, CaptionText

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    Args:
        root: the folder; for a remote set, a path that identifies it and does not exist.
        name: of the data set.
        features: extractor and storage of the region features: of the folder's own set, or of the
            first that is read.
        shards: in the order in which they were built.
        class_names: names of the classes of ``classes.npy`` by id; may be empty.
        left_out: what is wrong with each image or caption that could not be written.
        concepts: if not None, they replace the concepts in the tars.
        url: of a remote set.
        text: tokeniser and language of the captions; of older sets, the default.
        tar_predictor: the predictor of the concepts in the tars; None if it is unknown.
        predicates: names of those of ``relations.npy``, whose numbers begin with 1; may be empty.
        counts: the counts of the training captions, if the build wrote them.
        own: the name of the folder's own feature set.
        further: feature sets in tars next to those of the samples.
        read_sets: the feature sets that a model reads, its first one first, see `reading`.
    """

    root: Path
    name: str
    features: FeatureSpec
    shards: tuple[Shard, ...]
    class_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    concepts: ConceptSet | None = None
    url: str | None = None
    text: CaptionText = ENGLISH_TEXT
    tar_predictor: PredictorFile | None = None
    predicates: tuple[str, ...] = ()
    counts: ListedFile | None = None
    own: str = OWN
    further: tuple[FeatureSet, ...] = ()
    read_sets: tuple[FeatureSet, ...] = ()

    @classmethod
    def load(cls, root: Path | str, cache: Cache | None = None) -> Manifest:
        """Read ``manifest.json`` of a folder, and ``concepts.json`` if it has one.

        Args:
            root: the folder, or its URL.
            cache: for the copies of remote shards.

        Raises:
            ShardError: if there is no manifest, one of the two files has another schema version,
                the concepts are those of other shards, or a server does not answer.
        """
        folder = folder_at(root, cache)
        path = f"{folder.location}/{MANIFEST}"
        text = folder.read(MANIFEST)
        if text is None:
            raise ShardError(
                f"{path}: no manifest; build shards with 'python -m shards build' or 'python -m "
                "shards scenes', or set data.shards to the folder that holds them"
            )
        data = parse_manifest(path, text)
        manifest = cls(
            root=folder.root,
            name=data["name"],
            features=FeatureSpec.from_json(data["features"]),
            shards=tuple(
                Shard(**row, remote=folder.remote_file(row["name"], row["sha256"], row["bytes"]))
                for row in data["shards"]
            ),
            class_names=data["class_names"],
            left_out=data["left_out"],
            url=folder.url,
            text=CaptionText.from_json(path, data),
            tar_predictor=PredictorFile.listed(folder, data.get("concept_predictor")),
            predicates=data.get("predicates", ()),
            counts=ListedFile.listed(folder, data.get("caption_counts")),
            own=data.get("feature_set", OWN),
            further=tuple(listed_set(folder, data, row) for row in data.get("further_sets", ())),
        )
        concepts = ConceptSet.load_if_present(folder)
        return manifest.with_concepts(concepts) if concepts else manifest

    def with_concepts(self, concepts: ConceptSet) -> Manifest:
        """The same shards with these concepts.

        Raises:
            ShardError: if the concepts were predicted for other shards.
        """
        return replace(self, concepts=concepts.of_shards(self.sha256_by_shard))

    def reading(self, names: tuple[str, ...]) -> Manifest:
        """The same shards, read by a model that reads these feature sets; none: their own.

        Raises:
            ShardError: naming a set that there is not.
        """
        if not names:
            return self
        chosen = select(self.feature_sets, names, f"{self.location}/{MANIFEST}")
        return replace(self, features=chosen[0].spec, read_sets=chosen)

    @property
    def feature_sets(self) -> tuple[FeatureSet, ...]:
        """All feature sets, the folder's own first."""
        return FeatureSet(self.own, self.features), *self.further

    @property
    def chosen_sets(self) -> tuple[FeatureSet, ...]:
        """The feature sets that are read."""
        return self.read_sets or (FeatureSet(self.own, self.features),)

    @property
    def concept_source(self) -> str | None:
        """The detector or the predictor that made the concepts; None: unknown, in the tars."""
        if self.concepts:
            return self.concepts.detector
        return self.tar_predictor.identity if self.tar_predictor else None

    @property
    def predictor(self) -> PredictorFile | None:
        """The file of the predictor that made the concepts, if there is one."""
        return self.concepts.predictor if self.concepts else self.tar_predictor

    def read_predictor(self) -> bytes | None:
        """The bytes of the predictor that made the concepts, if there is one.

        Raises:
            ShardError: if the file is missing or another one.
        """
        if self.concepts and self.concepts.predictor:
            return self.concepts.predictor.read(self.concepts.root)
        return self.predictor.read(self.root) if self.predictor else None

    @property
    def location(self) -> str:
        """The folder or the URL, for messages."""
        return self.url or str(self.root)

    @property
    def local_folder(self) -> Path:
        """The folder, for writing files next to the shards.

        Raises:
            ShardError: if the shards are on a server.
        """
        if self.url:
            raise ShardError(
                f"{self.url}: can't write to a server; copy the set to a local folder first"
            )
        return self.root

    @property
    def sha256_by_shard(self) -> dict[str, str]:
        """The SHA-256 of each tar by its name."""
        return {shard.name: shard.sha256 for shard in self.shards}

    def split_digest(self, name: str) -> str:
        """A digest of the tars of a split, wherever they are.

        Raises:
            ShardError: if the set has no such split.
        """
        tars = sorted(shard.sha256 for shard in self.split(name))
        return hashlib.sha256("\n".join(tars).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The content of ``manifest.json``."""
        data: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "features": self.features.to_json(),
            "shards": [_shard_json(shard) for shard in self.shards],
            "class_names": self.class_names,
            "left_out": self.left_out,
            "predicates": self.predicates,
            "feature_set": self.own,
            "further_sets": [set_json(found, self.shards) for found in self.further],
            **asdict(self.text),
        }
        if self.tar_predictor:
            data["concept_predictor"] = self.tar_predictor.to_json()
        if self.counts:
            data["caption_counts"] = self.counts.to_json()
        return data

    def split(self, name: str) -> tuple[Shard, ...]:
        """The shards of one split.

        Raises:
            ShardError: if the set has no such split.
        """
        if name not in self._splits:
            splits = ", ".join(sorted(self._splits))
            raise ShardError(
                f"{self.location}/{MANIFEST}: no split {name!r}, expected one of {splits}"
            )
        return self._splits[name]

    @cached_property
    def _splits(self) -> dict[str, tuple[Shard, ...]]:
        """Readers look up a split very often, and with many shards a search is slow."""
        splits: dict[str, list[Shard]] = {}
        for shard in self.shards:
            splits.setdefault(shard.split, []).append(shard)
        return {name: tuple(shards) for name, shards in splits.items()}

    def tar_path(self, shard: Shard) -> Path:
        """The path of a shard on this node's disk; a remote shard is downloaded.

        Open the path soon: a copy may be evicted later, see `RemoteFile.fetch`.

        Raises:
            ShardUnavailableError: if the shard is remote and its server does not deliver it.
            ShardError: if its copy can't be written.
        """
        return shard.remote.fetch() if shard.remote else self.root / shard.name

    def prefetch(self, shards: Iterable[Shard]) -> None:
        """Start downloads of remote shards in the background, a few at a time."""
        prefetch(shard.remote for shard in shards if shard.remote)

    def index(self, shard: Shard) -> Index:
        """The index of a shard; that of a remote shard is made from its tar.

        Raises:
            ShardError: if the shard or its index is missing, or the index is not valid.
        """
        tar = self.tar_path(shard)
        path = index_path(tar)
        if shard.remote and not path.exists():
            _make_index(tar, shard.remote.cache)
        for required in (tar, path):
            if not required.is_file():
                raise ShardError(
                    f"{required}: missing, though {MANIFEST} lists {shard.name}; "
                    "restore the file or build the shards again"
                )
        return Index(path, path.read_bytes())

    def read(self, split: str, suffix: str) -> Iterator[tuple[str, bytes]]:
        """Key and bytes of one member of each sample of a split, from the tars.

        Samples without the member, which must be an optional one, are skipped.

        Raises:
            ShardError: naming a member whose checksum does not match.
        """
        shards = self.split(split)
        for number, shard in enumerate(shards):
            self.prefetch(shards[number + 1 : number + 1 + PREFETCH_THREADS])
            entries = self.index(shard)
            with self.tar_path(shard).open("rb") as tar:
                size = tar.seek(0, os.SEEK_END)
                for entry in entries:
                    if member := entry.members.get(suffix):
                        tar.seek(min(member.offset, size))
                        data = tar.read(min(member.size, size))
                        if crc32(data) != member.crc32:
                            raise ShardError(
                                f"{self.tar_path(shard)}: member {entry.key}.{suffix}: checksum "
                                "mismatch; list all damage with: python -m shards verify "
                                f"{self.location}"
                            )
                        yield entry.key, data


def _make_index(tar: Path, cache: Cache) -> None:
    """Write the index of a copy from its bytes, which are checked; a server's index is not."""
    with cache.open_for_writing():
        write_index(tar, [entry for entry, _ in read_tar(tar)])


def _shard_json(shard: Shard) -> dict[str, Any]:
    return {name: value for name, value in vars(shard).items() if name != "remote"}
