"""Concepts for other shards: ``python launcher/concepts.py --run runs/glied --shards DIR``.

The detector of a run's stage mil reads any shards of the same features; the concepts are written
beside their tars. Those of the run's own shards are predicted already:
``python -m shards concepts --run DIR`` puts them there.
"""

import argparse
import sys
from pathlib import Path

from capdist.config.base import ConfigError
from capdist.distributed.process_group import ProcessGroup, RendezvousError, end_process
from capdist.inference.concept_prediction import Detector
from shards.manifest import Manifest
from shards.schema import ShardError


def main() -> int:
    """Read the command line and predict; 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--shards", required=True, help="folder of shards")
    parser.add_argument("--top", type=int, help="best concepts an image keeps; as in the run")
    args = parser.parse_args()
    if args.top is not None and args.top < 1:
        parser.error(f"--top {args.top}: an image keeps 1 or more")
    try:
        detector, manifest = Detector.open(args.run), Manifest.load(args.shards)
        kept = detector.stage.kept if args.top is None else args.top
        job = ProcessGroup.join(timeout_s=600)
        detector.write(manifest, manifest.local_folder, kept, job)
        job.leave()
    except (ConfigError, ShardError, RendezvousError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.shards}: {kept} concepts an image, of detector {detector.digest}")
    return 0


if __name__ == "__main__":
    end_process(main())
