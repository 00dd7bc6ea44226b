"""Shards in an object store: moto's server speaks S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.manifest import Manifest
from shards.remote.cache import Cache
from shards.remote.download import RetryPolicy, ShardUnavailableError
from shards.schema import ShardError
from shards.verify import verify

pytest.importorskip("s3fs", reason="pip install 'capdist[remote]'")
boto3 = pytest.importorskip("boto3", reason="pip install 'capdist[dev]'")
server = pytest.importorskip("moto.server", reason="pip install 'capdist[dev]'")


@pytest.fixture(scope="module")
def bucket(tiny: Manifest) -> Iterator[object]:
    monkeypatch = pytest.MonkeyPatch()
    moto = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    address, port = moto.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = boto3.resource("s3").create_bucket(Bucket="corpus")
    for path in tiny.root.iterdir():
        bucket.upload_file(str(path), f"sets/tiny/{path.name}")
    yield bucket
    moto.stop()
    monkeypatch.undo()


def test_bucket_gives_the_same_as_the_folder(
    tiny: Manifest, bucket: object, tmp_path: Path
) -> None:
    remote = Manifest.load("s3://corpus/sets/tiny", Cache(tmp_path))
    assert list(remote.read("train", "json")) == list(tiny.read("train", "json"))
    assert verify(remote) == []


def test_missing_object_is_named(bucket: object, tmp_path: Path) -> None:
    cache = Cache(tmp_path, retry=RetryPolicy(2, backoff_s=0.01, timeout_s=5))
    remote = Manifest.load("s3://corpus/sets/tiny", cache)
    bucket.Object("sets/tiny/val-00000.tar").delete()  # type: ignore[attr-defined]
    with pytest.raises(
        ShardUnavailableError, match=r"s3://corpus/sets/tiny/val-00000.tar: no such file"
    ):
        list(remote.read("val", "json"))
    with pytest.raises(ShardError, match=r"s3://elsewhere/manifest.json: no manifest"):
        Manifest.load("s3://elsewhere", cache)
