"""Score a trained model: ``python launcher/evaluate.py --run runs/glied --split test``."""

import argparse
import sys
from pathlib import Path

from capdist.config import ConfigError
from capdist.decoding.beam import DecodingError
from capdist.metrics.coco import ScoreError
from capdist.reporting.journal import JournalError
from capdist.training.evaluation import Evaluation
from shards.schema import ShardError


def main() -> int:
    """Read the command line and evaluate; 0 when it is done, 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder that train.py wrote")
    parser.add_argument("--split", default="test")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best")
    parser.add_argument("--beam", type=int, help="hypotheses an image, instead of the config's")
    parser.add_argument(
        "--grounding",
        action="store_true",
        help="also score where the model looked (F1_all, F1_loc); published: --beam 1",
    )
    args = parser.parse_args()
    try:
        Evaluation.open(
            args.run, args.split, args.checkpoint, args.beam, grounding=args.grounding
        ).evaluate()
    except (ConfigError, ShardError, ScoreError, JournalError, DecodingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
