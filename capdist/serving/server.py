"""Runs the server until a signal stops it."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from capdist.errors import CapdistError
from capdist.serving.service import Service

# How long uploads may take that are not complete when everything else is answered.
_LAST_UPLOADS_S = 2


class Server(uvicorn.Server):
    """After a stop signal, new requests are answered by 503 until all others have their answers.

    A second signal ends it at once.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_LAST_UPLOADS_S,
        )
        super().__init__(config)
        # It warns of every malformed upload, which the client is told of.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.stopping:
            self.should_exit = self.force_exit = True
        self.service.stopping = True

    async def on_tick(self, counter: int) -> bool:
        if self.service.stopping and not self.service.pending:
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        names = ", ".join(self.service.captioners)
        print(f"{url(sockets[0])} captions photographs with {names}; stop it with Ctrl-C")
        sys.stdout.flush()


def bind(host: str, port: int) -> socket.socket:
    """A socket with this address, which does not listen yet.

    Raises:
        CapdistError: if the address is not of this machine, or in use.
    """
    where = f"--host {host} --port {port}"
    if port > 65535:
        raise CapdistError(f"{where}: no such port; choose one up to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise CapdistError(f"{where}: {error.strerror}; choose another host or port") from error
    return bound


def url(bound: socket.socket) -> str:
    """Where a browser finds the page."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def warn_of_others(bound: socket.socket) -> None:
    """Say so if other machines may reach the server."""
    host = bound.getsockname()[0]
    if not ipaddress.ip_address(host).is_loopback:
        print(
            f"warning: {host} is not loopback and there is no authentication: whoever reaches the "
            "port can use the server; docs/serve.md shows it behind a proxy",
            file=sys.stderr,
        )
