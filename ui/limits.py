"""What every request and answer keeps to: a size that a body may have, and headers that keep browsers strict."""

from __future__ import annotations

from gradio.brotli_middleware import BrotliResponder, Mode
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.compression import chosen

MAX_BODY = 8 * 2**20  # bytes; forms, chats and edited traces are far below
MAX_UPLOAD = 8 * 2**30  # bytes; an archive of a run holds checkpoints
UPLOADS = ("/api/archives",)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class ZippedPage:
    """ASGI middleware that compresses the page itself, whose layout Gradio sends as some 350 KB of text.

    Nothing else: our routes and assets do it themselves, and a stream must not wait in a compressor.
    """

    def __init__(self, app: ASGIApp):
        self.app, self.zipped = app, GZipMiddleware(app, minimum_size=1000, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and scope["path"] in ("/", "/config"):
            # Gradio's own middleware packs what has a file's ending
            brotli = chosen(Headers(scope=scope).get("accept-encoding", "")) == "br"
            app = BrotliResponder(app, 4, Mode.text, 22, 0, 1000) if brotli else self.zipped
        await app(scope, receive, send)


class _TooLong(Exception):
    """Unwinds from the middle of a body that says no length."""


class Limits:
    """ASGI middleware around the whole app: refuses bodies over the limit with 413, adds the headers.

    Args:
        app: what is protected.
        max_body, max_upload: bytes; the second holds for the routes in UPLOADS.
    """

    def __init__(self, app: ASGIApp, max_body: int = MAX_BODY, max_upload: int = MAX_UPLOAD):
        self.app, self.max_body, self.max_upload = app, max_body, max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.max_upload if scope["path"].startswith(UPLOADS) else self.max_body
        began, taken = False, 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise _TooLong
            return message

        async def strict(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if _said(scope) > limit:
                raise _TooLong
            await self.app(scope, counted, strict)
        except _TooLong:
            if began:
                raise
            sentence = f"The request is larger than {limit / 2**20:,.0f} MiB, the most that is taken here; send less."
            await JSONResponse({"error": sentence}, status_code=413)(scope, receive, strict)


def _said(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "")
    # more digits than any limit has would be slow to read, and is too long in any case
    return int(length[:20]) if length.isascii() and length.isdigit() else 0
