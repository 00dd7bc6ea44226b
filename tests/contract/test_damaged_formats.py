"""Damaged feature files of every registered format: read correctly, or refused in one line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.formats import FEATURE_FORMATS
from shards.joined_features import JoinedFeatures
from shards.schema import ShardError
from tests.support.format_files import FEATURE_FILES
from tests.support.strategies import corrupted

#: Formats whose library maps the file into memory, and ends the process if its pages are damaged.
MAPPED = {"lmdb"}


@pytest.mark.parametrize("name", sorted(FEATURE_FORMATS.keys() - MAPPED))
@settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(draw=st.data())
def test_damaged_features_are_read_as_valid_arrays_or_refused(
    name: str, tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    path = FEATURE_FILES[name](tmp_path_factory.mktemp("damaged")).path
    file = draw.draw(st.sampled_from(sorted(p for p in all_files(path) if p.is_file())))
    file.write_bytes(draw.draw(corrupted(file.read_bytes())))
    with suppress(ShardError):
        source = JoinedFeatures([path])
        for image in source.image_ids:
            with suppress(ShardError):
                read = source.read(image)
                assert read.regions.ndim == 2
                assert read.boxes is not None
                assert read.boxes.shape == (len(read.regions), 4)
                assert read.classes is None or len(read.classes) == len(read.regions)


def all_files(path: Path) -> list[Path]:
    """The files of a data set that is a file, or a folder with others next to it."""
    return [path] if path.is_file() else [*path.parent.rglob("*")]
