"""Between a client and a PostgreSQL server."""

import contextlib
import socket
import threading
import weakref
from collections.abc import Callable

_HEAD = 5  # bytes before what a server's message says: its kind, and how long it is without that
_NOTIFICATION = ord("A")  # https://www.postgresql.org/docs/current/protocol-message-formats.html


class Relay:
    """It acknowledges whatever comes. After `stop` it hands nothing on, over connections from before never again; `go_on` lets new ones.

    `target`: the server's Unix socket. `changed`: what becomes of what the server says. `is_deaf`: what NOTIFY says does not come through.
    """

    def __init__(self, target: str, changed: Callable[[bytes], bytes] = lambda data: data, *, is_deaf: bool = False) -> None:
        self.target = target
        self._changed = changed
        self._is_deaf = is_deaf
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._stops = 0
        self._is_open = True
        self._servers: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self._stops += 1
        self._is_open = False

    def go_on(self) -> None:
        self._is_open = True

    def url(self, database: str) -> str:
        return f"postgresql://tocsin@127.0.0.1:{self.port}/{database}?sslmode=disable&gssencmode=disable"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.socket(socket.AF_UNIX)
                try:
                    theirs.connect(self.target)
                except OSError:  # the server is not there
                    ours.close()
                    theirs.close()
                    continue
                self._servers.add(theirs)
                said = without_notifications() if self._is_deaf else self._changed
                for one, other, changed in ((ours, theirs, _as_it_is), (theirs, ours, said)):
                    threading.Thread(target=self._hand_on, args=(one, other, changed, self._stops), daemon=True).start()

    def _hand_on(self, one: socket.socket, other: socket.socket, changed: Callable[[bytes], bytes], stops: int) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if self._is_open and self._stops == stops:
                    other.sendall(changed(data))
        with contextlib.suppress(OSError):
            if self._stops == stops:  # else nobody is told, as where a network is cut
                other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()
        for one in list(self._servers):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _as_it_is(data: bytes) -> bytes:
    return data


def without_notifications() -> Callable[[bytes], bytes]:
    """For one connection: what is left of each piece of what the server says. Without encryption everything is whole messages."""
    waiting = bytearray()

    def changed(data: bytes) -> bytes:
        waiting.extend(data)
        left = bytearray()
        while len(waiting) >= _HEAD and len(waiting) > (length := int.from_bytes(waiting[1:_HEAD], "big")):
            if waiting[0] != _NOTIFICATION:
                left += waiting[: length + 1]
            del waiting[: length + 1]
        return bytes(left)

    return changed
