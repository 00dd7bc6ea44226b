"""Puts templates, styles, scripts and data together to pages that fetch nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

_STATIC = files("capdist.reporting.report") / "static"


def render_page(
    template: str,
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: Any,
    pictures: Sequence[str] = (),
    **values: Any,
) -> str:
    """A page from files in ``static``.

    Args:
        template: extends ``base.html.j2``.
        styles: in this order.
        scripts: in this order.
        data: what the scripts read as JSON.
        pictures: data URLs, one a line of the element "pictures".
        values: what else the template reads.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        loader=FunctionLoader(static_text),
    )
    return environment.get_template(template).render(
        style="\n".join(map(static_text, styles)),
        script="\n".join(map(static_text, scripts)),
        data=_json(data),
        pictures="\n".join(pictures),
        **values,
    )


def static_text(name: str) -> str:
    """A file of ``static``."""
    return (_STATIC / name).read_text(encoding="utf-8")


def _json(data: Any) -> str:
    """JSON that cannot end the script element that it is in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", r"\u003c")
