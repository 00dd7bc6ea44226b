"""Types of the JSON in a set of shards; it is parsed and validated in one step."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

#: A number of samples or bytes, or an offset in a file: what an array or a file can have.
Count = Annotated[int, Field(ge=0, lt=2**63)]
MAX_ID_LENGTH = 255
#: A number, which readers keep in 64 bits, or a text without control characters.
ImageId = (
    Annotated[int, Field(ge=-(2**62), lt=2**63)]
    | Annotated[str, Field(max_length=MAX_ID_LENGTH, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
)
#: Words with their scores.
WordScores = tuple[tuple[str, FiniteFloat], ...]

T = TypeVar("T")


def parse_json(adapter: TypeAdapter[T], data: bytes) -> T:
    """Parse and validate JSON.

    Nothing is converted. JSON that is nested too deeply or is not valid Unicode is refused.

    Raises:
        ValueError: in one line, with the path of the first wrong value.
    """
    try:
        return adapter.validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise ValueError(f"not JSON ({first['msg'].removeprefix('Invalid JSON: ')})") from None
        path = ".".join(map(str, first["loc"])) or "top level"
        raise ValueError(f"not in the format: {path}: {first['msg']}") from None
