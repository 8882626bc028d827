"""The page: plain files, held in memory by name, so that no path of a client is ever opened."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tellapart.server.refusing import Refused

# Scripts, styles and answers of this server alone. Pictures may also come from the visitor's own
# files (blob:). Trusted types: the browser itself refuses to turn text into markup.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


def _read() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Read every file of the page, with the headers that it is sent with."""
    files = {}
    for path in sorted((Path(__file__).parent / "page").iterdir()):
        data = path.read_bytes()
        files[path.name] = (
            data,
            {
                "Content-Type": _KINDS[path.suffix],
                "Content-Security-Policy": POLICY,
                "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
                # Asked for each time, sent only when it is another one.
                "Cache-Control": "no-cache",
                "ETag": f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"',
            },
        )
    return files


_FILES = _read()


async def _send(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    if name not in _FILES:
        raise Refused(404, "not_found", "The page has no such file.")
    data, headers = _FILES[name]
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers)


# Not described in OpenAPI: they are for browsers. Without a token, as it is the page that asks.
router = APIRouter(routes=[Route("/", _send), Route("/page/{name}", _send)])
