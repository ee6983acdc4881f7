"""Who may ask: a check of Host and Origin, and, when a password is set, one login for pages and routes alike.

Without a password the app listens on loopback only, where the danger is another site in the user's browser:
the Host check stops DNS rebinding, the Origin check stops cross-site posts.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
import time
from collections import OrderedDict
from hashlib import sha256
from html import escape
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.theme import DARK, LIGHT

COOKIE = "bgpo_login"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# parts of Gradio that this app has no use for: its editor, its proxy to other machines, its statistics, its uploads
_CLOSED = re.compile(
    r"/gradio_api/(vibe|undo-vibe|dev/|proxy=|process_recording|custom_component|runs|upload)|/monitoring"
)
_MAX_FORM = 4096
FREE_TRIES = 5  # wrong passwords of one address before it has to wait
_LONGEST_WAIT = 60.0  # seconds
_ADDRESSES = 4096


class Tries:
    """Wrong passwords by address: after some, each doubles the wait before the next is looked at."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds until another try of this address is looked at; 0 when it may try now."""
        count, last = self._wrong.get(address, (0, 0.0))
        pause = min(_LONGEST_WAIT, 2.0 ** (count - FREE_TRIES)) if count >= FREE_TRIES else 0.0
        return max(0.0, last + pause - time.monotonic())

    def failed(self, address: str) -> None:
        count, _ = self._wrong.pop(address, (0, 0.0))
        self._wrong[address] = (count + 1, time.monotonic())
        while len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)

    def succeeded(self, address: str) -> None:
        self._wrong.pop(address, None)


class Access:
    """ASGI middleware around the whole app.

    Args:
        app: what is protected.
        hosts: host names that may be asked for; None allows any (an open host name cannot be known beforehand).
        password: None leaves the door open.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None = None, password: str | None = None):
        self.app = app
        self.hosts = hosts
        self.password = password
        # a new key at each start: a restart logs everybody out, and nothing secret is kept on disk
        self._ticket = hmac.new(secrets.token_bytes(32), b"bgpo login", sha256).hexdigest()
        self._tries = Tries()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refuse(scope)
        if refusal is None and self.password is not None and not self._logged_in(scope):
            http = scope["type"] == "http"
            refusal = await self._ask(Request(scope, receive)) if http else _denied("Log in first.", 401)
        await (refusal or self.app)(scope, receive, send)

    def _refuse(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return _denied("This app answers to localhost only. Open it as http://localhost with its port.", 400)
        origin = headers.get("origin")
        unsafe = scope["type"] == "websocket" or scope["method"] not in _SAFE
        if unsafe and origin is not None and _of(origin) != host:
            return _denied("This request comes from another site and was refused.", 403)
        if headers.get("sec-fetch-site") == "cross-site" and scope["path"].startswith("/api/"):
            return _denied("This request comes from another site and was refused.", 403)
        if _CLOSED.match(scope["path"]):
            return _denied("There is no such page.", 404)
        return None

    def _logged_in(self, scope: Scope) -> bool:
        request = Request(scope) if scope["type"] == "http" else None
        if request is None:
            return f"{COOKIE}={self._ticket}" in Headers(scope=scope).get("cookie", "")
        if hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), self._ticket.encode()):
            return True
        given = _basic_password(request.headers.get("authorization", ""))
        return given is not None and self._right(given, _address(scope))

    def _right(self, given: str, address: str) -> bool:
        """Whether it is the password; False without a look while the address has to wait."""
        if self._tries.wait(address):
            return False
        if hmac.compare_digest(given.encode(), (self.password or "").encode()):
            self._tries.succeeded(address)
            return True
        self._tries.failed(address)
        return False

    async def _ask(self, request: Request) -> Response:
        if request.url.path == "/login" and request.method == "POST":
            body = b""
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_FORM:
                    return _denied("That form is too long.", 413)
            given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
            address = _address(request.scope)
            if wait := self._tries.wait(address):
                sentence = f"Too many wrong passwords; try again in {wait:.0f} seconds."
                return HTMLResponse(_login_page(sentence), status_code=429, headers={"Retry-After": f"{wait:.0f}"})
            if self._right(given, address):
                answer = RedirectResponse("/", status_code=303)
                answer.set_cookie(COOKIE, self._ticket, httponly=True, samesite="strict", path="/")
                return answer
            return HTMLResponse(_login_page("That is not the password."), status_code=401)
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_login_page(""), status_code=401)
        return _denied("Log in first.", 401)


def _denied(sentence: str, status: int) -> Response:
    if status == 400:
        return PlainTextResponse(sentence, status_code=status)
    return JSONResponse({"error": sentence}, status_code=status)


def _of(origin: str) -> str | None:
    """Host and port of an origin; None of what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _name(host: str) -> str:
    """The host without its port; an IPv6 address stands in brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _basic_password(header: str) -> str | None:
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(rest, validate=True).decode().partition(":")[2]
    except ValueError:
        return None


def _login_page(message: str) -> str:
    names = ("bg", "surface", "line", "text", "accent", "accent-text", "bad")

    def tokens(colours: dict[str, str]) -> str:
        return ";".join(f"--{name}:{colours[name]}" for name in names)

    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>BGPO Studio</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root{{{tokens(LIGHT)}}} @media (prefers-color-scheme: dark){{:root{{{tokens(DARK)}}}}}
body{{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--bg);color:var(--text);
font:15px/1.5 system-ui,sans-serif}}
form{{background:var(--surface);border:1px solid var(--line);border-radius:8px;padding:28px;width:min(320px,80vw)}}
h1{{font-size:18px;margin:0 0 16px}} label{{font-size:13px}} p{{color:var(--bad);margin:10px 0 0;font-size:13px}}
input,button{{box-sizing:border-box;width:100%;font:inherit;padding:9px 11px;border-radius:6px;
border:1px solid var(--line)}}
input{{margin:4px 0 12px;background:var(--bg);color:var(--text)}}
button{{background:var(--accent);color:var(--accent-text);font-weight:600}}
:focus-visible{{outline:2px solid var(--accent);outline-offset:2px}}
</style></head><body><form method="post" action="/login"><h1>BGPO Studio</h1><label for="p">Password</label>
<input id="p" name="password" type="password" autofocus autocomplete="current-password"><button>Log in</button>
{f'<p role="alert">{escape(message)}</p>' if message else ''}</form></body></html>"""
