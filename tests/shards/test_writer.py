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

from shards.manifest import MANIFEST
from shards.schema import Sample, ShardError
from shards.writer import PLAN, write
from tests.support.samples import Changed, Numbers, make_sample


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_manifest_counts_by_hand(tmp_path: Path) -> None:
    manifest = write(Numbers(), tmp_path, samples_per_shard=3, workers=1)
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


def test_processes_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    write(Numbers(), tmp_path / "one", samples_per_shard=2, workers=1)
    write(Numbers(), tmp_path / "two", samples_per_shard=2, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_entries_depend_on_the_samples_alone(tmp_path: Path) -> None:
    write(Numbers(), tmp_path, workers=1)
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
            assert (info.uname, info.gname) == ("", "")


def test_webdataset_reads_the_tars(tmp_path: Path) -> None:
    write(Numbers(), tmp_path, workers=1)
    stream = webdataset.WebDataset(str(tmp_path / "train-00000.tar"), shardshuffle=False)
    samples = list(stream.decode())
    assert [sample["__key__"] for sample in samples] == [f"{i:012d}" for i in range(7)]
    np.testing.assert_array_equal(samples[4]["regions.npy"], make_sample(4).regions)
    assert samples[4]["json"]["captions"] == list(make_sample(4).captions)


class Slow(Numbers):
    """Takes its time over every sample, so that it can be killed half way."""

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            time.sleep(0.05)
            yield sample


def write_slowly(root: Path) -> None:
    write(Slow({"train": 40}), root, samples_per_shard=3, workers=1)


def test_killed_build_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    root = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(target=write_slowly, args=(root,))
    process.start()
    while not (root / "train-00001.tar").exists():
        time.sleep(0.01)
    time.sleep(0.03)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    kept = {path.name: path.stat().st_mtime_ns for path in root.glob("*.tar")}
    assert 2 <= len(kept) < 14
    assert not (root / MANIFEST).exists()
    assert list(root.glob(".*.tmp"))
    write(Numbers({"train": 40}), root, samples_per_shard=3, workers=1)
    write(Numbers({"train": 40}), tmp_path / "whole", samples_per_shard=3, workers=1)
    assert contents(root) == contents(tmp_path / "whole")
    assert all((root / name).stat().st_mtime_ns == time for name, time in kept.items())


def test_tar_without_its_index_is_written_again(tmp_path: Path) -> None:
    write(Numbers(), tmp_path, workers=1)
    whole = contents(tmp_path)
    (tmp_path / "val-00000.index.json").unlink()
    (tmp_path / MANIFEST).unlink()
    write(Numbers(), tmp_path, workers=1)
    assert contents(tmp_path) == whole


def test_kept_shard_that_was_damaged_is_refused(tmp_path: Path) -> None:
    write(Numbers(), tmp_path, workers=1)
    path = tmp_path / "train-00000.tar"
    data = bytearray(path.read_bytes())
    at = data.index(make_sample(3).regions.tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"train-00000.tar: differs from its index; delete both"):
        write(Numbers(), tmp_path, workers=1)


def test_folder_of_another_build_is_refused(tmp_path: Path) -> None:
    write(Numbers(), tmp_path, workers=1)
    with pytest.raises(ShardError, match=r"build of other input.*samples_per_shard.*splits"):
        write(Numbers({"train": 8}), tmp_path, samples_per_shard=3, workers=1)
    (tmp_path / PLAN).unlink()
    with pytest.raises(ShardError, match=f"tars but no {PLAN}"):
        write(Numbers(), tmp_path, workers=1)


NO_CAPTIONS = {"captions": (), "tokens": (), "grounding": None}
WIDE = np.array([[1.0, 2, 3, 4, 5]], np.float16)
INFINITE = np.array([[1.0, 2, np.inf, 4]], np.float16)
OUTSIDE = np.array([[0, 0, 1.01, 1]], np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (NO_CAPTIONS, r"000000000003 \(image 3\): an image without captions in split train"),
        ({"captions": ("Hm .",), "tokens": ((),)}, r"caption 'Hm \.' has no tokens"),
        ({"regions": WIDE}, r"regions of shape \(1, 5\), expected \(R, 4\)"),
        ({"regions": INFINITE}, "not finite"),
        ({"boxes": OUTSIDE}, "boxes reach outside"),
        ({"split": "val"}, "says split 'val' but is listed in 'train'"),
        ({"key": "000000000006"}, "key 000000000006 is in train-00000.tar and in train-00001.tar"),
        ({"key": "k" * 120}, "choose a shorter key"),
    ],
)
def test_odd_sample_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    source = Changed(change=tuple(change.items()))
    with pytest.raises(ShardError, match=message):
        write(source, tmp_path, samples_per_shard=4, workers=1)
    assert not (tmp_path / MANIFEST).exists()


def test_error_comes_out_of_a_worker_process(tmp_path: Path) -> None:
    source = Changed(change=tuple(NO_CAPTIONS.items()))
    with pytest.raises(ShardError, match=r"image 3.*without captions"):
        write(source, tmp_path, workers=2)
    assert not (tmp_path / MANIFEST).exists()


def test_test_images_may_lack_captions(tmp_path: Path) -> None:
    source = Changed({"test": 5}, change=tuple(NO_CAPTIONS.items()))
    assert write(source, tmp_path, workers=1).shards[0].captions == 8


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no samples in any split"):
        write(Numbers({"train": 0}), tmp_path)
    with pytest.raises(ShardError, match="samples per shard is 0"):
        write(Numbers(), tmp_path, samples_per_shard=0)
