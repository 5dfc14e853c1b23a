"""Style sheet, scripts and icon: read and compressed once, cached by browsers until their address changes."""

import functools
import hashlib
import mimetypes
from gzip import compress
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"


class Asset:
    def __init__(self, name: str, content: bytes) -> None:
        self.content = content
        self._packed = compress(content, mtime=0)
        self._type = mimetypes.guess_type(name)[0] or "text/plain"

    def response(self, request: Request) -> Response:
        is_packed = "gzip" in request.headers.get("accept-encoding", "")
        headers = {"cache-control": "public, max-age=31536000, immutable", "vary": "Accept-Encoding"}
        if is_packed:
            headers["content-encoding"] = "gzip"
        return Response(self._packed if is_packed else self.content, headers=headers, media_type=self._type)


@functools.cache
def assets() -> dict[str, Asset]:
    """By their paths."""
    return {f"/static/{file.name}": Asset(file.name, file.read_bytes()) for file in sorted(FOLDER.iterdir()) if file.is_file()}


@functools.cache
def version() -> str:
    """Changes whenever one of them does; part of the addresses."""
    return hashlib.sha256(b"".join(asset.content for asset in assets().values())).hexdigest()[:10]
