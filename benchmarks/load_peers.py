"""Loops that read the same images as complete batches, as users of other tools write them.

A batch is features (B, R, F) fp16, boxes (B, R, 4), a mask (B, R) and token ids (B, S, L).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load_corpus import FEATURES, REGIONS, VOCAB, Corpus, pad, pad_words
from shards.schema import Array

#: Features, boxes, mask, captions.
PeerBatch = tuple[Array, Array, Array, Array]


def collate(
    features: Sequence[Array], boxes: Sequence[Array], words: Sequence[Sequence[Sequence[int]]]
) -> PeerBatch:
    padded, lengths = pad(features), np.array([len(array) for array in features])
    mask = np.arange(padded.shape[1]) < lengths[:, None]
    return padded, pad(boxes), mask, pad_words(words)


def shuffled(corpus: Corpus, batch: int) -> Iterator[list[int]]:
    """The image numbers of every batch of a shuffled epoch."""
    order = np.random.default_rng(1).permutation(len(corpus.words))
    yield from (order[n : n + batch].tolist() for n in range(0, len(order), batch))


def webdataset(corpus: Corpus, batch: int) -> Iterator[PeerBatch]:
    """The webdataset library with its default decoding."""
    from webdataset import WebDataset

    def collation(samples: Sequence[dict[str, Any]]) -> PeerBatch:
        words = [[VOCAB.encode(caption) for caption in s["json"]["tokens"]] for s in samples]
        features = [sample["regions.npy"] for sample in samples]
        return collate(features, [sample["boxes.npy"] for sample in samples], words)

    urls = WebDataset(corpus.tars, shardshuffle=False)
    yield from urls.decode().batched(batch, collation_fn=collation)


def npz(corpus: Corpus, batch: int) -> Iterator[PeerBatch]:
    """A folder with one npz file per image."""
    for numbers in shuffled(corpus, batch):
        files = [np.load(corpus.npz(number)) for number in numbers]
        words = [corpus.words[number] for number in numbers]
        yield collate([f["features"] for f in files], [f["boxes"] for f in files], words)
        for file in files:
            file.close()


def hdf5(corpus: Corpus, batch: int) -> Iterator[PeerBatch]:
    """One HDF5 file, read one image at a time."""
    import h5py

    with h5py.File(corpus.root / "h5") as file:
        features, boxes = file["features"], file["boxes"]
        for numbers in shuffled(corpus, batch):
            words = [corpus.words[number] for number in numbers]
            yield collate([features[n] for n in numbers], [boxes[n] for n in numbers], words)


def lmdb(corpus: Corpus, batch: int) -> Iterator[PeerBatch]:
    """An LMDB of raw arrays, without a copy before the batch."""
    import lmdb

    with (
        lmdb.open(corpus.lmdb, readonly=True, lock=False) as db,
        db.begin(buffers=True) as transaction,
    ):

        def array(number: int, name: str, dtype: Any, width: int) -> Array:
            value: Any = transaction.get(f"{number}/{name}".encode())
            return np.frombuffer(value, dtype).reshape(-1, width)

        for numbers in shuffled(corpus, batch):
            features = [array(n, "features", np.float16, FEATURES) for n in numbers]
            boxes = [array(n, "boxes", np.float32, 4) for n in numbers]
            yield collate(features, boxes, [corpus.words[number] for number in numbers])


class BareDali:
    """A DALI pipeline alone: tars in stored order, decoded and padded by its own operators."""

    def __init__(self, corpus: Corpus, batch: int, folder: Path) -> None:
        from nvidia.dali import fn, pipeline_def, types

        self.corpus, self.batch = corpus, batch
        indices = list(self._indices(folder))

        @pipeline_def(batch_size=batch, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
        def pipeline() -> tuple[Any, ...]:
            read: Any = fn.readers.webdataset(
                paths=corpus.tars, index_paths=indices, ext=["regions.npy", "boxes.npy"]
            )
            features = fn.decoders.numpy(read[0], dtype=types.FLOAT16)
            boxes = fn.decoders.numpy(read[1], dtype=types.FLOAT)
            return fn.pad(features, axes=[0]), fn.pad(boxes, axes=[0]), features.shape()

        self.pipeline = pipeline()
        self.pipeline.build()

    def _indices(self, folder: Path) -> Iterator[str]:
        """Write index files beforehand, as DALI recommends."""
        folder.mkdir()
        for shard in self.corpus.manifest.shards:
            lines = [
                " ".join(f"{n} {m.offset} {m.size} {entry.key}.{n}" for n, m in members.items())
                for entry in self.corpus.manifest.index(shard)
                if (members := entry.members)
            ]
            path = folder / f"{shard.name}.idx"
            path.write_text("\n".join([f"v1.2 {len(lines)}", *lines, ""]))
            yield str(path)

    def epoch(self) -> Iterator[PeerBatch]:
        """Batches of the next epoch; DALI pads the last one."""
        for start in range(0, len(self.corpus.words), self.batch):
            outputs = self.pipeline.run()
            features, boxes, shapes = (np.array(o.as_tensor()) for o in outputs)
            mask = np.arange(features.shape[1]) < shapes[:, :1]
            yield features, boxes, mask, pad_words(self.corpus.words[start : start + self.batch])


class CopyFloor:
    """Only copies the regions from a memory map of the tars into the batches' memory.

    Two buffers alternate, because a batch is in use while the next one is filled.
    """

    def __init__(self, corpus: Corpus, batch: int) -> None:
        self.corpus = corpus
        self.buffers = np.empty((2, batch, REGIONS * FEATURES * 2), np.uint8)
        self.maps = [self._map(path) for path in corpus.tars]
        manifest = corpus.manifest
        members = [
            (number, entry.members["regions.npy"])
            for number, shard in enumerate(manifest.shards)
            for entry in manifest.index(shard)
        ]
        size = self.buffers.shape[2]
        self.offsets = [(number, m.offset + m.size - size) for number, m in members]

    def _map(self, path: str) -> Array:
        with open(path, "rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)

    def epoch(self) -> Iterator[Array]:
        """Buffers with the regions of shuffled images, in the order of the peers."""
        _, batch, size = self.buffers.shape
        for buffer, numbers in zip(cycle(self.buffers), shuffled(self.corpus, batch), strict=False):
            for row, number in enumerate(numbers):
                tar, start = self.offsets[number]
                buffer[row] = self.maps[tar][start : start + size]
            yield buffer
