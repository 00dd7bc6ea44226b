"""The command line of launcher/bench.py."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from capdist.arguments import ArgumentParser, positive
from capdist.errors import exit_status
from shards.atomic import write_text
from shards.outputs import check_output_file
from shards.progress import wants_json


def main() -> int:
    """Run the benchmark on the command line.

    Returns:
        The exit status, by `capdist.errors.exit_status`.
    """
    args = new_parser().parse_args()
    return exit_status(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, and write JSON and Markdown if asked for."""
    wants_json()  # refuses another value of its variable before the work
    for path in filter(None, (args.json, args.page)):
        check_output_file(path)
    figures = args.measure(args)
    print(figures.table())
    if args.json:
        write_text(args.json, json.dumps(figures.to_json(), indent=1) + "\n")
        print(args.json)
    if args.page:
        write_text(args.page, figures.page(shlex.join(["python", *sys.argv])))
        print(args.page)
    return 0


def new_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python launcher/bench.py",
        description="Measure speed, always compared with a peer or a bound of the same run.",
    )
    benchmarks = parser.add_subparsers(metavar="benchmark", required=True)
    decode = benchmarks.add_parser("decode", help="beam search against the bare model and a peer")
    decode.set_defaults(measure=measure_decode)
    decode.add_argument("--model", default="glied", help="registered model, random weights")
    decode.add_argument("--batch", type=positive, default=50, help="images decoded at a time")
    decode.add_argument("--beam", type=positive, default=3, help="hypotheses per image")
    reward = benchmarks.add_parser("reward", help="CIDEr-D against pycocoevalcap's Cider")
    reward.set_defaults(measure=measure_reward)
    reward.add_argument(
        "--images", type=positive, default=5000, help="with one caption to score each"
    )
    gpu = benchmarks.add_parser("gpu", help="beam step and searches against the GPU's limits")
    gpu.set_defaults(measure=measure_gpu)
    gpu.add_argument("--model", default="glied", help="registered model, random weights")
    order = benchmarks.add_parser("order", help="order of samples against a full permutation")
    order.set_defaults(measure=measure_order)
    order.add_argument(
        "--samples", type=positive, default=10**8, help="samples of an epoch to start"
    )
    order.add_argument(
        "--images", type=positive, default=113_287, help="images to mix (COCO's number)"
    )
    load = benchmarks.add_parser("load", help="the readers against other ways to read")
    load.set_defaults(measure=measure_load)
    load.add_argument(
        "--images", type=positive, default=8192, help="with 36 x 2048 fp16 regions each"
    )
    scale = benchmarks.add_parser(
        "scale", help="a cost model against timed steps, and its predictions to 1,024 GPUs"
    )
    scale.set_defaults(measure=measure_scale)
    scale.add_argument("--model", default="glied", help="registered model, random weights")
    neighbour = benchmarks.add_parser("neighbour", help="training beside a busy process")
    neighbour.set_defaults(measure=measure_neighbour)
    features = benchmarks.add_parser(
        "features", help="the words that captions lack against those that a linear model finds"
    )
    features.set_defaults(measure=measure_features)
    features.add_argument("--shards", required=True, help="folder of shards with concepts")
    features.add_argument("--split", default="val", help="with captions")
    features.add_argument("--captions", required=True, type=Path, help="file of COCO results")
    serve = benchmarks.add_parser("serve", help="capdist serve against the captioner alone")
    serve.set_defaults(measure=measure_serve)
    serve.add_argument("--run", type=Path, required=True, help="run that captions photographs")
    serve.add_argument("--images", type=Path, required=True, help="folder of photographs")
    serve.add_argument("--clients", type=positive, default=64, help="that send at the same time")
    serve.add_argument("--seconds", type=positive, default=60, help="of the clients' time")
    train = benchmarks.add_parser("train", help="training steps against plain PyTorch loops")
    train.set_defaults(measure=measure_train)
    train.add_argument("--model", default="glied", help="name of a config in configs/")
    train.add_argument("--stage", choices=["xe", "scst"], default="xe", help="objective")
    train.add_argument(
        "--compare",
        choices=["programs", "means", "zero"],
        default="programs",
        help="programs: plain loops and Trainer; means: what each of ours brings alone; zero: "
        "DeepSpeed's ZeRO stages",
    )
    train.add_argument("--images", type=positive, help="of a rank in a step (8; on a GPU 64)")
    start = benchmarks.add_parser("start", help="seconds and memory until the first step")
    start.set_defaults(measure=measure_start)
    start.add_argument(
        "--images", type=positive, default=10**5, help="largest number of training images"
    )
    for benchmark in (
        decode,
        reward,
        gpu,
        order,
        load,
        scale,
        neighbour,
        features,
        serve,
        train,
        start,
    ):
        benchmark.add_argument("--json", type=Path, help="file to write the figures to as JSON")
        benchmark.add_argument("--page", type=Path, help="file to write them to as Markdown")
    return parser


# Each imports its benchmark when it runs, so that the others need none of its packages.


def measure_decode(args: argparse.Namespace) -> Any:
    from benchmarks.decode import Setting, measure

    return measure(Setting(args.model, args.batch, args.beam))


def measure_reward(args: argparse.Namespace) -> Any:
    from benchmarks.reward import measure

    return measure(args.images)


def measure_load(args: argparse.Namespace) -> Any:
    from benchmarks.load import measure

    return measure(args.images)


def measure_gpu(args: argparse.Namespace) -> Any:
    from benchmarks.gpu import measure

    return measure(args.model)


def measure_order(args: argparse.Namespace) -> Any:
    from benchmarks.order import measure

    return measure(args.samples, args.images)


def measure_neighbour(args: argparse.Namespace) -> Any:
    from benchmarks.neighbour import measure

    return measure()


def measure_serve(args: argparse.Namespace) -> Any:
    from benchmarks.serve import Setting, measure

    return measure(Setting(args.run, args.images, args.clients, args.seconds))


def measure_scale(args: argparse.Namespace) -> Any:
    from benchmarks.scale import measure

    return measure(args.model)


def measure_start(args: argparse.Namespace) -> Any:
    from benchmarks.start import measure

    return measure(args.images)


def measure_features(args: argparse.Namespace) -> Any:
    from benchmarks.features import measure

    return measure(args.shards, args.split, args.captions)


def measure_train(args: argparse.Namespace) -> Any:
    from benchmarks.train import measure

    return measure(args.model, args.stage, args.images, args.compare)
