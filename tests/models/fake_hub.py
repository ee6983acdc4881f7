"""A model hub on this machine: the routes that the hub's client asks for, over a folder of model folders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What is served and what was asked.

    Attributes:
        models: id -> folder; gated: ids that need `token`.
        asked: (path, Authorization header) of every request.
        broken_after: bytes after which a file's transfer breaks off; None: never.
    """

    url: str = ""
    models: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_secret"
    asked: list[tuple[str, str]] = field(default_factory=list)
    broken_after: int | None = None


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            given = self.headers.get("Authorization", "")
            hub.asked.append((path, given))
            parts = path.removeprefix("/api/models").strip("/").split("/")
            repo = "/".join(parts[:2])
            if repo not in hub.models:
                return self._error(401 if not given else 404, "RepoNotFound", "Repository not found")
            if repo in hub.gated and given != f"Bearer {hub.token}":
                return self._error(403, "GatedRepo", f"Access to model {repo} is restricted.")
            if path.startswith("/api/models/"):
                revision = parts[3] if len(parts) > 3 else "main"
                if revision not in ("main", COMMIT):
                    return self._error(404, "RevisionNotFound", "Revision not found")
                listing = self._tree(repo) if parts[2:3] == ["tree"] else self._info(repo)
                return self._send(json.dumps(listing).encode(), "application/json", body)
            file = hub.models[repo] / "/".join(parts[4:])
            if not file.is_file():
                return self._error(404, "EntryNotFound", "Entry not found")
            self._send(file.read_bytes(), "application/octet-stream", body, file=True)

        def _info(self, repo: str) -> dict:
            names = sorted(path.name for path in hub.models[repo].iterdir())
            return {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names],
                    "private": False, "tags": [], "downloads": 0, "likes": 0}

        def _tree(self, repo: str) -> list[dict]:
            return [
                {"type": "file", "path": path.name, "size": path.stat().st_size,
                 "oid": hashlib.sha1(path.read_bytes()).hexdigest()}
                for path in sorted(hub.models[repo].iterdir())
            ]

        def _send(self, content: bytes, kind: str, body: bool, file: bool = False) -> None:
            status, sent = 200, content
            wanted = self.headers.get("Range", "")
            if wanted.startswith("bytes="):
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                status, sent = 206, content[int(start) : int(end) + 1 if end else None]
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(sent)))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{int(start) + len(sent) - 1}/{len(content)}")
            if file:
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if not body:
                return
            if file and hub.broken_after is not None and len(sent) > hub.broken_after:
                self.wfile.write(sent[: hub.broken_after])
                self.close_connection = True
                return
            self.wfile.write(sent)

        def _error(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
