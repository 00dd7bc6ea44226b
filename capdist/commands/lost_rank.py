"""What the other ranks report when a rank of their process group exits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from capdist.errors import CapdistError


@contextmanager
def one_line_for_lost_rank(remedy: str) -> Iterator[None]:
    """Replace Gloo's error about a lost rank.

    Raises:
        CapdistError: if the body fails because another rank exited; ends with ``remedy``.
    """
    from capdist.distributed.process_group import lost_rank

    try:
        yield
    except RuntimeError as error:
        if not lost_rank(error):
            raise
        raise CapdistError(
            f"another rank exited: see its log (it may have run out of memory). {remedy}"
        ) from error
