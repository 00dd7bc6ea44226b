"""Starting and stopping ``capdist serve``."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from capdist.commands.main import main
from capdist.serving.server import bind, warn_of_others
from tests.support.processes import SERVER
from tests.support.serving import serve


def test_sigterm_finishes_the_queue_and_refuses_others(
    folder: Path, photographs: list[Path], tmp_path: Path
) -> None:
    printed = tmp_path / "printed"
    os.mkfifo(printed)
    reached, go = SERVER.Event(), SERVER.Event()
    go.set()
    arguments = ["--run", str(folder / "glied"), "--port", "0", "--batch", "1"]
    process = SERVER.Process(target=serve, args=(arguments, printed, reached, go))
    process.start()
    with printed.open() as lines:
        address = lines.readline().partition(" ")[0]
        go.clear()
        reached.clear()

        def caption(path: Path) -> requests.Response:
            files = {"image": path.read_bytes()}
            return requests.post(f"{address}/v1/caption", files=files, timeout=60)

        with ThreadPoolExecutor(3) as threads:
            queued = [threads.submit(caption, path) for path in photographs[:3]]
            assert reached.wait(60)
            # All three are in the server, as its own count says, when it is told to stop.
            while "requests_waiting 3.0" not in requests.get(f"{address}/metrics").text:
                pass
            os.kill(process.pid, signal.SIGTERM)
            while requests.get(f"{address}/healthz").status_code == 200:
                pass
            refused = caption(photographs[3])
            assert refused.status_code == 503
            assert refused.json()["error"].startswith("the server is stopping")
            go.set()
            assert [one.result().status_code for one in queued] == [200, 200, 200]
        process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--run", "RUN", "RUN"], "glied: given twice; give each run once"),
        (["--run", "nowhere"], "nowhere"),
        (["--run", "RUN", "--port", "99999"], "--port 99999: no such port; choose one up to 65535"),
        (["--run", "RUN", "--host", "192.0.2.1"], "--host 192.0.2.1 --port 8000: Cannot assign"),
        (["--run", "RUN", "--port", "0", "--samples", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    given = [str(folder / "glied") if word == "RUN" else word for word in arguments]
    assert main(["serve", *given]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--run", str(folder / "glied"), "--port", port]) == 2
    assert f"--port {port}: Address already in use; choose another" in capsys.readouterr().err


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_other_hosts_than_loopback_are_warned_of(
    capsys: pytest.CaptureFixture[str], host: str, warned: bool
) -> None:
    with bind(host, 0) as bound:
        warn_of_others(bound)
    assert ("there is no authentication" in capsys.readouterr().err) == warned
