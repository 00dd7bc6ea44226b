"""Untrusted sets of shards: any bytes are read correctly or refused with a ShardError."""

from __future__ import annotations

import json
import tarfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.concept_files import CONCEPTS
from shards.manifest import MANIFEST, Manifest
from shards.schema import ShardError
from shards.tar import read_tar
from shards.writer import write
from tests.fuzz.targets import INDEX, SET_TAR, TAR, TAR_FIXED_CHECKSUMS, Targets
from tests.support.samples import NumberSource
from tests.support.strategies import corrupted

#: Most bytes that reading a set of 20 kB may allocate.
MAX_MEMORY = 8 * 2**20

few_examples = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Targets:
    return Targets(tmp_path_factory.mktemp("set"))


@contextmanager
def memory_limit() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY
    finally:
        tracemalloc.stop()


def test_valid_files_are_read(targets: Targets) -> None:
    for name, data in targets.valid.items():
        targets(name, data)


@few_examples
@given(draw=st.data())
@pytest.mark.parametrize("ending", ["counts.npz", ".npz"])
def test_corrupted_arrays_are_read_or_refused(
    ending: str, targets: Targets, draw: st.DataObject
) -> None:
    name = next(name for name in sorted(targets.valid) if name.endswith(ending))
    with memory_limit(), suppress(ShardError):
        targets(name, draw.draw(corrupted(targets.valid[name])))


@few_examples
@given(draw=st.data())
@pytest.mark.parametrize(
    "name",
    [
        *(TAR, TAR_FIXED_CHECKSUMS, SET_TAR, INDEX, MANIFEST, CONCEPTS),
        *("json", "regions.npy", "grounding.json"),
    ],
)
def test_corrupted_bytes_are_read_or_refused(
    name: str, targets: Targets, draw: st.DataObject
) -> None:
    with memory_limit(), suppress(ShardError):
        targets(name, draw.draw(corrupted(targets.valid[name])))


#: Values for any position in JSON, as text.
ODD_VALUES = [
    *("null", "-1", "0.5", "1e999", "NaN", str(2**63), "9" * 5000, '""', "[]", "{}", "[[[]]]"),
    *('"../../evil.tar"', '"pipe:touch evil.tar"', r'"\ud800"', "[" * 100_000, "[1]]", "\xff"),
]


def value_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every value in a JSON text."""
    spans = []
    for start in range(len(text)):
        with suppress(ValueError):
            spans.append((start, json.JSONDecoder().raw_decode(text, start)[1]))
    return spans


@few_examples
@given(draw=st.data())
@pytest.mark.parametrize(
    "name", [INDEX, MANIFEST, CONCEPTS, "json", "concepts.json", "grounding.json"]
)
def test_odd_json_values_are_read_or_refused(
    name: str, targets: Targets, draw: st.DataObject
) -> None:
    text = targets.valid[name].decode()
    start, stop = draw.draw(st.sampled_from(value_spans(text)))
    value = draw.draw(st.sampled_from(ODD_VALUES))
    with memory_limit(), suppress(ShardError):
        targets(name, (text[:start] + value + text[stop:]).encode("latin-1", "replace"))


HEADER = "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), }"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(3, 4)", "(3000000000, 4)"),
        ("(3, 4)", f"({2**70}, 4)"),
        ("(3, 4)", "(-1, 4)"),
        ("(3, 4)", "()"),
        ("(3, 4)", "(" * 5000),
        ("(3, 4)", "(3, 4"),
        ("'<f2'", "'|O'"),
        ("'<f2'", "'<f2000000000'"),
        ("'<f2'", "'V0'"),
        ("'<f2'", "'(9999999,9999999)f8'"),
        (HEADER, "__import__('os').abort()"),
        (HEADER, "{1: [\n  3\n 4"),
        (HEADER, ""),
    ],
)
def test_invalid_npy_headers_are_refused(old: str, new: str, targets: Targets) -> None:
    text = HEADER.replace(old, new).encode() + b"\n"
    data = b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + bytes(24)
    with memory_limit(), pytest.raises(ShardError, match=r"^sample 0+2: .*regions\.npy is "):
        targets("regions.npy", data)


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "info",
    [
        member("a.json", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("a.json", tarfile.SYMTYPE, linkname="a.json"),
        member("a.json", tarfile.LNKTYPE, linkname="nowhere"),
        member("a.json", tarfile.DIRTYPE),
        member("a.json", tarfile.FIFOTYPE),
        member("a.json", tarfile.GNUTYPE_SPARSE, size=2**40),
        member("a.json", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}),
        member("a.json", pax_headers={"size": "-1024"}),
        member("a.json", pax_headers={"size": str(2**90)}),
        member("a.json", size=2**40),
        member("a.json", size=-1024),
        member("../../evil.json"),
        member("/evil.json"),
        member("a/b.json"),
        member("a"),
        member(".json"),
        member("\x1b[2J.json"),
    ],
    ids=lambda info: f"{info.name!r}-{info.type.decode()}-{info.size}-{info.pax_headers}",
)
def test_tar_entries_that_are_not_members_are_refused(
    info: tarfile.TarInfo, tmp_path: Path
) -> None:
    path = tmp_path / "train-00000.tar"
    format_ = tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT
    path.write_bytes(info.tobuf(format_) + bytes(4096))
    with memory_limit(), pytest.raises(ShardError, match=f"^{path}: "):
        list(read_tar(path))


def test_long_chain_of_tar_headers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.tar"
    header = member("long", tarfile.GNUTYPE_LONGNAME, size=1).tobuf(tarfile.GNU_FORMAT) + bytes(512)
    path.write_bytes(header * 5000)
    with pytest.raises(ShardError, match="damaged, or not a tar"):
        list(read_tar(path))


@pytest.mark.parametrize("damage", ["no end", "another header"])
def test_tar_that_ends_between_two_samples_is_refused(
    damage: str, targets: Targets, tmp_path: Path
) -> None:
    path = tmp_path / TAR
    second = targets.manifest.index(targets.manifest.shards[0])[1].offset
    rest = b"" if damage == "no end" else b"x" * 512
    path.write_bytes(targets.valid[TAR][:second] + rest)
    with pytest.raises(ShardError, match=f"no valid header at byte {second}"):
        list(read_tar(path))


@pytest.mark.parametrize("name", ["../evil.tar", "/etc/evil.tar", "pipe:touch x.tar", "a/b.tar"])
def test_manifest_with_files_in_other_folders_is_refused(name: str, tmp_path: Path) -> None:
    write(NumberSource({"train": 1}), tmp_path, workers=1)
    data = json.loads((tmp_path / MANIFEST).read_text())
    data["shards"][0]["name"] = name
    (tmp_path / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(ShardError, match=r"names a file .* expected a plain name") as refused:
        Manifest.load(tmp_path)
    assert repr(name) in str(refused.value)


def test_manifest_with_more_samples_than_bytes_is_refused(tmp_path: Path) -> None:
    write(NumberSource({"train": 1}), tmp_path, workers=1)
    data = json.loads((tmp_path / MANIFEST).read_text())
    data["shards"][0]["samples"] = 10**12
    (tmp_path / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(
        ShardError, match=r"lists 1000000000000 samples in the \d+ bytes of train-00000.tar"
    ):
        Manifest.load(tmp_path)
