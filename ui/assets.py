"""Our JavaScript and style sheets, and Plotly's script from the installed package: compressed once, cached by hash."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.convertors import Convertor, register_url_convertor

COMPONENTS = Path(__file__).parent / "components"
_TYPES = {"js": "text/javascript", "css": "text/css"}
PLOTLY = "plotly.min.js"


class AssetName(Convertor[str]):
    """Our names only. Gradio serves its own files, whose names carry a hash, under the same folder."""

    regex = r"[a-z0-9_]+\.(?:js|css)|plotly\.min\.js"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("asset_name", AssetName())


@dataclass(frozen=True)
class Asset:
    body: bytes
    zipped: bytes
    tag: str
    media_type: str


@lru_cache(maxsize=128)
def _load(path: Path, changed_ns: int) -> Asset:
    body = path.read_bytes()
    return Asset(
        body, gzip.compress(body, 6, mtime=0), f'"{hashlib.sha256(body).hexdigest()[:20]}"', _TYPES[path.suffix[1:]],
    )


def find(name: str) -> Asset | None:
    """The asset of that name, or None. Only plain names of files beside the components are ever looked at."""
    if name == PLOTLY:
        path = Path(str(files("plotly") / "package_data" / PLOTLY))
    elif re.fullmatch(AssetName.regex, name, re.ASCII):
        path = COMPONENTS / name
    else:
        return None
    return _load(path, path.stat().st_mtime_ns) if path.is_file() else None


router = APIRouter()


@router.get("/assets/{name:asset_name}")
def asset(name: str, request: Request) -> Response:
    found = find(name)
    if found is None:
        return Response("There is no such file.", status_code=404, media_type="text/plain")
    # modules import each other by their plain names, so a browser asks each time and mostly gets a 304
    headers = {"ETag": found.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if name == PLOTLY:
        headers["Cache-Control"] = "max-age=86400"
    if request.headers.get("if-none-match") == found.tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.zipped, media_type=found.media_type, headers=headers | {"Content-Encoding": "gzip"})
    return Response(found.body, media_type=found.media_type, headers=headers)
