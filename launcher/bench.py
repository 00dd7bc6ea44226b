"""Measured speed, each figure beside a peer or a floor of the same run."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from capdist.config.base import ConfigError


def main() -> int:
    """Read the command line, measure, print a table and write JSON; 2 on bad input."""
    args = read_arguments()
    try:
        figures = args.measure(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(figures.table())
    if args.json:
        args.json.write_text(json.dumps(figures.to_json(), indent=1) + "\n")
        print(args.json)
    if args.page:
        args.page.write_text(figures.page(" ".join(["python", *sys.argv])))
        print(args.page)
    return 0


def read_arguments() -> argparse.Namespace:
    """What to measure, with its own options, and where to write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    subjects = parser.add_subparsers(metavar="what", required=True)
    decode = subjects.add_parser("decode", help="beam search beside the bare model and a peer")
    decode.set_defaults(measure=measure_decode)
    decode.add_argument("--model", default="glied", help="registered model, random weights")
    decode.add_argument("--batch", type=int, default=50, help="images decoded at a time")
    decode.add_argument("--beam", type=int, default=3)
    reward = subjects.add_parser("reward", help="CIDEr-D beside pycocoevalcap's Cider")
    reward.set_defaults(measure=measure_reward)
    reward.add_argument("--images", type=int, default=5000, help="with one caption to score each")
    gpu = subjects.add_parser("gpu", help="the beam step and searches beside the GPU's ceilings")
    gpu.set_defaults(measure=measure_gpu)
    gpu.add_argument("--model", default="glied", help="registered model, random weights")
    order = subjects.add_parser("order", help="the order of samples beside a permutation of all")
    order.set_defaults(measure=measure_order)
    order.add_argument("--samples", type=int, default=10**8, help="that an epoch starts with")
    order.add_argument("--images", type=int, default=113_287, help="that are mixed; COCO's")
    load = subjects.add_parser("load", help="the readers beside other ways to read")
    load.set_defaults(measure=measure_load)
    load.add_argument("--images", type=int, default=8192, help="of 36 x 2048 fp16 regions")
    scale = subjects.add_parser(
        "scale", help="a model of a step's cost beside steps, to 1,024 GPUs"
    )
    scale.set_defaults(measure=measure_scale)
    scale.add_argument("--model", default="glied", help="registered model, random weights")
    for subject in (decode, reward, gpu, order, load, scale):
        subject.add_argument("--json", type=Path, help="where to write the figures")
        subject.add_argument("--page", type=Path, help="where to write them as Markdown")
    return parser.parse_args()


def measure_decode(args: argparse.Namespace) -> Any:
    """Decoding, of one setting."""
    from benchmarks.decode import Setting, measure

    return measure(Setting(args.model, args.batch, args.beam))


def measure_reward(args: argparse.Namespace) -> Any:
    """Scoring, on one core."""
    from benchmarks.reward import measure

    return measure(args.images)


def measure_load(args: argparse.Namespace) -> Any:
    """Reading, on one core.

    Raises:
        ConfigError: if there is nothing to read, or a package is missing.
    """
    from benchmarks.load import measure

    return measure(args.images)


def measure_gpu(args: argparse.Namespace) -> Any:
    """The kernel and whole searches, in bf16.

    Raises:
        ConfigError: if there is no GPU.
    """
    from benchmarks.gpu import measure

    return measure(args.model)


def measure_order(args: argparse.Namespace) -> Any:
    """What starting an epoch costs, and how well it mixes."""
    from benchmarks.order import measure

    return measure(args.samples, args.images)


def measure_scale(args: argparse.Namespace) -> Any:
    """Steps on this machine, and the model's tables.

    Raises:
        ConfigError: if there is no such model.
    """
    from benchmarks.scale import measure

    return measure(args.model)


if __name__ == "__main__":
    sys.exit(main())
