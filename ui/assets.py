"""Our JavaScript and style sheets, and Plotly's script from the installed package: compressed once, cached by hash.

Their addresses hold a version, so a browser keeps them and does not ask again. Modules name each other relative to
themselves, and so all of a page are of one version.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.convertors import Convertor, register_url_convertor

from ui.compression import chosen, packed

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


class AssetVersion(AssetName):
    """As `version` gives it, whichever it is."""

    regex = r"[0-9a-f]{16}"


register_url_convertor("asset_name", AssetName())
register_url_convertor("asset_version", AssetVersion())


@dataclass(frozen=True)
class Asset:
    body: bytes
    tag: str
    media_type: str


@lru_cache(maxsize=256)
def _load(path: Path, changed_ns: int) -> Asset:
    body = path.read_bytes()
    return Asset(body, f'"{hashlib.sha256(body).hexdigest()[:20]}"', _TYPES[path.suffix[1:]])


@lru_cache(maxsize=256)
def _packed(asset: Asset, way: str) -> bytes:
    return packed(asset.body, way, 5)


def find(name: str) -> Asset | None:
    """The asset of that name, or None. Only plain names of files beside the components are ever looked at."""
    if name == PLOTLY:
        path = Path(str(files("plotly") / "package_data" / PLOTLY))
    elif re.fullmatch(AssetName.regex, name, re.ASCII):
        path = COMPONENTS / name
    else:
        return None
    return _load(path, path.stat().st_mtime_ns) if path.is_file() else None


@cache
def _tags() -> dict[str, str]:
    """The tag of each asset as it is when the pages are built."""
    names = sorted(path.name for path in COMPONENTS.iterdir() if path.suffix[1:] in _TYPES)
    return {name: find(name).tag for name in (*names, PLOTLY)}


@cache
def version() -> str:
    """One for all assets: whatever changes, a page has its modules from one moment."""
    return hashlib.sha256("".join(_tags().values()).encode()).hexdigest()[:16]


def address(name: str) -> str:
    """Where an asset is for the pages of this process."""
    return f"/assets/{version()}/{name}"


router = APIRouter()


@router.get("/assets/{name:asset_name}")
@router.get("/assets/{of:asset_version}/{name:asset_name}")
def asset(name: str, request: Request, of: str = "") -> Response:
    found = find(name)
    if found is None:
        return Response("There is no such file.", status_code=404, media_type="text/plain")
    # a page of another version, or a file that was changed since the start, is asked for each time
    kept = of == version() and found.tag == _tags().get(name)
    headers = {"ETag": found.tag, "Cache-Control": "max-age=31536000, immutable" if kept else "no-cache",
               "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == found.tag:
        return Response(status_code=304, headers=headers)
    if way := chosen(request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"] = way
    return Response(_packed(found, way) if way else found.body, media_type=found.media_type, headers=headers)
