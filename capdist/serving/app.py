"""The routes of the server."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp

from capdist.serving.gate import CAPTION, Gate, error_answer
from capdist.serving.page import Page
from capdist.serving.schema import CaptionAnswer, CaptionForm, ErrorAnswer, Health
from capdist.serving.service import Service

_Form = Annotated[CaptionForm, Form(media_type="multipart/form-data")]
_ERRORS = {
    400: "Not a valid form.",
    408: "The upload took too long.",
    413: "Too many bytes or pixels.",
    415: "Not multipart/form-data, or of no picture format that is read.",
    422: "A field is missing or wrong, or the picture is damaged.",
    429: "As many photographs are waiting as are allowed.",
    500: "Captioning failed.",
    503: "The server is stopping.",
}
_DESCRIPTION = 'Captions of photographs by trained runs. Every error is {"error": one line}.'


def create_app(service: Service, page: Page) -> ASGIApp:
    """The application; FastAPI's own pages, which load scripts from elsewhere, are left out."""
    app = FastAPI(title="capdist", description=_DESCRIPTION, docs_url=None, redoc_url=None)
    app.exception_handler(StarletteHTTPException)(_http_error)
    app.exception_handler(RequestValidationError)(_wrong_field)
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer, "description": text} for status, text in _ERRORS.items()
    }

    @app.post(CAPTION, responses={200: {"model": CaptionAnswer}, **errors})
    async def caption(request: Request, form: _Form) -> JSONResponse:
        """Caption a photograph."""
        await _check_once(request)
        return JSONResponse(await service.caption(form))

    @app.get("/healthz", responses={503: {"model": Health}})
    async def health(response: Response) -> Health:
        """Whether photographs are captioned, and by which runs."""
        response.status_code = 503 if service.stopping else 200
        status = "stopping" if service.stopping else "ok"
        return Health(status=status, runs=list(service.captioners))

    @app.get("/metrics")
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page.html, headers=page.headers)

    @app.get("/samples/{number}", include_in_schema=False)
    async def sample(number: int) -> FileResponse:
        if not 0 <= number < len(page.samples):
            raise HTTPException(404, f"no sample {number}, expected 0 to {len(page.samples) - 1}")
        return FileResponse(page.samples[number])

    return Gate(app, service)


async def _check_once(request: Request) -> None:
    """Refuse what would be ignored: options in the URL, and a field of one value given twice."""
    if request.query_params:
        raise HTTPException(422, "the URL has options; send them as fields of the form")
    form = await request.form()
    for name in form:
        if name not in ("forced", "forbidden") and len(form.getlist(name)) > 1:
            raise HTTPException(422, f"{name}: given {len(form.getlist(name))} times; give one")


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    detail = error.detail
    if error.status_code == 400:
        detail = "body: not valid multipart/form-data; send the file field 'image'"
    return error_answer(HTTPException(error.status_code, detail, error.headers))


async def _wrong_field(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "missing":
        message = "is missing; send it as a field of the form"
    elif first["type"] == "extra_forbidden":
        message = f"unknown field, expected one of {', '.join(CaptionForm.model_fields)}"
    elif field == "image":
        message = "is text; send a file"
    else:
        message = f"{first['msg']}, got {first['input']!r}"
    return error_answer(HTTPException(422, f"{field}: {message}"))
