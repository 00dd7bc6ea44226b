"""Train a captioning model: ``deepspeed launcher/train.py --config configs/glied.json``.

Runs under the deepspeed launcher, under any launcher that sets RANK, LOCAL_RANK and WORLD_SIZE,
or alone as plain ``python launcher/train.py``.
"""

import argparse
import sys

from capdist.config.base import ConfigError
from capdist.config.run_config import load_config
from capdist.decoding.beam import DecodingError
from capdist.distributed.process_group import (
    OtherRankError,
    RendezvousError,
    end_process,
    lost_rank,
)
from capdist.metrics.coco import ScoreError
from capdist.reporting.metrics_log import MetricsLogError
from capdist.signals import STOPPED
from capdist.training.checkpoint import CheckpointError
from capdist.training.run import train
from capdist.training.trainer import TrainingError
from capdist.workers.base import PoolError
from shards.schema import ShardError

#: What is said in one line.
REFUSALS = (
    ConfigError,
    ShardError,
    TrainingError,
    CheckpointError,
    DecodingError,
    MetricsLogError,
    ScoreError,
    PoolError,
    RendezvousError,
)


def main() -> int:
    """Read the command line and train.

    0 when all stages are done, 75 when a signal stopped it with all saved, 2 where it can't go on.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="JSON file; configs/ has examples")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override any value of the config, e.g. stages.0.epochs=2; may be repeated",
    )
    parser.add_argument(
        "--resume",
        choices=["never", "auto"],
        default="never",
        help="auto: go on from the run folder's last checkpoint, if it has one",
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the launcher's
    args = parser.parse_args()
    try:
        config = load_config(args.config, args.set)
        done = train(config, args.config, resume=args.resume == "auto")
    except OtherRankError:
        return 2
    except REFUSALS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not lost_rank(error):
            raise
        print(
            "error: another rank is gone: it said why, or was killed (out of memory?); "
            "go on by --resume auto",
            file=sys.stderr,
        )
        return 2
    return 0 if done else STOPPED


if __name__ == "__main__":
    end_process(main())
