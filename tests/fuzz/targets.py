"""What is read of a set that comes from outside, with one file or member that is hostile."""

from __future__ import annotations

import hashlib
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from shards.concept_files import CONCEPTS, ConceptSet, write_concept_file
from shards.fingerprint import UNKNOWN
from shards.manifest import MANIFEST, Manifest
from shards.schema import ShardError, decode, encode
from shards.tars import read_tar
from shards.writer import write
from tests.support.samples import Numbers, make_sample

TAR, INDEX = "train-00000.tar", "train-00000.index.json"
#: The tar once more: its headers get the checksums that they must have, so that more is read.
SUMMED = "tar with right checksums"


class Targets:
    """A set of three samples in a folder, and what attacks it: bytes in the place of a file's.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = write(Numbers({"train": 3}), folder, workers=1)
        entries = self.manifest.index(self.manifest.shards[0])
        concepts = {entry.key: (("dog", 0.5),) for entry in entries}
        row = write_concept_file(folder, TAR, self.manifest.tars[TAR], concepts)
        self.concepts = ConceptSet(folder, "none", {"run": "made"}, 1, {TAR: row})
        self.concepts.save()
        self.sidecar, self.members = row.name, encode(make_sample(2))
        files = {n: (folder / n).read_bytes() for n in (TAR, INDEX, MANIFEST, CONCEPTS, row.name)}
        #: What is valid, by the name of what it is.
        self.valid = {**files, SUMMED: files[TAR], **self.members}
        self.texts = [*Manifest.load(folder).read("train", "json")]

    def __call__(self, name: str, data: bytes) -> None:
        """Read the set, or a sample, with these bytes as what has this name.

        Raises:
            ShardError: as it should.
        """
        if name in self.members:
            decode("000000000002", {**self.members, name: data})
            return
        path = self.folder / (TAR if name == SUMMED else name)
        path.write_bytes(summed(data) if name == SUMMED else data)
        try:
            if path.name == TAR:
                self._read_tar(path)
            elif name == self.sidecar:
                sha256 = hashlib.sha256(data).hexdigest()
                files = {TAR: replace(self.concepts.files[TAR], sha256=sha256)}
                replace(self.concepts, files=files).read(TAR)
            else:
                self._read_set()
        finally:
            path.write_bytes(self.valid[path.name])

    def _read_tar(self, path: Path) -> None:
        try:
            found = [*Manifest.load(self.folder).read("train", "json")]
        except ShardError:
            found = self.texts
        assert found == self.texts, "the index led to other bytes"
        for entry, members in read_tar(path):
            decode(entry.key, members)

    def _read_set(self) -> None:
        manifest = Manifest.load(self.folder)
        manifest.features.fingerprint.difference(UNKNOWN)
        if manifest.concepts:
            manifest.concepts.read(TAR)
        for shard in manifest.shards:
            index = manifest.index(shard)
            for place in range(len(index)):
                with suppress(ShardError):  # a damaged line is its own sample's only
                    index[place]
        for split in {shard.split for shard in manifest.shards}:
            for _ in manifest.read(split, "json"):
                pass


def summed(tar: bytes) -> bytes:
    """A tar whose blocks that look like headers have right checksums."""
    blocks = [tar[at : at + 512] for at in range(0, len(tar), 512)]
    for number, block in enumerate(blocks):
        if len(block) == 512 and block[257:262] == b"ustar":
            (total, _) = tarfile.calc_chksums(block)
            blocks[number] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)
