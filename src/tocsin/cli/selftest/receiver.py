"""Where the selftest's messages go: a web server on loopback that answers on each path as told, and remembers what it received."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from msgspec import Struct

LOOPBACK = "127.0.0.1"
_PATIENCE_SECONDS = 120.0  # for an answer that never comes


class Arrival(Struct, frozen=True):
    """A notification at a receiver. `at`: time.time(). `status`: of the answer, 0 if there was none. `identity`: its webhook-id.

    `text`: of the message, or of the whole request where that is no webhook's; it names no delivery then, so that is 0.
    """

    delivery_id: int
    path: str
    at: float
    status: int
    identity: str = ""
    text: str = ""


class Answer(Struct, frozen=True):
    """`status` 0: never answers."""

    status: int = 200
    retry_after: str | None = None
    delay_seconds: float = 0.0


Behaviour = Callable[[int], Answer]  # given the number of earlier requests on this path


class _Body(Struct):
    data: dict[str, Any] = {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 200

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A killed service drops its connections: that is not an error here."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Receiver:
    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self._behaviours: dict[str, Behaviour] = {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._server = _Server((LOOPBACK, 0), self._handler_class())
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def behave(self, path: str, behaviour: Behaviour) -> None:
        self._behaviours[path] = behaviour

    def taken(self) -> Counter[int]:
        """How often each delivery was answered with 2xx."""
        with self._lock:
            return Counter(one.delivery_id for one in self.arrivals if 200 <= one.status < 300)

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        thread = threading.Thread(target=self._server.serve_forever, name="selftest-receiver", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ends.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _answer(self, path: str, body: bytes, identity: str) -> Answer:
        with self._lock:
            count = self._counts[path]
            self._counts[path] += 1
        answer = self._behaviours.get(path, lambda _: Answer())(count)
        data = msgspec.json.decode(body, type=_Body).data
        text = str(data.get("message") or body.decode(errors="replace"))
        if answer.delay_seconds:
            self._ends.wait(answer.delay_seconds)
        with self._lock:
            self.arrivals.append(Arrival(int(data.get("delivery_id") or 0), path, time.time(), answer.status, identity, text))
        if not answer.status:
            self._ends.wait(_PATIENCE_SECONDS)
        return answer

    def _handler_class(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = receiver._answer(self.path, body, self.headers.get("webhook-id") or "")
                if not answer.status:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                if answer.retry_after is not None:
                    self.send_header("Retry-After", answer.retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()
                self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                """The selftest has its own display."""

        return Handler
