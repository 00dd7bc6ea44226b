"""Writes a data set as shards: in parallel, resumable, the same bytes every time.

A `shards.jobs.SampleSource` lists the samples of each split and loads any slice of them::

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

A build that was stopped continues: complete shards are kept, and the manifest is written last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from shards.atomic import remove_temporary_files, write_json
from shards.build_settings import BUILD_SETTINGS, load_build_settings
from shards.caption_counts import counts_name
from shards.concept_predictor import write_predictor
from shards.count_captions import count_captions
from shards.feature_sets import OWN, FeatureSet, check_name
from shards.feature_spec import FeatureSpec
from shards.fingerprint import Moments
from shards.folder_lock import folder_lock
from shards.jobs import SampleSource, ShardJob, WrittenShard, predicates_of, write_shard
from shards.listed_file import ListedFile
from shards.manifest import MANIFEST, Manifest
from shards.parallel import parallel_map
from shards.schema import SCHEMA_VERSION, ShardError
from shards.tokenisers import ENGLISH_TEXT, CaptionText

__all__ = ["SampleSource", "write"]


def write(
    source: SampleSource,
    root: Path | str,
    *,
    samples_per_shard: int = 256,
    workers: int | None = None,
    left_out: Sequence[str] = (),
    text: CaptionText = ENGLISH_TEXT,
    predictor: bytes | None = None,
    own: str = OWN,
) -> Manifest:
    """Write a source as ``<split>-<number>.tar`` files with indices and a manifest.

    Args:
        source: the data set.
        root: the folder, made if it does not exist. A stopped build of the same source continues.
        samples_per_shard: of all shards except the last of each split.
        workers: processes, one per CPU by default; with 1, everything runs in this process.
        left_out: what is wrong with each image or caption that the source leaves out, for the
            manifest.
        text: tokeniser and language of the captions.
        predictor: the file of the predictor that made the samples' concepts.
        own: name of the samples' features, as a feature set.

    Raises:
        ShardError: if the folder holds something else, a sample is not valid, or two samples have
            the same key.
        CapdistError: if another process writes to the folder.
    """
    root = Path(root)
    splits = source.splits()
    settings = _build_settings(source, splits, samples_per_shard)
    root.mkdir(parents=True, exist_ok=True)
    with folder_lock(root, "writing to", "choose another folder"):
        _prepare_folder(root, settings)
        jobs = list(_jobs(root, splits, samples_per_shard))
        written = parallel_map(partial(write_shard, source), jobs, workers, "writing", "shard")
        _check_unique_keys(written)
        shards = tuple(result.shard for result in written)
        manifest = Manifest(
            root,
            source.name,
            _features(source, written),
            shards,
            source.class_names,
            tuple(left_out),
            text=text,
            tar_predictor=write_predictor(predictor, root) if predictor else None,
            predicates=predicates_of(source),
            own=check_name(own),
        )
        manifest = replace(manifest, further=_kept_sets(manifest))
        if splits.get("train"):
            manifest = replace(manifest, counts=_write_counts(manifest, workers))
        write_json(root / MANIFEST, manifest.to_json())
        return manifest


def _kept_sets(manifest: Manifest) -> tuple[FeatureSet, ...]:
    """The feature sets that were added to the same shards after an earlier build of them.

    A manifest that can't be read is written anew; its sets are added again from their own tars.
    """
    try:
        known = Manifest.load(manifest.root)
    except ShardError:
        return ()
    return known.further if known.sha256_by_shard == manifest.sha256_by_shard else ()


def _write_counts(manifest: Manifest, workers: int | None) -> ListedFile | None:
    """Count the training captions, so that training need not; None if it would refuse them."""
    path = manifest.root / counts_name("train")
    if count_captions(manifest, "train", path, workers) is None:
        return None
    return ListedFile(path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def _features(source: SampleSource, written: list[WrittenShard]) -> FeatureSpec:
    return replace(
        source.features,
        max_regions=max(result.max_regions for result in written),
        fingerprint=Moments.total([result.moments for result in written]).fingerprint(),
    )


def _build_settings(
    source: SampleSource, splits: dict[str, Sequence[Any]], samples_per_shard: int
) -> dict[str, Any]:
    """Everything that the bytes of the shards depend on: the content of ``build.json``."""
    if samples_per_shard < 1:
        raise ShardError(f"--samples-per-shard {samples_per_shard}: expected 1 or more")
    if not any(splits.values()):
        raise ShardError(f"{source.name}: no samples in any split; give at least one image")
    return {
        "schema_version": SCHEMA_VERSION,
        "name": source.name,
        "feature_name": source.features.name,
        "feature_dim": source.features.dim,
        "fingerprint": source.fingerprint(),
        "samples_per_shard": samples_per_shard,
        "splits": {split: len(ids) for split, ids in splits.items()},
    }


def _prepare_folder(root: Path, settings: dict[str, Any]) -> None:
    """Refuse the folder of another build; remove the temporary files of a stopped one."""
    path = root / BUILD_SETTINGS
    existing = load_build_settings(path)
    if existing is not None:
        if differing := [name for name in settings if existing.get(name) != settings[name]]:
            raise ShardError(
                f"{root}: holds a build of other input (different: {', '.join(differing)}); "
                "choose another --out, or delete the folder"
            )
    elif any(root.glob("*.tar")):
        raise ShardError(
            f"{root}: holds tars but no {BUILD_SETTINGS}, so they are of another build; choose "
            "another --out"
        )
    remove_temporary_files(root)
    write_json(path, settings)


def _jobs(
    root: Path, splits: dict[str, Sequence[Any]], samples_per_shard: int
) -> Iterator[ShardJob]:
    for split, ids in splits.items():
        for number, start in enumerate(range(0, len(ids), samples_per_shard)):
            path = root / f"{split}-{number:05d}.tar"
            yield ShardJob(path, split, ids[start : start + samples_per_shard])


def _check_unique_keys(written: list[WrittenShard]) -> None:
    shard_of_key: dict[str, str] = {}
    for result in written:
        for key in result.keys:
            if key in shard_of_key:
                raise ShardError(
                    f"{result.shard.name}: key {key} is also in {shard_of_key[key]}; give each "
                    "image an id of its own"
                )
            shard_of_key[key] = result.shard.name
