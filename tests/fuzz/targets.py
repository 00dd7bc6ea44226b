"""Reads a set of shards in which one file or member has been replaced by hostile bytes."""

from __future__ import annotations

import hashlib
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from shards.caption_counts import CaptionCounts, counts_name
from shards.concept_files import CONCEPTS, ConceptSet, write_concept_file
from shards.concept_predictor import ConceptPredictor, PredictorFile, parse_predictor
from shards.concepts import Ridge
from shards.feature_sets import decode_set
from shards.fingerprint import UNKNOWN, Fingerprint
from shards.manifest import MANIFEST, Manifest
from shards.schema import ShardError, decode, encode
from shards.tar import read_tar
from shards.write_set import write_set
from shards.writer import write
from tests.support.samples import NumberSource, make_sample
from tests.support.shards import GridSource

TAR, INDEX, COUNTS = "train-00000.tar", "train-00000.index.json", counts_name("train")
#: The tar, but with the checksums of its headers corrected, so that more of it is read.
SET_TAR = "train-00000.grid.tar"
TAR_FIXED_CHECKSUMS = "tar with right checksums"


class Targets:
    """A set of three samples in a folder; replaces a file or member and reads the set.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ridge = Ridge(1.0, np.zeros(8), np.ones(8), np.zeros((8, 2)), np.ones(2))
        features = Fingerprint(3, (0.0,) * 4, (1.0,) * 4)
        predictor = ConceptPredictor(ridge, ("dog", "cat"), 1, features).to_bytes()
        self.manifest = write(NumberSource({"train": 3}), folder, workers=1, predictor=predictor)
        self.manifest = write_set(folder, GridSource(), workers=1)
        entries = self.manifest.index(self.manifest.shards[0])
        concepts = {entry.key: (("dog", 0.5),) for entry in entries}
        row = write_concept_file(folder, TAR, self.manifest.sha256_by_shard[TAR], concepts)
        self.concepts = ConceptSet(folder, "none", {"run": "made"}, 1, {TAR: row})
        self.concepts.save()
        self.concept_file, self.members = row.name, encode(make_sample(2))
        predictor_name = PredictorFile.of(predictor).name
        names = (TAR, SET_TAR, INDEX, MANIFEST, CONCEPTS, COUNTS, row.name, predictor_name)
        files = {n: (folder / n).read_bytes() for n in names}
        #: The valid bytes of each file and member.
        self.valid = {**files, TAR_FIXED_CHECKSUMS: files[TAR], **self.members}
        self.texts = [*Manifest.load(folder).read("train", "json")]

    def __call__(self, name: str, data: bytes) -> None:
        """Read the set, or a sample, with these bytes as the file or member of this name.

        Raises:
            ShardError: if they are refused, as they should be.
        """
        if name in self.members:
            decode("000000000002", {**self.members, name: data})
            return
        path = self.folder / (TAR if name == TAR_FIXED_CHECKSUMS else name)
        path.write_bytes(fix_checksums(data) if name == TAR_FIXED_CHECKSUMS else data)
        try:
            if path.name == TAR:
                self._read_tar(path)
            elif name == SET_TAR:
                for entry, members in read_tar(path):
                    decode_set(entry.key, members, self.manifest.further[0].spec)
            elif name == self.concept_file:
                sha256 = hashlib.sha256(data).hexdigest()
                files = {TAR: replace(self.concepts.files[TAR], sha256=sha256)}
                replace(self.concepts, files=files).read(TAR)
            elif name == COUNTS:
                CaptionCounts.load(path).ngrams()
            elif path.suffix == ".npz":
                parse_predictor(name, data)
            else:
                self._read_set()
        finally:
            path.write_bytes(self.valid[path.name])

    def _read_tar(self, path: Path) -> None:
        try:
            texts = [*Manifest.load(self.folder).read("train", "json")]
        except ShardError:
            texts = self.texts
        assert texts == self.texts, "the index led to other bytes"
        for entry, members in read_tar(path):
            decode(entry.key, members)

    def _read_set(self) -> None:
        manifest = Manifest.load(self.folder)
        manifest.features.fingerprint.difference(UNKNOWN)
        if manifest.tar_predictor:
            manifest.tar_predictor.read(self.folder)
        tars = [found.tar_of(s) for found in manifest.feature_sets for s in manifest.shards]
        for shard in manifest.shards:
            if manifest.concepts:
                manifest.concepts.read(shard.name)
        for tar in tars:
            index = manifest.index(tar)
            for position in range(len(index)):
                with suppress(ShardError):  # a damaged line affects only its sample
                    index[position]
        for split in {shard.split for shard in manifest.shards}:
            for _ in manifest.read(split, "json"):
                pass


def fix_checksums(tar: bytes) -> bytes:
    """The tar with right checksums in all blocks that look like headers."""
    blocks = [tar[offset : offset + 512] for offset in range(0, len(tar), 512)]
    for number, block in enumerate(blocks):
        if len(block) == 512 and block[257:262] == b"ustar":
            (total, _) = tarfile.calc_chksums(block)
            blocks[number] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)
