"""The page for people, with the styles and scripts of the report."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from capdist.inference.photographs import PhotographCaptioner
from capdist.reporting.report.assets import render_page
from capdist.reporting.report.photographs import SCRIPTS, STYLES
from capdist.reporting.report.pictures import data_url
from capdist.serving.schema import MAX_BEAM, MAX_WORDS
from shards.pictures import find_pictures, read_picture

#: Photographs of the samples' folder that are offered, and the longest side of their thumbnails.
MAX_SAMPLES, THUMBNAIL = 12, 280


@dataclass(frozen=True)
class Page:
    """The page, the headers that it is sent with, and the files of the samples."""

    html: str
    headers: Mapping[str, str]
    samples: tuple[Path, ...]


def make_page(captioners: Mapping[str, PhotographCaptioner], folder: Path | None) -> Page:
    """The page of these runs, with the first photographs of a folder as samples.

    Raises:
        PictureError: if the folder has none, or one of them can't be read.
    """
    found = list(find_pictures(folder).items())[:MAX_SAMPLES] if folder else []
    html = render_page(
        "serve.html.j2",
        styles=(*STYLES, "serve.css"),
        scripts=(*SCRIPTS, "serve.js"),
        data={name: _defaults(captioner) for name, captioner in captioners.items()},
        runs=list(captioners),
        samples=[(name, data_url(read_picture(path), THUMBNAIL)) for name, path in found],
        max_beam=MAX_BEAM,
        max_words=MAX_WORDS,
    )
    return Page(html, _headers(html), tuple(path for _, path in found))


def _defaults(captioner: PhotographCaptioner) -> dict[str, int]:
    decoding = captioner.captioner.decoding
    return decoding.model_dump(include={"beam", "min_words", "max_words"})


def _headers(html: str) -> dict[str, str]:
    """Headers by which the browser runs the page's own script only, and fetches nothing else."""
    policy = {
        "default-src": "'none'",
        "script-src": _hash(html, "script"),
        "style-src": _hash(html, "style"),
        "img-src": "'self' data: blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _hash(html: str, element: str) -> str:
    """The source expression of the content of the only such element without attributes."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
