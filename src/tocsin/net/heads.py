"""The heads of requests and answers as text: what libcurl is told to write, and what it has read. Pure."""

import codecs
import contextlib
import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence

_EXPECTS_FROM = 1 << 20  # bytes: for larger bodies libcurl would ask first, with `Expect: 100-continue`
_GZIP_OR_ZLIB, _RAW = zlib.MAX_WBITS | 32, -zlib.MAX_WBITS
_FORMS = {"gzip": (_GZIP_OR_ZLIB,), "x-gzip": (_GZIP_OR_ZLIB,), "deflate": (_GZIP_OR_ZLIB, _RAW)}  # many servers' deflate is raw
_UNREAD = frozenset({"br", "zstd", "compress", "x-compress"})
_PACKED = b"(compressed)"
_NOT_OF_TEXT = bytes(byte for byte in range(0x20) if byte not in b"\t\n\f\r\x1b")
_BARE = bytes(byte if 0x20 <= byte < 0x7F else 0 for byte in range(256))  # control characters become NUL


def target(url: str) -> str:
    """The target of the request line: everything after the host of a URL, byte for byte, without the fragment."""
    authority_on = url.partition("://")[2].partition("#")[0]
    end = next((at for at, character in enumerate(authority_on) if character in "/?"), len(authority_on))
    rest = authority_on[end:]
    return rest if rest.startswith("/") else f"/{rest}"


def header_lines(headers: tuple[tuple[str, str], ...], body_size: int) -> list[str]:
    """The header lines in libcurl's notation: `Name;` is an empty header, `Name:` one that is left out."""
    names, values = zip(*headers, strict=True) if headers else ((), ())
    lines = list(map(": ".join, headers))
    text = "".join(lines).encode("ascii")  # a ValueError where it is not
    if b"\0" in text.translate(_BARE):
        raise ValueError("a header with control characters")
    if not all(values):
        lines = [line if value else f"{name};" for line, name, value in zip(lines, names, values, strict=True)]
    lines += _lines_of_ours(names)
    if body_size >= _EXPECTS_FROM:
        lines.append("Expect:")
    return lines


@functools.lru_cache(maxsize=64)
def _lines_of_ours(names: tuple[str, ...]) -> tuple[str, ...]:
    """The lines that are added, or suppressed, besides the headers of these names."""
    given = {name.lower() for name in names}
    more: list[str] = []
    if "content-type" not in given:
        more.append("Content-Type:")
    if "accept-encoding" not in given:
        more.append("Accept-Encoding: identity")
    return tuple(more)


def is_text(body: bytes) -> bool:
    """Whether people can read it; it may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(body)
    except UnicodeDecodeError:
        return False
    return len(body.translate(None, _NOT_OF_TEXT)) == len(body)


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """A body that came compressed although we did not ask for it, up to `limit` bytes; a remark in its place if it cannot be read."""
    names = {name.strip() for name in encoding.lower().split(",")}
    if not names & (_FORMS.keys() | _UNREAD):
        return body
    for wbits in _FORMS.get(names.pop(), ()) if len(names) == 1 else ():
        with contextlib.suppress(zlib.error):
            if found := zlib.decompressobj(wbits=wbits).decompress(body, limit):
                return found
    return _PACKED


class Headers(Mapping[str, str]):
    """An answer's headers, parsed only on demand: for most answers the status is enough."""

    __slots__ = ("_found", "_lines")

    def __init__(self, lines: tuple[bytes, ...]) -> None:
        self._lines = lines
        self._found: dict[str, str] | None = None

    def _read(self) -> dict[str, str]:
        if self._found is None:
            self._found = read_headers(self._lines) or {}
        return self._found

    def __getitem__(self, name: str) -> str:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


def read_headers(lines: Sequence[bytes]) -> dict[str, str] | None:
    """The headers of the last answer heard, None if they were cut. 1xx answers and a proxy's may precede them, trailers may follow."""
    headers: dict[str, str] = {}
    in_head = False
    for line in lines:
        if not in_head:
            if line.startswith(b"HTTP/"):
                headers.clear()
                in_head = True
        elif line in {b"\r\n", b"\n"}:
            in_head = False
        else:
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.rstrip().lower()] = value.strip()
    return None if in_head else headers
