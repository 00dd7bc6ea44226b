"""The options of a configuration for editors and people: a JSON Schema, and docs/options.md.

python -m capdist.config.schema writes both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from capdist.config.base import Section
from capdist.config.model import MODEL_SECTIONS
from capdist.config.run_config import Config
from capdist.config.stage import STAGE_SECTIONS

SCHEMA, OPTIONS = Path("configs/schema.json"), Path("docs/options.md")

HEAD = """\
# Every option

An empty default means that the key is required. [training.md](training.md) explains them.
This page is made by `python -m capdist.config.schema`.
"""


def config_schema() -> dict[str, Any]:
    """The schema of a configuration, with the section of every registered model and objective."""
    schema = Config.model_json_schema()
    properties = schema["properties"]
    properties["model"] = {
        "description": "name, and the options of that model.",
        "oneOf": _plugin_sections(MODEL_SECTIONS.all(), schema),
    }
    properties["stages"]["items"] = {"oneOf": _plugin_sections(STAGE_SECTIONS.all(), schema)}
    for base in ("ModelConfig", "TrainingStage"):
        schema["$defs"].pop(base, None)
    return schema


def _plugin_sections(
    sections: Mapping[str, type[Section]], schema: dict[str, Any]
) -> list[dict[str, Any]]:
    """The sections of plug-ins; their definitions move to the schema, where references start."""
    found = [section.model_json_schema() for section in sections.values()]
    for section in found:
        schema["$defs"] |= section.pop("$defs", {})
    return found


def options_page() -> str:
    """A table of keys for every section of the tree, each section once."""
    schema = config_schema()
    pages = dict(_sections("config", schema, schema["$defs"]))
    return "\n".join([HEAD, *pages.values()])


def _sections(
    place: str, section: dict[str, Any], known: dict[str, Any], which: str = ""
) -> Iterator[tuple[str, str]]:
    """The page of a section and those of the sections in it, by their titles."""
    yield section["title"], f"## `{place}{which}`\n\n{_table(section)}\n"
    for key, field in section["properties"].items():
        for part, number in _sections_in(field, known):
            chosen = [part["properties"].get(key, {}).get("const") for key in ("name", "objective")]
            inside = f"{place}.{key}{number}".removeprefix("config.")
            yield from _sections(inside, part, known, "".join(f" = {c}" for c in chosen if c))


def _table(section: dict[str, Any]) -> str:
    rows = []
    for key, field in section["properties"].items():
        default = f"`{json.dumps(field.get('default', {}))}`"
        if key in section.get("required", []):
            default = ""
        rows.append(f"| `{key}` | {default} | {field.get('description', '')} |")
    head = f"{section['description'].splitlines()[0]}\n\n| key | default | meaning |\n|---|---|---|"
    return "\n".join([head, *rows])


def _sections_in(
    field: dict[str, Any], known: dict[str, Any], number: str = ""
) -> Iterator[tuple[dict[str, Any], str]]:
    """The sections that a field may hold: itself, or ".N", as an item."""
    found = known[field["$ref"].rpartition("/")[2]] if "$ref" in field else field
    if "properties" in found:
        yield found, number
    for part in (*field.get("anyOf", []), *field.get("oneOf", [])):
        yield from _sections_in(part, known, number)
    if "items" in field:
        yield from _sections_in(field["items"], known, ".N")


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(config_schema(), indent=1) + "\n", encoding="utf-8")
    OPTIONS.write_text(options_page(), encoding="utf-8")
