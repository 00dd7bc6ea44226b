"""Concepts of existing shards, by the predictor that a build saved."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from shards.concept_files import ConceptFile, ConceptSet, write_concept_file
from shards.concept_predictor import (
    PREDICTOR,
    ConceptPredictor,
    parse_predictor,
    write_predictor,
)
from shards.location import folder_at
from shards.manifest import MANIFEST, Manifest
from shards.parallel import parallel_map
from shards.schema import ShardError, decode
from shards.shard import Shard
from shards.tar import read_tar

#: What to do where a set or a run has no predictor.
REMEDY = (
    "if an older version built them, run the build command of the training shards again: it keeps "
    "all complete shards and adds the predictor"
)


def open_predictor(location: str) -> bytes:
    """The bytes of the concept predictor of a run, or of a set of shards.

    Args:
        location: the run's folder, or the folder or URL of the shards.

    Raises:
        ShardError: if there is none.
    """
    data = find_predictor(location)
    if data is None:
        raise ShardError(
            f"{location}: no concept predictor, expected the folder of a run, or of shards, that "
            f"has one; {REMEDY}. For a detector (stage 'mil'), use: capdist concepts"
        )
    return data


def find_predictor(location: str) -> bytes | None:
    """As `open_predictor`; None if there is none."""
    in_run = Path(location) / PREDICTOR
    if in_run.is_file():
        return in_run.read_bytes()
    if folder_at(location).read(MANIFEST) is None:
        return None
    return Manifest.load(location).read_predictor()


def predict_concepts(
    manifest: Manifest,
    location: str,
    top: int | None,
    workers: int | None = None,
    *,
    accept_features: bool = False,
) -> ConceptSet:
    """Write a predictor's concepts of all samples next to their tars.

    Args:
        manifest: of the shards.
        location: of the predictor, as in `open_predictor`.
        top: concepts to keep per image, the best first; None: as many as the build kept,
            or all.
        workers: processes, one per CPU by default.
        accept_features: also features with other statistics, which ``concepts.json`` then records.

    Raises:
        ShardError: if there is no predictor, it was fitted on features of another width or
            extractor, it has fewer words than ``top``, or the shards are damaged or on a server.
    """
    data, root = open_predictor(location), manifest.local_folder
    predictor = parse_predictor(location, data)
    if not accept_features:
        otherwise = ", or accept these by --accept-features"
        predictor.check(manifest.location, manifest.features.fingerprint, otherwise)
    kept = min(predictor.kept, len(predictor.words)) if top is None else top
    if not 1 <= kept <= len(predictor.words):
        raise ShardError(
            f"--top {kept}: the predictor of {location} has {len(predictor.words)} words; choose "
            f"1 to {len(predictor.words)}"
        )
    predict = partial(_predict_shard, manifest, replace(predictor, kept=kept))
    files = parallel_map(predict, manifest.shards, workers, "predicting concepts", "shard")
    names = [shard.name for shard in manifest.shards]
    made_by = {"predictor": location, "words": len(predictor.words)}
    if difference := predictor.features.difference(manifest.features.fingerprint):
        made_by["accepted_features"] = difference
    file = write_predictor(data, root)
    by_shard = dict(zip(names, files, strict=True))
    concepts = ConceptSet(root, file.identity, made_by, kept, by_shard, file)
    concepts.save()
    return concepts


def _predict_shard(manifest: Manifest, predictor: ConceptPredictor, shard: Shard) -> ConceptFile:
    samples = (decode(entry.key, members) for entry, members in read_tar(manifest.tar_path(shard)))
    dequantize = manifest.features.dequantize
    concepts = {sample.key: predictor(dequantize(sample.regions)) for sample in samples}
    return write_concept_file(manifest.root, shard.name, shard.sha256, concepts)
