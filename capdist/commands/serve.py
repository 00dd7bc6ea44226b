"""``capdist serve``: a page and an API that caption photographs; docs/serve.md describes it."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from capdist.arguments import count, positive
from capdist.errors import CapdistError

HELP = "serve a page and an HTTP API that caption photographs"

_PACKAGES = ("fastapi", "prometheus_client", "python_multipart", "uvicorn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", type=Path, nargs="+", required=True, help="run folders, to choose from by name")
    add("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
    add("--port", type=count, default=8000, help="0: any that is free; default: 8000")
    add("--samples", type=Path, metavar="DIR", help="folder of photographs that the page offers")
    add("--batch", type=positive, default=16, help="photographs captioned together; default: 16")
    add(
        "--wait-ms",
        type=count,
        default=10,
        help="how long a photograph waits for others of its batch; default: 10",
    )
    add(
        "--queue",
        type=positive,
        default=64,
        help="requests that may wait for their answers; others get status 429; default: 64",
    )
    add("--max-mb", type=positive, default=20, help="largest upload in megabytes; default: 20")
    add(
        "--max-megapixels",
        type=positive,
        default=50,
        help="largest photograph; default: 50 million pixels",
    )


def run(args: argparse.Namespace) -> int:
    for package in _PACKAGES:
        if not find_spec(package):
            raise CapdistError(
                f"capdist serve needs {package}; install it with: pip install 'capdist[serve]'"
            )
    from capdist.inference.photographs import PhotographCaptioner
    from capdist.reporting.report.files import distinct_names
    from capdist.serving.app import create_app
    from capdist.serving.page import make_page
    from capdist.serving.server import Server, bind, warn_of_others
    from capdist.serving.service import Limits, Service

    names = distinct_names(args.run)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CapdistError(f"--run {twice}: given twice; give each run once")
    bound = bind(args.host, args.port)
    warn_of_others(bound)
    captioners = {
        name: PhotographCaptioner.load([folder])
        for name, folder in zip(names, args.run, strict=True)
    }
    page = make_page(captioners, args.samples)
    limits = Limits(
        images=args.batch,
        wait_s=args.wait_ms / 1000,
        requests=args.queue,
        upload_bytes=args.max_mb * 10**6,
        pixels=args.max_megapixels * 10**6,
    )
    service = Service(captioners, limits)
    try:
        service.warm_up()
        Server(create_app(service, page), service).run(sockets=[bound])
    finally:
        service.close()
    return 0
