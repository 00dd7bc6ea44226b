"""A web server on this machine that fails as a test tells it to."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves the files of a folder, with range requests if ``ranges``; records all requests.

    Each request for a file takes the next of its ``faults``: "503"; "drop" sends half of the body
    and closes the connection; "hang" sends half of it and keeps the connection; "wait" sends the
    body once ``gate`` is set; "" is none.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.ranges = root, True
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.requests: list[tuple[str, str]] = []
        self.gate, self.closing = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self) -> Counter[str]:
        return Counter(name for name, _ in self.requests)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, range_ = self.path[1:], self.headers.get("Range", "")
        self.server.requests.append((name, range_))
        faults = self.server.faults[name]
        fault = faults.pop(0) if faults else ""
        path = self.server.root / name
        if fault == "503" or not path.is_file():
            self.send_error(503 if fault else 404)
            return
        data, status = path.read_bytes(), 200
        if range_ and self.server.ranges:
            first, last = range_.removeprefix("bytes=").split("-")
            data, status = data[int(first) : int(last) + 1], 206
        if fault == "wait":
            self.server.gate.wait(20)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault in ("drop", "hang") else data)
        if fault == "hang":
            self.server.closing.wait(20)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    with Server(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()
