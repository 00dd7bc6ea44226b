"""One run at a time in a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from capdist.distributed.process_group import ProcessGroup
from shards.folder_lock import folder_lock
from shards.outputs import check_output_folder


@contextmanager
def run_lock(folder: Path, group: ProcessGroup) -> Iterator[None]:
    """Keep other runs out of a run folder while this one lasts, however it ends.

    Raises:
        CapdistError, OSError: on the first rank, if another run is training in it or it can't be
            written to.
        OtherRankError: on the others.
    """
    with ExitStack() as held:
        group.agree(lambda: held.enter_context(_locked(folder)) if group.first else None)
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    check_output_folder(folder)
    with folder_lock(folder, "training in", "choose another folder with --set run=FOLDER"):
        yield
