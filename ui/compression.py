"""Bodies made small for the wire: by Brotli where the browser takes it, which is over HTTPS and on its own machine,
else by gzip."""

from __future__ import annotations

import gzip
import re

import brotli

_NAMES = re.compile(r"\s*([\w*-]+)\s*(?:;\s*q\s*=\s*([\d.]+))?\s*")


def chosen(accepted: str) -> str:
    """The better of the ways that an Accept-Encoding header allows: "br", "gzip" or ""."""
    found = (_NAMES.fullmatch(part) for part in accepted.lower().split(","))
    allowed = {match[1] for match in found if match and (match[2] is None or match[2].strip("0."))}
    return next((name for name in ("br", "gzip") if name in allowed), "")


def packed(body: bytes, way: str, effort: int) -> bytes:
    """`body` in a way that `chosen` gave.

    Args:
        effort: 1 to 9. Of the same effort Brotli takes about as long as gzip.
    """
    if way == "br":
        return brotli.compress(body, mode=brotli.MODE_TEXT, quality=effort)
    return gzip.compress(body, effort, mtime=0) if way == "gzip" else body
