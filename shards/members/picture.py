"""``png``: the picture itself, for people to look at."""

from __future__ import annotations

from typing import Any

from shards.members.base import Member
from shards.sample import Sample


class Picture(Member):
    """The bytes of a PNG file; batches do not have it."""

    suffix, on_request = "png", True

    def encode(self, sample: Sample) -> bytes | None:
        return sample.picture

    def decode(self, data: bytes) -> dict[str, Any]:
        return {"picture": data}

    def check(self, sample: Sample) -> None:
        """Readers pass it on as it is."""
