"""Writes a source as shards: in parallel, resumable, the same bytes every time.

A source (`shards.jobs.Source`) says which samples each split has and loads any slice of them::

    class Squares:
        name = "squares"
        features = FeatureSpec("ones", dim=4, max_regions=0)
        class_names = ()

        def fingerprint(self) -> str:
            return "squares-v1"

        def splits(self) -> dict[str, Sequence[int]]:
            return {"train": range(1000), "val": range(1000, 1100)}

        def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
            for i in ids:
                yield Sample(key=f"{i:012d}", image_id=i, split=split, ...)

    write(Squares(), "out/squares", samples_per_shard=256, workers=4)

A build that was stopped goes on where it was: complete shards are kept, and the manifest is
written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from shards.atomic import remove_temporaries, write_json
from shards.feature_spec import FeatureSpec
from shards.fingerprint import Moments
from shards.jobs import ShardJob, Source, Written, do
from shards.manifest import MANIFEST, Manifest
from shards.parallel import run
from shards.schema import SCHEMA_VERSION, ShardError

__all__ = ["Source", "write"]

PLAN = "build.json"


def write(
    source: Source,
    root: Path | str,
    *,
    samples_per_shard: int = 256,
    workers: int | None = None,
    left_out: Sequence[str] = (),
) -> Manifest:
    """Write a source as ``<split>-<number>.tar`` files with indices and a manifest.

    Args:
        source: what to write.
        root: the folder; made if need be. A stopped build of the same source goes on.
        samples_per_shard: samples of each shard but a split's last.
        workers: processes, one for each CPU by default; 1 works in this process.
        left_out: what is wrong with each image that the source leaves out, for the manifest.

    Raises:
        ShardError: if the folder holds something else, a sample breaks the format, or two
            samples share a key.
    """
    root = Path(root)
    splits = source.splits()
    _prepare(root, _plan(source, splits, samples_per_shard))
    jobs = list(_jobs(root, splits, samples_per_shard))
    written = run(partial(do, source), jobs, workers, "writing", "shard")
    _refuse_duplicates(written)
    shards = tuple(done.shard for done in written)
    manifest = Manifest(
        root, source.name, _features(source, written), shards, source.class_names, tuple(left_out)
    )
    write_json(root / MANIFEST, manifest.to_json())
    return manifest


def _features(source: Source, written: list[Written]) -> FeatureSpec:
    return replace(
        source.features,
        max_regions=max(done.max_regions for done in written),
        fingerprint=Moments.total([done.moments for done in written]).fingerprint(),
    )


def _plan(
    source: Source, splits: dict[str, Sequence[Any]], samples_per_shard: int
) -> dict[str, Any]:
    """Everything the shards' bytes depend on, as ``build.json`` keeps it."""
    if samples_per_shard < 1:
        raise ShardError(f"samples per shard is {samples_per_shard}, expected 1 or more")
    if not any(splits.values()):
        raise ShardError(f"{source.name}: no samples in any split; there is nothing to write")
    return {
        "schema_version": SCHEMA_VERSION,
        "name": source.name,
        "feature_name": source.features.name,
        "feature_dim": source.features.dim,
        "fingerprint": source.fingerprint(),
        "samples_per_shard": samples_per_shard,
        "splits": {split: len(ids) for split, ids in splits.items()},
    }


def _prepare(root: Path, plan: dict[str, Any]) -> None:
    """Make the folder ready: refuse another build's, clear what a stopped one left half-written."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / PLAN
    if path.is_file():
        found = json.loads(path.read_bytes())
        if differing := [name for name in plan if found.get(name) != plan[name]]:
            raise ShardError(
                f"{root}: folder holds a build of other input (other {', '.join(differing)}); "
                "choose another --out or delete it"
            )
    elif any(root.glob("*.tar")):
        raise ShardError(f"{root}: folder holds tars but no {PLAN}; choose another --out")
    remove_temporaries(root)
    write_json(path, plan)


def _jobs(
    root: Path, splits: dict[str, Sequence[Any]], samples_per_shard: int
) -> Iterator[ShardJob]:
    for split, ids in splits.items():
        for number, start in enumerate(range(0, len(ids), samples_per_shard)):
            path = root / f"{split}-{number:05d}.tar"
            yield ShardJob(path, split, ids[start : start + samples_per_shard])


def _refuse_duplicates(written: list[Written]) -> None:
    seen: dict[str, str] = {}
    for done in written:
        for key in done.keys:
            if key in seen:
                raise ShardError(
                    f"key {key} is in {seen[key]} and in {done.shard.name}; keys must be unique"
                )
            seen[key] = done.shard.name
