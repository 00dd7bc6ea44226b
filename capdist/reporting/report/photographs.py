"""A page of photographs: captions, alternatives, and what each word attended to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from capdist.reporting.report.assets import render_page
from capdist.reporting.report.pictures import data_url
from shards.atomic import write_text

#: Longest side of a photograph on the page, in pixels.
SIDE = 1024
STYLES = ("page.css", "photograph.css")
SCRIPTS = ("theme.js", "view.js", "photograph.js")


@dataclass(frozen=True, eq=False)
class CaptionedPhotograph:
    """A photograph in RGB with its name, and what `PhotographCaption.to_json` says about it."""

    name: str
    picture: Image
    found: dict[str, Any]


def write_photographs(photographs: Sequence[CaptionedPhotograph], out: Path) -> None:
    """Write a page that opens offline."""
    page = render_page(
        "photographs.html.j2",
        styles=STYLES,
        scripts=(*SCRIPTS, "photographs.js"),
        data=[
            {
                "name": one.name,
                "found": {**one.found, "width": one.picture.width, "height": one.picture.height},
            }
            for one in photographs
        ],
        pictures=[data_url(one.picture, SIDE) for one in photographs],
        title=photographs[0].name if len(photographs) == 1 else f"{len(photographs)} photographs",
    )
    write_text(out, page)
