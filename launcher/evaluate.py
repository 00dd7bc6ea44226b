"""Score a trained model: ``python launcher/evaluate.py --run runs/glied --split test``.

On a cluster: ``ray submit`` and ``ray job submit`` run this file as it is; see docs/evaluation.md.
"""

import argparse
import sys
from pathlib import Path

from capdist.config.base import ConfigError
from capdist.decoding.beam import DecodingError
from capdist.inference.evaluation import Evaluation, EvaluationRequest
from capdist.inference.exported_model import read_run
from capdist.inference.follow import Follower
from capdist.metrics.coco import ScoreError
from capdist.reporting.metrics_log import MetricsLogError
from capdist.workers.base import PoolError
from shards.schema import ShardError


def main() -> int:
    """Read the command line and evaluate; 0 when it is done, 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, type=Path, help="folder that train.py wrote")
    parser.add_argument("--split", default="test")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", choices=["best", "last"], default="best")
    which.add_argument(
        "--follow",
        action="store_true",
        help="score each new checkpoint of a training that goes on, until it is finished",
    )
    parser.add_argument("--beam", type=int, help="hypotheses an image, instead of the config's")
    parser.add_argument(
        "--grounding",
        action="store_true",
        help="also score where the model looked (F1_all, F1_loc); published: --beam 1",
    )
    parser.add_argument("--shards", help="where they are, instead of the config's data.shards")
    parser.add_argument("--workers", type=int, default=0, help="decode on Ray; 0: in this process")
    parser.add_argument("--cpus", type=float, default=1.0, help="of one worker, and its threads")
    parser.add_argument("--address", help="of Ray, instead of the config's ray.address")
    args = vars(parser.parse_args())
    follow, checkpoint = args.pop("follow"), args.pop("checkpoint")
    try:
        wanted = EvaluationRequest(**args)
        if follow:
            Follower(wanted).follow()
        else:
            Evaluation.open(wanted, read_run(wanted.run, checkpoint)).evaluate()
    except (
        ConfigError,
        ShardError,
        ScoreError,
        MetricsLogError,
        DecodingError,
        PoolError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
