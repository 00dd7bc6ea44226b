"""``python -m shards concepts``."""

from __future__ import annotations

import argparse
from pathlib import Path

from capdist.arguments import positive
from shards.manifest import Manifest
from shards.outputs import check_output_folder
from shards.schema import ShardError

HELP = """Write concepts next to the tars of shards, which do not change: those that a run's
detector (stage mil) predicted for them, or else those of the concept predictor of a run or of other
shards. Readers use them instead of those in the tars."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", required=True, metavar="DIR", help="folder of the run, or shards with a predictor")
    add(
        "--top",
        type=positive,
        metavar="N",
        help="concepts per image; default: as in the run",
    )
    add("--shards", metavar="DIR", help="folder of the shards; by default, that of the run")
    add(
        "--accept-features",
        action="store_true",
        help="also features with other statistics; recorded with the concepts",
    )


def run(options: argparse.Namespace) -> int:
    from shards.concept_files import CONCEPTS, ConceptSet, install_concepts
    from shards.predict_concepts import predict_concepts

    detected = Path(options.run) / "concepts" / CONCEPTS
    if detected.is_file():
        predicted = ConceptSet.load(detected.parent)
        manifest = Manifest.load(options.shards or predicted.made_by["shards"])
        check_output_folder(manifest.local_folder)
        installed = install_concepts(
            predicted, manifest.local_folder, manifest.sha256_by_shard, options.top
        )
    elif options.shards:
        manifest = Manifest.load(options.shards)
        check_output_folder(manifest.local_folder)
        installed = predict_concepts(
            manifest, options.run, options.top, accept_features=options.accept_features
        )
    else:
        raise ShardError(
            f"{detected}: no such file; expected the folder of a run with a stage 'mil', or the "
            "shards that its concept predictor shall be applied to: --shards DIR"
        )
    print(f"{manifest.root}: {installed.kept} concepts per image, of detector {installed.detector}")
    return 0
