"""The listening side in a thread of this process, over real sockets, with a small application and a clock that the test moves."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tocsin.door import Door, listen
from tocsin.door.register import Rules
from tocsin.settings import load


class Running:
    """`now`: what the register's clock says. `/held` answers once `release` was called; everything else answers what came."""

    def __init__(self, rules: Rules, environ: dict[str, str], uses_uvloop: bool) -> None:
        self.now = 1000.0
        self.requests: list[tuple[str, str]] = []
        self.gone = threading.Semaphore(0)  # one more for each request whose client went away
        self.held = threading.Semaphore(0)  # one more for each request that has come to /held
        self.settings = load({"TOCSIN_PORT": "0", **environ}, Path("/nonexistent/.env"))
        self._listener = listen(self.settings)
        self.port: int = self._listener.getsockname()[1]
        self._rules = rules
        started = threading.Event()
        runner = uvloop.run if uses_uvloop else asyncio.run
        self._thread = threading.Thread(target=lambda: runner(self._serve(started)))
        self._thread.start()
        assert started.wait(20)

    async def _serve(self, started: threading.Event) -> None:
        self.loop = asyncio.get_running_loop()
        self._may_answer = asyncio.Event()
        self.door = Door(self._app, self.settings, self._rules, 5.0, lambda: self.now)
        serving = asyncio.ensure_future(self.door.serve(sockets=[self._listener]))
        while not self.door.started:
            await asyncio.sleep(0)
        started.set()
        await serving

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.release()
                return
            body, more = body + message["body"], message["more_body"]
        self.requests.append((scope["method"], scope["path"]))
        if scope["path"] == "/held":
            self.held.release()
            await self._may_answer.wait()
        names = [name.decode() for name, _ in scope["headers"]]
        content = json.dumps({"path": scope["path"], "size": len(body), "names": names}).encode()
        if scope["path"] == "/large":
            content = b"x" * 8_000_000
        length = (b"content-length", b"%d" % len(content))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": content})

    def call(self, function: Callable[[], Any]) -> Any:
        """On the loop; what it returns."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)

    def passes(self, seconds: float) -> None:
        """Time goes on by so much, and what is overdue is looked for."""

        def sweep() -> None:
            self.now += seconds
            self.door.register.sweep()

        self.call(sweep)

    def until(self, condition: Callable[[], bool]) -> None:
        """Connections and bytes reach the loop in their own time."""
        for _ in range(2000):
            if self.call(condition):
                return
            threading.Event().wait(0.005)
        raise AssertionError("it did not come true")

    def connect(self, data: bytes = b"", source: str | None = None) -> socket.socket:
        wire = socket.create_connection(("127.0.0.1", self.port), 20, (source, 0) if source else None)
        if data:
            wire.sendall(data)
        return wire

    def release(self) -> None:
        self.call(self._may_answer.set)

    def stop(self) -> None:
        if not self._thread.is_alive():
            return
        self.release()
        self.door.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


Start = Callable[..., Running]


@pytest.fixture(params=["uvloop", "asyncio"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """`start(connections=5)`: a server with these rules. `environ`: its settings."""
    with ExitStack() as stack:

        @contextmanager
        def running(rules: Rules, environ: dict[str, str]) -> Iterator[Running]:
            server = Running(rules, environ, request.param == "uvloop")
            try:
                yield server
            finally:
                server.stop()

        def begin(environ: dict[str, str] | None = None, **rules: Any) -> Running:
            return stack.enter_context(running(Rules(**{"connections": 100, "per_address": 50, **rules}), environ or {}))

        yield begin


def rest(wire: socket.socket) -> bytes:
    """All that still comes, until the other side closes. Empty also where it closed with a reset."""
    found = b""
    try:
        while piece := wire.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def answer(wire: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer with a length; the connection goes on."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = wire.recv(65536)
        assert piece, found
        found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
    while len(body) < int(headers["content-length"]):
        body += wire.recv(65536)
    return int(line.split()[1]), headers, body
