"""What our routes answer with and how they read what is posted to them."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import anyio
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from ui.compression import chosen, packed

MAX_BODY = 64 * 1024
PACKED_FROM = 1000  # bytes
_EFFORT = 4  # a long list takes 6 ms; harder makes it hardly smaller


def json_answer(request: Request, answer: Any, status: int = 200) -> Response:
    body = json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()
    headers = {"Cache-Control": "no-store"}
    if len(body) > PACKED_FROM and (way := chosen(request.headers.get("accept-encoding", ""))):
        body, headers["Content-Encoding"] = packed(body, way, _EFFORT), way
    return Response(body, status_code=status, media_type="application/json", headers=headers)


class EventStream(StreamingResponse):
    """One JSON object a line, each sent as it is made. `events` is closed once the browser has all or goes away.

    Left to the garbage collector, an answer that nobody reads would keep its turn, and others waiting, for minutes.
    """

    def __init__(self, events: Generator[dict[str, Any], None, None]):
        self._lines = _lines(events)
        super().__init__(self._lines, media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(self._lines.close)


def _lines(events: Generator[dict[str, Any], None, None]) -> Generator[bytes, None, None]:
    for event in events:
        yield json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class RefusedRequest(Exception):
    """A request that gets a sentence instead of an answer."""

    def __init__(self, sentence: str, status: int = 400, problems: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status = status
        self.problems = problems or {}


async def body_of(request: Request, most: int = MAX_BODY) -> dict[str, Any]:
    """The JSON object of at most `most` bytes in a request; raises RefusedRequest."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RefusedRequest("Send JSON with the content type application/json.", 415)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise RefusedRequest(f"The request is longer than {most} bytes.", 413)
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError):  # the second by very many brackets
        raise RefusedRequest("The request is not JSON.") from None
    if not isinstance(value, dict):
        raise RefusedRequest("The request is not a JSON object.")
    return value
