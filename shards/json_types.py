"""What the JSON of a set must look like, whoever wrote it: read and checked in one go."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

#: A number of samples or bytes, or a place in a file: what an array or a file can have.
Count = Annotated[int, Field(ge=0, lt=2**63)]
#: An image's id, which readers keep in 64 bits.
Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
#: Words and their scores.
Pairs = tuple[tuple[str, FiniteFloat], ...]

T = TypeVar("T")


def read_as(form: TypeAdapter[T], data: bytes) -> T:
    """JSON of a form; nothing is converted, and what is too deep or no Unicode is refused.

    Raises:
        ValueError: in one line, with the place in the JSON.
    """
    try:
        return form.validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise ValueError(f"not JSON ({first['msg'].removeprefix('Invalid JSON: ')})") from None
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise ValueError(f"not in the format: {place}: {first['msg']}") from None
