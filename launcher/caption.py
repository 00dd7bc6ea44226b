"""Caption images: ``python launcher/caption.py --run runs/glied --shards DIR --out captions.json``.

Images come from shards or from feature files; several runs decode as an ensemble. For the COCO
server, ``--submission NAME --results VAL.json TEST.json --out NAME.zip`` checks and packs results.
"""

import argparse
import sys
from pathlib import Path

from capdist.config.base import ConfigError
from capdist.decoding.beam import DecodingError
from capdist.inference.captioner import Captioner, write_captions
from capdist.reporting.submission import SubmissionError, write_submission
from shards.schema import ShardError


def main() -> int:
    """Read the command line and caption, or pack results; 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, nargs="+", help="folders that train.py wrote")
    parser.add_argument("--shards", help="folder of shards")
    parser.add_argument("--split", default="test", help="of the shards")
    parser.add_argument("--features", help="feature files, a path or a glob, instead of shards")
    parser.add_argument("--beam", type=int, help="hypotheses an image, instead of the config's")
    parser.add_argument("--forced", type=Path, help="JSON of words that images' captions must have")
    parser.add_argument("--n-best", type=int, default=1, help="captions an image, with scores")
    parser.add_argument("--submission", metavar="NAME", help="pack results for the COCO server")
    parser.add_argument("--results", type=Path, nargs=2, metavar=("VAL", "TEST"))
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    try:
        if args.submission:
            if not args.results:
                parser.error("--submission packs --results VAL TEST")
            write_submission(args.submission, *args.results, args.out)
        else:
            if not args.run or bool(args.shards) == bool(args.features):
                parser.error("give --run, and either --shards or --features")
            caption(args)
    except (ConfigError, ShardError, DecodingError, SubmissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(args.out)
    return 0


def caption(args: argparse.Namespace) -> None:
    """Caption as the command line says."""
    captioner = Captioner.open(args.run, args.beam, args.forced)
    if args.n_best > captioner.decoding.beam:
        raise ConfigError(
            f"--n-best {args.n_best} is more than the {captioner.decoding.beam} hypotheses of an "
            f"image; give --beam {args.n_best}"
        )
    if args.shards:
        found = captioner.of_shards(args.shards, args.split)
    else:
        found = captioner.of_features(args.features)
    write_captions(args.out, found, args.n_best)


if __name__ == "__main__":
    sys.exit(main())
