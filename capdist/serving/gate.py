"""Refuses requests for captions that can't be served, before their bodies are read."""

from __future__ import annotations

import asyncio
import time

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capdist.serving.service import STOPPING, Limits, Service

#: The path whose requests pass the gate.
CAPTION = "/v1/caption"


class Gate:
    """ASGI middleware: a bounded number of uploads of bounded size and time; counts answers."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", CAPTION):
            await self.app(scope, receive, send)
            return
        metrics, started = self.service.metrics, time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.requests.labels(message["status"]).inc()
                if message["status"] == 200:
                    metrics.request_seconds.observe(time.perf_counter() - started)
            await send(message)

        try:
            self._check(Headers(scope=scope))
        except HTTPException as error:
            await error_answer(error)(scope, receive, counted)
            return
        self.inside += 1
        metrics.waiting.inc()
        try:
            await self.app(scope, limited(receive, self.service.limits), counted)
        finally:
            self.inside -= 1
            metrics.waiting.dec()

    def _check(self, headers: Headers) -> None:
        """Refuse what can be refused by the headers."""
        limits = self.service.limits
        if self.service.stopping:
            raise HTTPException(503, STOPPING)
        if self.inside >= limits.requests:
            raise HTTPException(
                429,
                f"{self.inside} photographs are waiting, which is the limit; try again later",
                {"Retry-After": "1"},
            )
        kind = headers.get("content-type", "nothing").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            raise HTTPException(
                415, f"body: {kind}, expected multipart/form-data with the file field 'image'"
            )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limits.upload_bytes:
            raise _too_large(limits)


def limited(receive: Receive, limits: Limits) -> Receive:
    """Receives no more bytes, and for no longer, than is allowed.

    Raises:
        HTTPException: 413 or 408.
    """
    got, deadline = 0, time.monotonic() + limits.upload_s
    complete = False

    async def checked() -> Message:
        nonlocal got, complete
        if complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), deadline - time.monotonic())
        except asyncio.TimeoutError as error:
            raise HTTPException(
                408,
                f"the upload took more than {limits.upload_s:g} s; send it again",
                {"Connection": "close"},
            ) from error
        got += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if got > limits.upload_bytes:
            raise _too_large(limits)
        return message

    return checked


def error_answer(error: HTTPException) -> JSONResponse:
    """The JSON of an error: one line."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(
        413, f"body: more than {limits.upload_bytes:,} bytes; make the photograph smaller"
    )
