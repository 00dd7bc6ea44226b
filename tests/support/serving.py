"""Servers in this process, and in processes of their own, over a tiny run."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import requests

import capdist
from capdist.commands.main import main
from capdist.serving.app import create_app
from capdist.serving.page import make_page
from capdist.serving.server import Server, bind, url
from capdist.serving.service import Limits, Service
from tests.support.photographs import Quarters


@dataclass
class Running:
    """A server in a thread."""

    url: str
    server: ThreadedServer
    thread: threading.Thread

    @property
    def service(self) -> Service:
        return self.server.service

    def caption(self, image: Any, **fields: Any) -> requests.Response:
        return requests.post(
            f"{self.url}/v1/caption", files={"image": image}, data=fields, timeout=60
        )

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=60)


class ThreadedServer(Server):
    """Says when it listens."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def running(
    runs: dict[str, Path], limits: Limits | None = None, samples: Path | None = None
) -> Iterator[Running]:
    """A server of these runs by name; stopped at the end."""
    captioners = {name: capdist.load(run) for name, run in runs.items()}
    service = Service(captioners, limits or Limits())
    server = ThreadedServer(create_app(service, make_page(captioners, samples)), service)
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    assert server.listening.wait(60)
    try:
        yield Running(url(bound), server, thread)
    finally:
        server.should_exit = True
        thread.join(60)
        service.close()


@dataclass
class Blocked:
    """A backbone that waits: ``reached`` is set when it is called, and it returns after ``go``."""

    reached: Any
    go: Any


@contextmanager
def blocked_backbone(reached: Any, go: Any) -> Iterator[Blocked]:
    """Block `Quarters` by two events, of threads or of processes."""
    features = Quarters.__call__

    def wait(self: Quarters, prepared: Any) -> Any:
        reached.set()
        assert go.wait(60)
        return features(self, prepared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Quarters, "__call__", wait)
        try:
            yield Blocked(reached, go)
        finally:
            go.set()


def serve(arguments: list[str], printed: Path, reached: Event, go: Event) -> None:
    """``capdist serve`` in a process of its own, whose output goes to a named pipe."""
    os.dup2(os.open(printed, os.O_WRONLY), 1)
    with blocked_backbone(reached, go):
        sys.exit(main(["serve", *arguments]))
