"""The resolved configs of runs, key by key, and what differs between them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from capdist.reporting.report.data import Setting

#: Keys that differ between any two runs, and say nothing about what was trained.
OWN = {"run", "description"}


def settings(configs: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """All keys, in the order of the first config that has them."""
    tables = [dict(flatten(config)) for config in configs]
    keys = dict.fromkeys(key for table in tables for key in table)
    found = []
    for key in keys:
        values = [json.dumps(t[key], ensure_ascii=False) if key in t else None for t in tables]
        found.append(Setting(key, values, key not in OWN and len(set(values)) > 1))
    return found


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys, as for ``--set``, and their values."""
    if isinstance(value, dict | list) and value:
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in entries:
            yield from flatten(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
