"""``capdist caption``: caption photographs, or the images of shards or feature files.

Several runs decode as an ensemble. For the COCO server, ``--submission NAME --results VAL.json
TEST.json --out NAME.zip`` checks captions that were written before and packs them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from capdist.arguments import count, positive
from capdist.commands.evaluate import decoding_overrides
from capdist.commands.options import add_accept_features, refuse_unused
from capdist.errors import CapdistError
from shards.outputs import check_output_file
from shards.reading import add_reading_options, reading

if TYPE_CHECKING:
    from capdist.inference.captioner import Captioner
    from capdist.inference.photographs import PhotographCaption

HELP = "caption images, or pack captions for the COCO server"


#: Options of feature files, and of models.
_READING = ("layout", "boxes", "clip_boxes")
_OF_FEATURES = (*_READING, "max_bad", "concepts_from")
_OF_MODELS = (
    *("run", "shards", "features", "image", "beam", "set", "forced", "accept_features"),
    "html",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", type=Path, nargs="+", help="run folder of a training; several: an ensemble")
    add("--shards", help="folder of shards")
    add("--split", default="test", help="split of the shards; default: test")
    add("--features", help="feature files instead of shards: a path or a quoted glob")
    add("--image", type=Path, nargs="+", metavar="PHOTO", help="photographs")
    add("--beam", type=positive, help="beam width; default: the config's")
    add(
        "--set",
        action="append",
        default=[],
        metavar="decoding.a=b",
        help="override a decoding setting of the config, e.g. decoding.max_words=16; repeatable",
    )
    add("--forced", type=Path, help="JSON of the words that each image's caption must contain")
    add("--n-best", type=positive, default=1, help="captions per image, with their scores")
    add(
        "--max-bad",
        type=count,
        default=0,
        help="bad images or photographs to leave out",
    )
    add(
        "--concepts-from",
        metavar="DIR",
        help="run or shards whose detector or predictor finds the concepts of feature files; "
        "default: the run",
    )
    add("--submission", metavar="NAME", help="pack results for the COCO server")
    add("--results", type=Path, nargs=2, metavar=("VAL", "TEST"), help="files to be packed")
    add("--out", type=Path, help="file to write; captions of photographs are printed without it")
    add(
        "--html",
        type=Path,
        help="page to write of photographs: captions, alternatives, and what words attended to",
    )
    add_reading_options(parser)
    add_accept_features(parser)


def run(args: argparse.Namespace) -> int:
    _check_outputs(args)
    if not args.out and (args.submission or not args.image):
        raise CapdistError("no file to write; give --out FILE")
    if args.submission:
        pack_submission(args)
    else:
        caption(args)
    for path in filter(None, (args.out, args.html)):
        print(path)
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse to overwrite what is read, or one output by the other."""
    read = {path.resolve() for path in (*(args.image or ()), args.forced) if path}
    outputs = [path for path in (args.out, args.html) if path]
    for path in outputs:
        check_output_file(path)
        if path.resolve() in read:
            raise CapdistError(f"{path}: would overwrite what is read; choose another file")
    if len(outputs) == 2 and outputs[0].resolve() == outputs[1].resolve():
        raise CapdistError(f"{args.html}: would overwrite --out; choose another file for --html")


def pack_submission(args: argparse.Namespace) -> None:
    from capdist.reporting.submission import write_submission

    if not args.results:
        raise CapdistError("--submission: no captions to pack; give --results VAL TEST")
    refuse_unused(args, (*_OF_MODELS, *_OF_FEATURES), "with --submission, which packs captions")
    val, test = args.results
    write_submission(args.submission, val, test, args.out)


def caption(args: argparse.Namespace) -> None:
    if not args.run or [args.shards, args.features, args.image].count(None) != 2:
        raise CapdistError(
            "nothing to caption; give --run, and one of --image, --shards and --features"
        )
    if args.shards:
        refuse_unused(args, _OF_FEATURES, "with --shards, but with --features")
    if args.image:
        refuse_unused(args, _READING, "with --image, but with --features")
    else:
        refuse_unused(args, ("html",), "without --image, whose captions it shows")
    refuse_unused(args, ("results",), "without --submission")
    from capdist.inference.captioner import Captioner, write_captions
    from shards.pictures import check_is_file

    for path in args.image or ():
        check_is_file(path)
    captioner = Captioner.open(
        args.run,
        decoding_overrides(args),
        None if args.image else args.forced,
        args.concepts_from,
        accept_features=args.accept_features,
    )
    if args.n_best > captioner.decoding.beam:
        raise CapdistError(
            f"--n-best {args.n_best} is more than the {captioner.decoding.beam} hypotheses per "
            f"image; give --beam {args.n_best}"
        )
    if args.image:
        caption_photographs(args, captioner)
        return
    if args.shards:
        captions = captioner.of_shards(args.shards, args.split)
    else:
        captions = captioner.of_features(args.features, reading(args), args.max_bad)
    write_captions(args.out, captions, args.n_best, captioner.first.text)


def caption_photographs(args: argparse.Namespace, captioner: Captioner) -> None:
    from capdist.inference.captioner import write_captions
    from capdist.inference.photographs import PhotographCaptioner, read_forced
    from shards.extract import check_bad_pictures

    photographs = {str(path): path for path in args.image}
    forced = read_forced(args.forced, photographs)
    decoded = (
        PhotographCaptioner(captioner)
        .prepared()
        .decode(photographs, forced, attention=bool(args.html))
    )
    check_bad_pictures(tuple(decoded.bad), args.max_bad, len(photographs))
    if args.html:
        write_page(args.html, decoded.seen)
    text = captioner.first.text
    if args.out:
        write_captions(args.out, decoded.captions, args.n_best, text)
        return
    for name, captions in decoded.captions.items():
        for caption in captions[: args.n_best]:
            score = f" ({caption.score:.2f})" if args.n_best > 1 else ""
            print(f"{name}: {text.join(caption.words)}{score}")


def write_page(path: Path, seen: Mapping[str, PhotographCaption]) -> None:
    """Write the page of photographs by path."""
    from capdist.reporting.report.photographs import CaptionedPhotograph, write_photographs
    from shards.pictures import read_picture

    photographs = [
        CaptionedPhotograph(Path(name).name, read_picture(Path(name)), found.to_json())
        for name, found in seen.items()
    ]
    write_photographs(photographs, path)
