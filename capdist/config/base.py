"""A section of a configuration, parsed from JSON; unknown keys are refused."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from capdist.errors import CapdistError


class ConfigError(CapdistError):
    """A configuration that can't be run; the message names the file and the key."""


class Section(BaseModel):
    """A part of the tree: frozen, strict about its keys, and of finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)
T = TypeVar("T")

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

#: A union's members by what tells them apart, which pydantic puts into places of mistakes.
ONE, SEVERAL = "one folder", "several sets"


def read_json(path: Path | str) -> Any:
    """A JSON file's content.

    Raises:
        ConfigError: if the file is missing or does not parse.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error


def read_json_as(kind: type[T], path: Path | str) -> T:
    """The content of a JSON file that capdist has written, as its type.

    Raises:
        ConfigError: if the file is missing, does not parse, or has another form.
    """
    data = read_json(path)
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "top level"
        raise ConfigError(
            f"{path}: {place}: {first['msg']}; it is damaged or was edited: copy or write it again"
        ) from None


def validate(section: type[SectionT], data: Any, where: str, prefix: str = "") -> SectionT:
    """``data`` as a section; ``where`` names its file and ``prefix`` its place in the tree.

    Raises:
        ConfigError: for the first thing wrong, in one line.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(section, error, prefix)}") from None


def _explain(section: type[Section], error: ValidationError, prefix: str) -> str:
    # An unknown key is often the misspelling of one that is then missing: name it first.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    # Pydantic puts the chosen member of a union into the place; it is no key of the file.
    names = [str(part) for part in first["loc"] if part not in {ONE, SEVERAL, *_tags(section)}]
    key = ".".join([prefix, *names] if prefix else names)
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(section, names, prefix)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        message = "is missing; add it, docs/options.md says what it is"
    got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    return f"{key}: {message}{got}" if key else f"{message}{got}"


def _suggestion(section: type[Section], names: list[str], prefix: str) -> str:
    *places, leaf = names
    known = {key: key.rpartition(".")[2] for key in _keys(section, "")}
    above: list[str] = []
    for name in places:
        # Numbers of a list and names of a mapping's entries are no keys.
        if ".".join([*above, name]) in known:
            above.append(name)
    siblings = [k for k in known if k.rpartition(".")[0] == ".".join(above)]
    # A right key in the wrong section is as common a slip as a misspelling.
    near = [key for key, name in known.items() if name == leaf]
    by_name = {known[key]: key for key in siblings}
    near = near or [by_name[name] for name in difflib.get_close_matches(leaf, by_name, 1, 0.5)]
    near = near or difflib.get_close_matches(leaf, known, 1, 0.6)
    if not near:
        return f"; known here: {', '.join(siblings)}"
    return f"; did you mean {'.'.join([prefix, near[0]] if prefix else near[:1])}?"


def _keys(section: type[Section], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key
        for part in _sections(field.annotation):
            yield from _keys(part, f"{key}.")


def _tags(section: type[Section]) -> set[str]:
    tags = set()
    for field in section.model_fields.values():
        for part in _sections(field.annotation):
            name = part.model_fields.get("name") or part.model_fields.get("objective")
            tags |= {str(tag) for tag in get_args(name.annotation)} if name else set()
            tags |= _tags(part)
    return tags


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
