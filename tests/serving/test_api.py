"""The HTTP API, by requests to a server in another thread."""

from __future__ import annotations

import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

import capdist
from capdist.serving.batcher import room
from capdist.serving.schema import CaptionAnswer
from capdist.serving.service import Limits
from tests.support.photographs import photograph
from tests.support.serving import Running, blocked_backbone, running


def test_an_answer_is_what_the_captioner_says(
    server: Running, folder: Path, photographs: list[Path]
) -> None:
    expected = capdist.load(folder / "glied", beam=4)(photographs[0])
    answer = server.caption(photographs[0].read_bytes(), beam=4)
    assert answer.status_code == 200
    found = CaptionAnswer.model_validate(answer.json())
    assert (found.run, found.width, found.height) == ("glied", 32, 24)
    assert (found.caption, tuple(found.words)) == (expected.caption, expected.words)
    assert found.score == pytest.approx(expected.score, abs=1e-3)
    alternatives = [other.caption for other in expected.alternatives]
    assert [other.caption for other in found.alternatives] == alternatives
    assert len(alternatives) == 3
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-5)
    assert set(found.attention) == set(expected.maps)
    assert len(found.concepts) == len(expected.concepts) > 0
    for name, weights in expected.maps.items():
        np.testing.assert_allclose(found.attention[name], weights, atol=2e-5)


def test_concurrent_photographs_get_the_captions_that_they_get_alone(
    server: Running, folder: Path, photographs: list[Path]
) -> None:
    asked = [(run, path) for path in photographs for run in ("glied", "updown")]
    with ThreadPoolExecutor(len(asked)) as threads:
        answers = list(threads.map(lambda a: server.caption(a[1].read_bytes(), run=a[0]), asked))
    alone = {run: capdist.load(folder / run) for run in ("glied", "updown")}
    for (run, path), answer in zip(asked, answers, strict=True):
        expected = alone[run](path)
        assert answer.json()["caption"] == expected.caption
        assert answer.json()["score"] == pytest.approx(expected.score, abs=1e-3)
        captions = [other.caption for other in expected.alternatives]
        assert [other["caption"] for other in answer.json()["alternatives"]] == captions


def test_options_change_the_caption(server: Running, photographs: list[Path]) -> None:
    image = photographs[0].read_bytes()
    free = server.caption(image).json()["words"]
    assert len(server.caption(image, min_words=4, max_words=4).json()["words"]) == 4
    forced = server.caption(image, forced=["dog", "two,cat"]).json()["words"]
    assert "dog" in forced
    assert {"two", "cat"} & set(forced)
    forbidden = server.caption(image, forbidden=",".join(set(free)), min_words=1).json()["words"]
    assert not set(free) & set(forbidden)
    assert server.caption(image, beam=1).json()["alternatives"] == []


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"run": "x"}, "run: no run 'x', expected one of glied, updown"),
        ({"beam": "11"}, "beam: Input should be less than or equal to 10, got '11'"),
        ({"beam": "two"}, "beam: Input should be a valid integer"),
        ({"max_words": "51"}, "max_words: Input should be less than or equal to 50, got '51'"),
        ({"min_words": "9", "max_words": "3"}, "min_words 9 is more than max_words 3"),
        ({"forced": "unicorn"}, "forced: 'unicorn' is not in the vocabulary"),
        ({"forced": ["dog"] * 6}, "6 sets of words, expected at most 5"),
        ({"forced": "dog", "forbidden": "dog"}, "forced: none of dog may be written"),
        ({"forbidden": "<eos>"}, "forbidden: '<eos>' is not in the vocabulary"),
        ({"bean": "3"}, "bean: unknown field, expected one of image, run, beam, "),
        ({"beam": ["3", "4"]}, "beam: given 2 times; give one"),
    ],
)
def test_wrong_options_are_answered_in_one_line(
    server: Running, photographs: list[Path], fields: dict[str, Any], line: str
) -> None:
    answer = server.caption(photographs[0].read_bytes(), **fields)
    assert answer.status_code == 422
    assert line in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_wrong_requests_are_answered_in_one_line(server: Running, photographs: list[Path]) -> None:
    address, image = f"{server.url}/v1/caption", photographs[0].read_bytes()
    one, kind = {"image": image}, {"Content-Type": "multipart/form-data; boundary=x"}
    answers = {
        "body: image/png, expected multipart": (
            415,
            requests.post(address, image, headers={"Content-Type": "image/png"}),
        ),
        "body: nothing, expected multipart": (415, requests.post(address)),
        "body: not valid multipart": (400, requests.post(address, image, headers=kind)),
        "image: is missing": (422, requests.post(address, files={"beam": (None, "3")})),
        "image: is text": (422, requests.post(address, files={"image": (None, "a")})),
        "image: given 2 times": (
            422,
            requests.post(address, files=[("image", image), ("image", image)]),
        ),
        "the URL has options": (422, requests.post(f"{address}?beam=3", files=one)),
        "Not Found": (404, server.get("/docs")),
        "Method Not Allowed": (405, server.get("/v1/caption")),
        "no sample 99": (404, server.get("/samples/99")),
    }
    for line, (status, answer) in answers.items():
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), line
        assert line in answer.json()["error"]


def test_uploads_are_bounded_in_bytes_pixels_and_time(
    folder: Path, photographs: list[Path]
) -> None:
    limits = Limits(upload_bytes=30_000, pixels=40 * 40, upload_s=0.3)
    with running({"glied": folder / "glied"}, limits) as server:
        assert server.caption(photographs[0].read_bytes()).status_code == 200
        large = server.caption(bytes(30_000))
        assert large.status_code == 413
        assert large.json()["error"].startswith("body: more than 30,000 bytes")
        chunks = (bytes(1000) for _ in range(40))
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        chunked = requests.post(f"{server.url}/v1/caption", data=chunks, headers=kind)
        assert chunked.status_code in (400, 413)
        wide = folder / "wide.png"
        photograph(1, (41, 40)).save(wide)
        pixels = server.caption(wide.read_bytes())
        assert pixels.status_code == 413
        assert "41 × 40 pixels, expected at most 1,600 in total" in pixels.json()["error"]
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            head = "POST /v1/caption HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
            slow.sendall(f"{head}Content-Type: {kind['Content-Type']}\r\n\r\n--x".encode())
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_full_queue_refuses_and_recovers(folder: Path, photographs: list[Path]) -> None:
    image = photographs[0].read_bytes()
    with (
        running({"glied": folder / "glied"}, Limits(requests=1)) as server,
        ThreadPoolExecutor(1) as thread,
    ):
        with blocked_backbone(threading.Event(), threading.Event()) as backbone:
            first = thread.submit(server.caption, image)
            assert backbone.reached.wait(60)
            refused = server.caption(image)
            assert refused.status_code == 429
            assert refused.headers["Retry-After"] == "1"
            assert "1 photographs are waiting, which is the limit" in refused.json()["error"]
            waiting = server.get("/metrics").text
        assert first.result().status_code == 200
        assert server.caption(image).status_code == 200
        assert "\ncapdist_requests_waiting 1.0\n" in waiting
        assert "\ncapdist_requests_waiting 0.0\n" in server.get("/metrics").text


def test_a_failure_of_a_batch_is_answered_and_the_server_goes_on(
    folder: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photographs[0].read_bytes()
    with running({"glied": folder / "glied"}) as server:
        with monkeypatch.context() as patch:
            patch.setattr("tests.support.photographs.Quarters.__call__", None)
            failed = server.caption(image)
        assert failed.status_code == 500
        assert failed.json() == {"error": "captioning failed; see the server's log"}
        assert server.caption(image).status_code == 200


def test_health_metrics_and_description(server: Running, photographs: list[Path]) -> None:
    assert server.get("/healthz").json() == {"status": "ok", "runs": ["glied", "updown"]}
    before = metric(server, 'capdist_requests_total{status="200"}')
    assert server.caption(photographs[0].read_bytes()).status_code == 200
    assert metric(server, 'capdist_requests_total{status="200"}') == before + 1
    assert metric(server, "process_resident_memory_bytes") > 10**7
    described = server.get("/openapi.json").json()["paths"]
    assert set(described) == {"/v1/caption", "/healthz", "/metrics"}
    caption = described["/v1/caption"]["post"]
    assert {"200", "413", "415", "422", "429", "503"} <= set(caption["responses"])
    assert list(caption["requestBody"]["content"]) == ["multipart/form-data"]


def metric(server: Running, name: str) -> float:
    found = re.search(f"^{re.escape(name)} (.*)$", server.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_the_page_names_nothing_elsewhere(server: Running, photographs: list[Path]) -> None:
    page = server.get("/")
    links = re.findall(r'(?:src|href|action)="([^"]*)', page.text)
    assert {link.partition(":")[0] for link in links} <= {"data", "/openapi.json", "/metrics"}
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert json.dumps({"glied": {"beam": 3}})[:-2].replace(" ", "") in page.text
    assert server.get("/samples/0").content in [path.read_bytes() for path in photographs]


def test_forced_words_make_batches_smaller(server: Running) -> None:
    decoding = server.service.captioners["glied"].captioner.decoding
    many = decoding.model_copy(update={"beam": 10, "forced": (("dog",),) * 5})
    assert room(decoding) > 16
    assert room(many) == 1
