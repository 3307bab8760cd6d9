"""Captions for programs: POST /caption, GET /health; and the fence that the page stands behind too."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from capbench import __version__
from capbench.errors import UserError
from capbench.model import Caption
from capbench.serve.service import Service
from capbench.serve.uploads import MAX_BYTES, Refusal, require_size

FORM = 2**12
"""Bytes that a form puts around a file."""
PATIENCE = 30
"""Seconds that an upload may take."""
FROM_HERE_ALONE = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
"""Browsers fetch nothing from elsewhere for the page; gradio's page is made of inline scripts."""


def make_app(service: Service) -> FastAPI:
    """What answers programs."""
    app = FastAPI(title="capbench", version=__version__, docs_url=None, redoc_url=None)  # those fetch their scripts
    app.add_middleware(Fence)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        checkpoints = [{"name": name, "attention": attends} for name, attends in service.attends.items()]
        return {"status": "ok", "version": __version__, "checkpoints": checkpoints, "in_hand": service.taken}

    @app.post("/caption")
    async def caption(
        request: Request,
        checkpoint: str | None = None,
        num_captions: int = 1,
        beam: int | None = None,
        max_words: int | None = None,
        min_words: int | None = None,
        length_penalty: float | None = None,
        no_repeat_ngram: int | None = None,
        sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        attention: bool = False,
    ) -> dict[str, Any]:
        given = {
            **{"beam": beam, "max_words": max_words, "min_words": min_words, "length_penalty": length_penalty},
            **{"no_repeat_ngram": no_repeat_ngram, "sample": sample, "temperature": temperature},
            **{"top_k": top_k, "top_p": top_p},
        }
        name = checkpoint or next(iter(service.models))
        changes = {option: value for option, value in given.items() if value is not None}
        searches = {name: service.options(name, num_captions, changes)}
        if attention and not service.attends[name]:
            raise Refusal(400, f"{name} is a decoder without attention: leave out attention=true.")
        with service.place():
            data = await _upload(request)
            _, found = await _unless_gone(request, service.caption(data, searches, attention))
        return {"checkpoint": name, "captions": [_row(each) for each in found[name]]}

    @app.exception_handler(UserError)
    async def refuse(request: Request, error: UserError) -> JSONResponse:
        return _answer(error)

    @app.exception_handler(HTTPException)
    async def refuse_form(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return JSONResponse({"error": "You have hung up."}, 499)  # nobody reads it

    @app.exception_handler(RequestValidationError)
    async def refuse_option(request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = error.errors()[0]
        return JSONResponse({"error": f"{wrong['loc'][-1]}: {wrong['msg']}, not {wrong.get('input')!r}."}, 400)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "This picture could not be captioned: the server's log says why."}, 500)

    return app


class Fence:
    """Refuses requests that are too large before they are read, and lets pages load nothing from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        try:
            if "transfer-encoding" in headers:
                raise Refusal(411, "A request here says how long it is: send a Content-Length.")
            require_size(int(headers.get("content-length", 0)) - FORM)
        except Refusal as refusal:
            await _drain(receive)  # many clients read no answer before they have sent all
            return await _answer(refusal)(scope, receive, send)

        async def send_fenced(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["content-security-policy"] = FROM_HERE_ALONE
            await send(message)

        return await self.app(scope, receive, send_fenced)


async def _drain(receive: Receive) -> None:
    left = 10 * MAX_BYTES
    try:
        async with asyncio.timeout(PATIENCE):
            while left > 0 and (message := await receive()).get("more_body"):
                left -= len(message["body"])
    except TimeoutError:
        pass


async def _upload(request: Request) -> bytes:
    """The picture: the body, or the first file of a form."""
    try:
        async with asyncio.timeout(PATIENCE):
            if not request.headers.get("content-type", "").startswith("multipart/form-data"):
                return await request.body()
            async with request.form(max_files=1) as form:
                files = [value for value in form.values() if isinstance(value, UploadFile)]
                return await files[0].read() if files else b""
    except TimeoutError as error:
        raise Refusal(408, f"The upload took more than {PATIENCE} seconds: try a smaller picture.") from error


async def _unless_gone(request: Request, captions: Any) -> Any:
    """What comes of the captions; they are given up when the client hangs up."""
    working, gone = asyncio.ensure_future(captions), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


def _answer(error: UserError) -> JSONResponse:
    status = error.status if isinstance(error, Refusal) else 400
    return JSONResponse({"error": str(error)}, status, headers={"Retry-After": "1"} if status == 503 else None)


def _row(caption: Caption) -> dict[str, Any]:
    row: dict[str, Any] = {"caption": caption.text, "log_prob": caption.log_prob}
    return row if caption.attention is None else row | {"attention": caption.attention.tolist()}
