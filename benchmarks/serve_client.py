"""Clients that send photographs to a server as fast as it answers; started by benchmarks.serve.

Prints JSON: the seconds of each caption, the number of answers by status, and the seconds in all.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from shards.pictures import find_pictures

_BOUNDARY = "capdist-benchmark"
_HEADERS = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


@dataclass
class Answers:
    """Seconds of captions, and the number of answers by status."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


def main() -> None:
    address, clients, seconds, folder = sys.argv[1:]
    bodies = [form(path) for path in find_pictures(Path(folder)).values()]
    started = time.perf_counter()
    end = started + float(seconds)
    with ThreadPoolExecutor(int(clients)) as threads:
        done = threads.map(lambda n: client(address, bodies, n, end), range(int(clients)))
        answers = list(done)
    total: Counter[int] = sum((one.statuses for one in answers), Counter())
    print(
        json.dumps(
            {
                "seconds": [second for one in answers for second in one.seconds],
                "statuses": total,
                "elapsed": time.perf_counter() - started,
            }
        )
    )


def form(path: Path) -> bytes:
    """The body of a request."""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo"'
    return f"{head}\r\n\r\n".encode() + path.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()


def client(address: str, bodies: list[bytes], number: int, end: float) -> Answers:
    """One client, which begins with the photograph of its number, until a time."""
    answers, connection = Answers(), HTTPConnection(urlsplit(address).netloc, timeout=600)
    while (started := time.perf_counter()) < end:
        connection.request("POST", "/v1/caption", bodies[number % len(bodies)], _HEADERS)
        answer = connection.getresponse()
        answer.read()
        answers.statuses[answer.status] += 1
        if answer.status == 200:
            answers.seconds.append(time.perf_counter() - started)
        number += 1
    connection.close()
    return answers


if __name__ == "__main__":
    main()
