"""The receivers' two doors on loopback: HTTP for eight types, SMTP for mail. Everything received is put into a queue."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from msgspec import Struct

from tocsin.cli.demo.providers import Answer, Provider, Taken, readable

LOOPBACK = "127.0.0.1"
_LONGEST_BODY = 1 << 20


class Arrival(Struct, frozen=True):
    """A request that reached a receiver. `at` is time.monotonic(); `why` is empty if it was accepted."""

    type: str
    text: str
    at: float
    why: str = ""


Arrivals = SimpleQueue[Arrival]


class Receiver:
    """Plays the HTTP providers. `fail_next` scripts answers: each is used once, before the provider answers by itself."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._providers: list[Provider] = []
        self._scripted: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler_class())
        self.port: int = self._server.server_address[1]
        self.url = f"http://{LOOPBACK}:{self.port}"

    def play(self, providers: Sequence[Provider]) -> None:
        self._providers.extend(providers)

    def provider(self, type_: str) -> Provider:
        return next(provider for provider in self._providers if provider.type == type_)

    def fail_next(self, type_: str, answer: Answer) -> None:
        with self._lock:
            self._scripted[type_].append(answer)

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        thread = threading.Thread(target=self._server.serve_forever, name="demo-receiver", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _take(self, taken: Taken) -> Answer:
        path = taken.url.removeprefix(self.url).partition("?")[0]
        provider = next((provider for provider in self._providers if provider.path.fullmatch(path)), None)
        if provider is None:
            return Answer(404, b"nobody lives here")
        at = time.monotonic()
        answer = self._next_scripted(provider) or provider.accept(taken)
        self._arrivals.put(Arrival(provider.type, readable(provider.text(taken)), at, answer.why))
        return answer

    def _next_scripted(self, provider: Provider) -> Answer | None:
        with self._lock:
            waiting = self._scripted[provider.type]
            return waiting.popleft() if waiting else None

    def _handler_class(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1  # status, headers and body in one piece

            def do_POST(self) -> None:
                length = min(int(self.headers.get("Content-Length") or 0), _LONGEST_BODY)
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = receiver._take(Taken(receiver.url + self.path, headers, self.rfile.read(length)))
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body if answer.status != 204 else b"")
                self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                """The demo has its own display."""

        return Handler


class _Mailbox:
    """aiosmtpd's hooks: accepts every mail."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: ARG002, N802 - aiosmtpd's hook
        content = envelope.content if isinstance(envelope.content, bytes) else (envelope.content or "").encode()
        mail = message_from_bytes(content, policy=policy.default)
        self._arrivals.put(Arrival("email", str(mail["Subject"] or ""), time.monotonic()))
        return "250 2.0.0 taken"


@contextmanager
def mail_server(arrivals: Arrivals) -> Generator[int, None, None]:
    """A mail server on a free loopback port, which it yields."""
    controller = Controller(_Mailbox(arrivals), hostname=LOOPBACK, port=free_port())
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


def free_port(wanted: int = 0) -> int:
    """`wanted` if it is free, else another port that is."""
    import socket

    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise OSError("no free port on loopback")
