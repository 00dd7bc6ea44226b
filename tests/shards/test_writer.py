import hashlib
import multiprocessing
import os
import signal
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import webdataset

from shards.build_settings import BUILD_SETTINGS
from shards.manifest import MANIFEST
from shards.schema import Sample, ShardError
from shards.writer import write
from tests.support.samples import ChangedSource, NumberSource, contents, make_sample


def test_manifest_has_the_shards_counts_and_hashes(tmp_path: Path) -> None:
    manifest = write(NumberSource(), tmp_path, samples_per_shard=3, workers=1)
    rows = [(s.name, s.split, s.samples, s.captions) for s in manifest.shards]
    assert rows == [
        ("train-00000.tar", "train", 3, 6),
        ("train-00001.tar", "train", 3, 6),
        ("train-00002.tar", "train", 1, 2),
        ("val-00000.tar", "val", 2, 4),
    ]
    assert manifest.features.max_regions == 3
    for shard in manifest.shards:
        data = (tmp_path / shard.name).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_worker_processes_write_the_same_bytes(tmp_path: Path) -> None:
    write(NumberSource(), tmp_path / "one", samples_per_shard=2, workers=1)
    write(NumberSource(), tmp_path / "two", samples_per_shard=2, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_tar_headers_are_constant(tmp_path: Path) -> None:
    write(NumberSource(), tmp_path, workers=1)
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
            assert (info.uname, info.gname) == ("", "")


def test_webdataset_reads_the_tars(tmp_path: Path) -> None:
    write(NumberSource(), tmp_path, workers=1)
    stream = webdataset.WebDataset(str(tmp_path / "train-00000.tar"), shardshuffle=False)
    samples = list(stream.decode())
    assert [sample["__key__"] for sample in samples] == [f"{i:012d}" for i in range(7)]
    np.testing.assert_array_equal(samples[4]["regions.npy"], make_sample(4).regions)
    assert samples[4]["json"]["captions"] == list(make_sample(4).captions)


class SlowSource(NumberSource):
    """Loads slowly, so that it can be killed half way."""

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            time.sleep(0.05)
            yield sample


def write_slowly(root: Path) -> None:
    write(SlowSource({"train": 40}), root, samples_per_shard=3, workers=1)


def test_killed_build_continues_to_the_same_bytes(tmp_path: Path) -> None:
    root = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(target=write_slowly, args=(root,))
    process.start()
    while not list(root.glob(".train-00002.tar.*.tmp")):
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    kept = {path.name: path.stat().st_mtime_ns for path in root.glob("*.tar")}
    assert 2 <= len(kept) < 14
    assert not (root / MANIFEST).exists()
    assert list(root.glob(".*.tmp"))
    write(NumberSource({"train": 40}), root, samples_per_shard=3, workers=1)
    write(NumberSource({"train": 40}), tmp_path / "whole", samples_per_shard=3, workers=1)
    assert contents(root) == contents(tmp_path / "whole")
    assert all((root / name).stat().st_mtime_ns == time for name, time in kept.items())


def test_tar_without_its_index_is_written_again(tmp_path: Path) -> None:
    write(NumberSource(), tmp_path, workers=1)
    expected = contents(tmp_path)
    (tmp_path / "val-00000.index.json").unlink()
    (tmp_path / MANIFEST).unlink()
    write(NumberSource(), tmp_path, workers=1)
    assert contents(tmp_path) == expected


def test_damage_of_a_complete_shard_is_found_when_the_build_continues(tmp_path: Path) -> None:
    write(NumberSource(), tmp_path, workers=1)
    path = tmp_path / "train-00000.tar"
    data = bytearray(path.read_bytes())
    position = data.index(make_sample(3).regions.tobytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"train-00000.tar: does not match its index; delete both"):
        write(NumberSource(), tmp_path, workers=1)


def test_folder_of_another_build_is_refused(tmp_path: Path) -> None:
    write(NumberSource(), tmp_path, workers=1)
    with pytest.raises(
        ShardError, match=r"build of other input .different: .*samples_per_shard.*splits"
    ):
        write(NumberSource({"train": 8}), tmp_path, samples_per_shard=3, workers=1)
    (tmp_path / BUILD_SETTINGS).write_text("{}")
    with pytest.raises(ShardError, match="build of other input"):
        write(NumberSource(), tmp_path, workers=1)
    (tmp_path / BUILD_SETTINGS).write_text("[]")
    with pytest.raises(ShardError, match=r"build.json: not in the format: .*; delete it and the"):
        write(NumberSource(), tmp_path, workers=1)
    (tmp_path / BUILD_SETTINGS).unlink()
    with pytest.raises(ShardError, match=f"tars but no {BUILD_SETTINGS}"):
        write(NumberSource(), tmp_path, workers=1)


NO_CAPTIONS = {"captions": (), "tokens": (), "grounding": None}
WIDE = np.array([[1.0, 2, 3, 4, 5]], np.float16)
INFINITE = np.array([[1.0, 2, np.inf, 4]], np.float16)
OUTSIDE = np.array([[0, 0, 1.01, 1]], np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (NO_CAPTIONS, r"000000000003 \(image 3\): no captions, which images of split train need"),
        ({"captions": ("Hm .",), "tokens": ((),)}, r"caption 'Hm \.' has no tokens"),
        ({"regions": WIDE}, r"regions of shape \(1, 5\), expected \(R, 4\)"),
        ({"regions": INFINITE}, "not finite"),
        ({"boxes": OUTSIDE}, r"boxes exceed \[0, 1\]"),
        ({"split": "val"}, "has split 'val' but was loaded for split 'train'"),
        ({"key": "000000000006"}, "train-00001.tar: key 000000000006 is also in train-00000.tar"),
        ({"key": "k" * 120}, "choose a shorter key"),
    ],
)
def test_invalid_sample_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    source = ChangedSource(change=tuple(change.items()))
    with pytest.raises(ShardError, match=message):
        write(source, tmp_path, samples_per_shard=4, workers=1)
    assert not (tmp_path / MANIFEST).exists()


def test_error_in_a_worker_process_is_raised(tmp_path: Path) -> None:
    source = ChangedSource(change=tuple(NO_CAPTIONS.items()))
    with pytest.raises(ShardError, match=r"image 3.*no captions"):
        write(source, tmp_path, workers=2)
    assert not (tmp_path / MANIFEST).exists()


def test_test_images_need_no_captions(tmp_path: Path) -> None:
    source = ChangedSource({"test": 5}, change=tuple(NO_CAPTIONS.items()))
    assert write(source, tmp_path, workers=1).shards[0].captions == 8


def test_empty_source_and_empty_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no samples in any split"):
        write(NumberSource({"train": 0}), tmp_path)
    with pytest.raises(ShardError, match="--samples-per-shard 0"):
        write(NumberSource(), tmp_path, samples_per_shard=0)
