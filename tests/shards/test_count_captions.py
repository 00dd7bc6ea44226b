"""Counts of captions equal those of dictionaries, however the shards are divided, and are kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from shards import count_captions, ngrams
from shards.caption_counts import END, CaptionCounts, counts_name
from shards.count_captions import find_counts
from shards.manifest import MANIFEST, Manifest
from shards.remote.cache import Cache
from shards.schema import Sample, ShardError
from shards.verify import verify
from shards.writer import write
from tests.support.caption_sources import Captions, Given, made
from tests.support.processes import environment
from tests.support.shards import TinySource

NAME = counts_name("train")


def in_dictionary(captions: Sequence[Captions]) -> dict[tuple[str, ...], int]:
    """The n-grams of two images or more, and the images of each."""
    counts = Counter[tuple[str, ...]]()
    for image in captions:
        ended = [(*caption, END) for caption in image]
        counts.update(
            {
                caption[begin : begin + n]
                for caption in ended
                for n in range(1, 5)
                for begin in range(len(caption) - n + 1)
            }
        )
    return {ngram: count for ngram, count in counts.items() if count >= 2}


def in_file(counts: CaptionCounts) -> dict[tuple[str, ...], int]:
    keys, numbers = counts.ngrams()
    ngrams: list[tuple[str, ...]] = []
    for key in keys.tolist():
        prefix, word = key >> 31, counts.words[key & (2**31 - 1)]
        ngrams.append((*(ngrams[prefix - 1] if prefix else ()), word))
    return dict(zip(ngrams, numbers.tolist(), strict=True))


def check(counts: CaptionCounts | None, captions: Sequence[Captions]) -> None:
    assert counts
    everything = [*chain.from_iterable(captions)]
    expected = Counter(chain.from_iterable(everything))
    assert counts.images == len(captions)
    assert counts.count_words() == expected
    assert counts.count_captions_with() == Counter(chain.from_iterable(map(set, everything)))
    found = [word for word in counts.count_words() if word != END]
    assert found == [word for word in expected if word != END]
    lengths = Counter(map(len, everything))
    assert counts.lengths.tolist() == [lengths[n] for n in range(max(lengths) + 1)]
    assert in_file(counts) == in_dictionary(captions)


def without_counts(root: Path) -> Manifest:
    """The set as an older version built it."""
    (root / NAME).unlink()
    described = json.loads((root / MANIFEST).read_text())
    del described["caption_counts"]
    (root / MANIFEST).write_text(json.dumps(described))
    return Manifest.load(root)


def cache(folder: Path) -> Cache:
    return Cache(folder / "cache")


@pytest.mark.parametrize("seed", range(12))
def test_counts_equal_those_of_a_dictionary(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several parts and several chunks, with n-grams that are in two images of different parts.
    monkeypatch.setattr(count_captions, "PART", 4)
    monkeypatch.setattr(ngrams, "CHUNK", 8)
    monkeypatch.setattr(ngrams, "_STRIDE", 2)
    captions = made(seed, (1, 2, 7, 30)[seed % 4])
    built = write(Given(captions=captions), tmp_path, samples_per_shard=1 + seed % 5, workers=1)
    check(find_counts(built, "train", cache(tmp_path)), captions)
    assert verify(built) == []


def test_shards_without_counts_are_counted_once_to_the_same_bytes(tmp_path: Path) -> None:
    captions = made(1, 20)
    write(Given(captions=captions), tmp_path, samples_per_shard=6, workers=1)
    built = (tmp_path / NAME).read_bytes()
    old = without_counts(tmp_path)
    check(find_counts(old, "train", cache(tmp_path)), captions)
    assert (tmp_path / NAME).read_bytes() == built
    for shard in old.split("train"):
        (tmp_path / shard.name).unlink()
    check(find_counts(old, "train", cache(tmp_path)), captions)
    assert not (tmp_path / "cache").exists()


def test_worker_processes_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(count_captions, "PART", 4)
    built = write(Given(captions=made(2, 12)), tmp_path, samples_per_shard=4, workers=1)
    expected = (tmp_path / NAME).read_bytes()
    count_captions.count_captions(built, "train", tmp_path / NAME, workers=2)
    assert (tmp_path / NAME).read_bytes() == expected


def test_counts_of_other_shards_are_not_taken(tmp_path: Path) -> None:
    first, second = made(3, 9), made(4, 9)
    write(Given(captions=first), tmp_path / "a", workers=1)
    write(Given(captions=second), tmp_path / "b", workers=1)
    shutil.copy(tmp_path / "a" / NAME, tmp_path / "b" / NAME)
    manifest = Manifest.load(tmp_path / "b")
    assert [line for line in verify(manifest) if "SHA-256 mismatch" in line]
    check(find_counts(manifest, "train", cache(tmp_path)), second)


def test_counts_of_an_older_build_are_left_alone_and_counted_again(tmp_path: Path) -> None:
    captions = made(8, 9)
    write(Given(captions=captions), tmp_path, workers=1)
    with np.load(tmp_path / NAME) as counts:
        older = {name: array for name, array in counts.items() if name != "captions_with"}
    np.savez(tmp_path / NAME, **older)
    data = (tmp_path / NAME).read_bytes()
    described = json.loads((tmp_path / MANIFEST).read_text())
    described["caption_counts"]["sha256"] = hashlib.sha256(data).hexdigest()
    (tmp_path / MANIFEST).write_text(json.dumps(described))
    old = Manifest.load(tmp_path)
    check(find_counts(old, "train", cache(tmp_path)), captions)
    assert verify(old) == []
    for shard in old.split("train"):
        (tmp_path / shard.name).unlink()
    check(find_counts(old, "train", cache(tmp_path)), captions)


def test_counts_of_a_folder_that_is_not_there_are_kept_in_the_cache(tmp_path: Path) -> None:
    captions = made(5, 9)
    built = write(Given(captions=captions), tmp_path / "a", workers=1)
    names = [replace(s, name=str(built.root / s.name)) for s in built.shards]
    union = replace(built, root=Path("a + b"), shards=tuple(names), counts=None)
    check(find_counts(union, "train", cache(tmp_path)), captions)
    (kept,) = [path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]
    assert kept.name.endswith(f"-{NAME}")
    for shard in union.split("train"):
        Path(shard.name).unlink()
    check(find_counts(union, "train", cache(tmp_path)), captions)


def test_an_image_without_captions_or_with_anothers_id_has_no_counts(tmp_path: Path) -> None:
    class Same(TinySource):
        def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
            for sample in super().load(split, ids):
                yield replace(sample, image_id=7)

    built = write(Same((("train", 2),)), tmp_path / "same", workers=1)
    assert built.counts is None
    assert find_counts(built, "train", cache(tmp_path)) is None
    test = write(TinySource((("test", 2),)), tmp_path / "test", workers=1)
    assert test.counts is None


@pytest.mark.parametrize("keep", [0, 10, 700, -1])
def test_damaged_counts_are_reported(keep: int, tmp_path: Path) -> None:
    built = write(Given(captions=made(6, 9)), tmp_path, workers=1)
    data = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(data[:keep])
    with pytest.raises(ShardError, match=rf"{NAME}: damaged, .*; remove it, and training counts"):
        find_counts(built, "train", cache(tmp_path))


def test_n_grams_that_do_not_fit_the_words_are_refused(tmp_path: Path) -> None:
    write(Given(captions=made(6, 9)), tmp_path, workers=1)
    counts = CaptionCounts.load(tmp_path / NAME)
    keys, numbers = counts.ngrams()
    for wrong in (keys[::-1], keys + len(counts.words), keys + (len(keys) << 31)):
        counts.save(ngrams.NgramList(wrong, numbers))
        with pytest.raises(ShardError, match="its arrays do not fit each other"):
            counts.ngrams()


def test_processes_that_start_together_count_once(tmp_path: Path) -> None:
    captions = made(7, 40)
    write(Given(captions=captions), tmp_path, samples_per_shard=8, workers=1)
    without_counts(tmp_path)
    code = (
        "import sys; from pathlib import Path; from shards.manifest import Manifest;"
        "from shards.count_captions import find_counts; from shards.remote.cache import Cache;"
        "find_counts(Manifest.load(sys.argv[1]), 'train', Cache(Path(sys.argv[1], 'cache')))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [
        subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    bars = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sum("counting" in bar for bar in bars) == 1
    check(find_counts(Manifest.load(tmp_path), "train", cache(tmp_path)), captions)
