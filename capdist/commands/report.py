"""``capdist report``: one HTML page of a run or several; docs/report.md describes it."""

from __future__ import annotations

import argparse
from pathlib import Path

from capdist.errors import CapdistError
from shards.outputs import check_output_file

HELP = "write an HTML page of scores, curves and captions of runs, also of unfinished ones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, nargs="+", help="run folder; others are compared with the first one")
    add("--split", help="split of the gallery; default: the last one that was evaluated")
    add("--shards", help="folder or URL of the shards; default: each config's data.shards")
    add(
        "--figure",
        nargs="+",
        metavar="IMAGE",
        help="instead of the page, draw GLIED's Figure 3 or MIA's Figure 4 of these images",
    )
    add(
        "--out",
        type=Path,
        help="file to write; default: report.html or figure.png in the first run folder",
    )


def run(args: argparse.Namespace) -> int:
    from capdist.reporting.report.files import REPORT, RunFiles
    from capdist.reporting.report.page import write_report

    runs = [RunFiles.open(folder, args.shards) for folder in args.run]
    out = args.out or args.run[0] / ("figure.png" if args.figure else REPORT)
    check_output_file(out)
    if not args.figure:
        write_report(runs, out, args.split)
    elif len(runs) > 1:
        raise CapdistError("--figure: it draws one run; give one run folder")
    else:
        from capdist.inference.figures import draw_figure

        draw_figure(runs[0], args.split, args.figure, out)
    print(out)
    return 0
