"""A request that offers another protocol (`Upgrade: h2c`, `websocket`) is read as one without the offer, which RFC 9110 7.8 permits.

The parser stops after the head of such a request, as if the other protocol began there, and would read the body as the next request.
So another parser takes over after the head; it first gets a head of our own that says how the body is framed.
"""

from collections.abc import Iterable
from typing import Protocol

import httptools

_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


class Callbacks(Protocol):
    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class _BehindHead:
    """Passes on what the parser finds after the first head, which `to` already has."""

    def __init__(self, to: Callbacks) -> None:
        self._to = to
        self._is_behind = False
        self.on_body = to.on_body
        self.on_message_complete = to.on_message_complete

    def on_message_begin(self) -> None:
        if self._is_behind:
            self._to.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._is_behind:
            self._to.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_behind:
            self._to.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_behind:
            self._to.on_headers_complete()
        self._is_behind = True


def parser_behind(head: Iterable[tuple[bytes, bytes]], to: Callbacks, keeps_alive: bool) -> httptools.HttpRequestParser:
    """A parser that is past these headers (names in lower case) and expects the body."""
    lines = [b"%s: %s\r\n" % (name, value) for name, value in head if name in _FRAMING]
    if not keeps_alive:
        lines.append(b"connection: close\r\n")
    parser = httptools.HttpRequestParser(_BehindHead(to))
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
    parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(lines))
    return parser
