"""A sample that is damaged in mid-epoch stops all ranks, or is left out by all."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.manifest import Manifest
from tests.support.processes import environment, free_port
from tests.support.runs import losses, records, refused, train


def on_two_ranks(config: Path, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    with ThreadPoolExecutor(2) as pool:
        starts = [
            pool.submit(train, config, *arguments, env=environment(**place, RANK=r, LOCAL_RANK=r))
            for r in "01"
        ]
        return [start.result() for start in starts]


def test_all_ranks_stop_or_all_go_on(config: Path, tiny: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "shards"
    shutil.copytree(tiny.root, root)
    shard = tiny.split("train")[1]
    entry, tar = tiny.index(shard)[3], root / shard.name
    data = bytearray(tar.read_bytes())
    data[entry.members["regions.npy"].offset + 130] ^= 1
    tar.write_bytes(data)
    settings = ["--set", f"data.shards={root}"]
    first, other = on_two_ranks(config, *settings)
    line = refused(first)
    assert f"{tar}: sample {entry.key}: regions.npy: checksum mismatch" in line
    assert "--set data.max_bad_samples=1 or more" in line
    # One rank says it for all, whichever met it.
    assert (other.returncode, "error" in other.stderr) == (2, False)
    done = len(losses(tmp_path / "run"))
    assert done < 4
    assert f"step {done + 1}: " in line
    assert ("Continue with --resume auto" in line) == (done > 0)

    lenient = ["--resume", "auto", "--set", "data.max_bad_samples=1"]
    first, other = on_two_ranks(config, *settings, *lenient)
    assert (first.returncode, other.returncode) == (0, 0), first.stderr
    assert len(losses(tmp_path / "run")) == 8
    left_out = [r for r in records(tmp_path / "run") if "lost" in r]
    assert [int((r["step"] - 1) / 4) for r in left_out] == [0, 1]  # once in each epoch
    assert left_out[0]["step"] == done + 1
    assert all(f"sample {entry.key}" in line for r in left_out for line in r["lost"])
    assert first.stderr.count("left out: ") == 2
