"""Between a client and a PostgreSQL server."""

import contextlib
import socket
import threading
from collections.abc import Callable


class Relay:
    """It acknowledges whatever comes. After `stop` it hands nothing on, over connections from before never again; `go_on` lets new ones.

    `changed`: what becomes of what the server says.
    """

    def __init__(self, target: str, changed: Callable[[bytes], bytes] = lambda data: data) -> None:
        self._target = target
        self._changed = changed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._stops = 0
        self._is_open = True
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self._stops += 1
        self._is_open = False

    def go_on(self) -> None:
        self._is_open = True

    def url(self, database: str) -> str:
        return f"postgresql://tocsin@127.0.0.1:{self.port}/{database}"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.socket(socket.AF_UNIX)
                theirs.connect(self._target)
                for one, other in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._hand_on, args=(one, other, self._stops), daemon=True).start()

    def _hand_on(self, one: socket.socket, other: socket.socket, stops: int) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if self._is_open and self._stops == stops:
                    other.sendall(self._changed(data) if other.family is socket.AF_INET else data)
            other.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()
