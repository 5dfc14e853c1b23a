"""Whether a healthy handler notices sick ones: how long its messages take alone, and beside each kind of trouble."""

import asyncio
import os
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench import service
from bench.messages import requests_of_many, requests_of_one
from bench.producer import Producer
from bench.receiver import Receiver
from bench.report import Beside, percentile
from bench.service import API_KEY, Service
from tocsin.admin import open_admin
from tocsin.settings import load

HEALTHY = 10  # handlers
RATE = 50  # messages a second to them
CONNECTIONS = 8
HANGING = 200
BACKLOG = 10  # deliveries of each sick handler
THROTTLED = 2000
MAILBOXES = 50
FLOOD_BATCHES = 50  # a second, of a hundred messages: a hundred times what the healthy ones get
FLOODED = 20  # handlers
ALONE = "alone"
MIN_BOUND_MS = 50.0


def bound_ms(found: Sequence[Beside]) -> float:
    """What 99 % may take beside trouble."""
    return max(MIN_BOUND_MS, 2 * next(one.p99_ms for one in found if one.trouble == ALONE))


def measure(folder: Path, core: set[int], others: set[int], seconds: float) -> list[Beside]:
    receiver = Receiver(others, HEALTHY + FLOODED)
    folder.mkdir()
    try:
        with _sick() as (sick_port, mail_port):
            environ = {
                "TOCSIN_SMTP_URL": f"smtp://127.0.0.1:{mail_port}",
                "TOCSIN_EMAIL_TRUSTED_DOMAINS": "*",
                "TOCSIN_EMAIL_FROM": "bench@example.com",
                "TOCSIN_RETRY_SCHEDULE": "1s,1s,1s,1s,1s,1s,1s",
                "TOCSIN_DISABLE_AFTER_FAILURES": "0",
            }
            with service.running(folder, core, environ=environ) as running:
                return _Troubles(running, receiver, folder, sick_port, seconds).measure()
    finally:
        receiver.close()


class _Troubles:
    def __init__(self, running: Service, receiver: Receiver, folder: Path, sick_port: int, seconds: float) -> None:
        self._service = running
        self._receiver = receiver
        self._sick_url = f"http://127.0.0.1:{sick_port}"
        self._count = int(RATE * seconds)
        self._seconds = seconds
        self._healthy = running.register(receiver.ports[:HEALTHY])
        self._flood_key = _other_user(folder)
        self._numbers = 0

    def measure(self) -> list[Beside]:
        self._run("warming up")
        found = [self._run(ALONE)]
        hanging = [self._add("webhook", f"hangs {number}", webhook=f"{self._sick_url}/hangs") for number in range(HANGING)]
        self._fill(hanging, BACKLOG)
        found.append(self._run(f"{HANGING} handlers that hang, {BACKLOG} deliveries each"))
        self._delete(hanging)
        mailboxes = [self._add("email", f"mail {number}", email=f"m{number}@example.com") for number in range(MAILBOXES)]
        self._fill(mailboxes, BACKLOG)
        found.append(self._run("a mail server that hangs"))
        self._delete(mailboxes)
        throttled = [self._add("webhook", "throttled", webhook=f"{self._sick_url}/throttles")]
        self._fill(throttled, THROTTLED)
        found.append(self._run("a provider that throttles"))
        self._delete(throttled)
        found.append(self._run("another user with 100 times as many", self._flood()))
        return found

    def _add(self, type_: str, name: str, **settings: str) -> int:
        form = {"type": type_, "name": name, **settings}
        return int(self._service.call("POST", "/api/notification-handlers", form)["data"]["id"])

    def _delete(self, handlers: Iterable[int]) -> None:
        for one in handlers:
            self._service.call("DELETE", f"/api/notification-handlers/{one}")

    def _fill(self, handlers: list[int], each: int) -> None:
        texts = [{"message": "waits", "handlers": [one]} for _ in range(each) for one in handlers]
        for first in range(0, len(texts), 500):
            self._service.call("POST", "/api/notifications/batch", {"notifications": texts[first : first + 500]})

    def _flood(self) -> list[bytes]:
        """Batches of another user, to receivers that take them."""
        handlers = self._service.register(self._receiver.ports[HEALTHY:], key=self._flood_key)
        count = int(FLOOD_BATCHES * self._seconds)
        return list(requests_of_many(handlers, 10_000_000, 100 * count, 100, self._flood_key))

    def _run(self, trouble: str, flood: list[bytes] | None = None) -> Beside:
        first, self._numbers = self._numbers, self._numbers + self._count
        self._receiver.take()
        producer = uvloop.run(self._produce(list(requests_of_one(self._healthy, first, self._count, API_KEY)), flood))
        arrived: dict[int, int] = {}
        ends_at = time.monotonic() + 60
        while not producer.accepted.keys() <= arrived.keys():
            for one, at in self._receiver.take():
                arrived.setdefault(one, at)
            if time.monotonic() > ends_at:
                raise RuntimeError(f"beside {trouble}, healthy deliveries did not arrive within a minute")
            time.sleep(0.02)
        waits = [(arrived[one] - accepted_at) / 1e6 for one, accepted_at in producer.accepted.items()]
        return Beside(trouble, len(waits), percentile(waits, 0.5), percentile(waits, 0.99))

    async def _produce(self, healthy: list[bytes], flood: list[bytes] | None) -> Producer:
        port, producer = self._service.port, Producer(healthy)
        work = [producer.run(port, CONNECTIONS, 1 / RATE)]
        if flood:
            work.append(Producer(flood).run(port, 2, 1 / FLOOD_BATCHES))
        await asyncio.gather(*work)
        return producer


def _other_user(folder: Path) -> str:
    environ = {**os.environ, "TOCSIN_DATA_DIR": str(folder / "data")}
    with open_admin(load(environ, folder / "none.env")) as admin:
        admin.add_user("other@example.com", is_admin=False)
        return admin.add_key("other@example.com", "bench", ())


@contextmanager
def _sick() -> Generator[tuple[int, int], None, None]:
    """Two ports: a web server that never answers or throttles, by its path, and a mail server that says nothing."""
    loop = asyncio.new_event_loop()

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                await reader.readexactly(length)
                if b" /hangs " in head:
                    await reader.read()  # until the other side gives up
                    break
                writer.write(b"HTTP/1.1 429 Slow Down\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side left
        finally:
            writer.close()

    async def mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionError:
            pass  # the other side left
        finally:
            writer.close()

    servers = [loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000)) for serve in (web, mail)]
    thread = threading.Thread(target=loop.run_forever, name="sick", daemon=True)
    thread.start()
    try:
        web_port, mail_port = (one.sockets[0].getsockname()[1] for one in servers)
        yield web_port, mail_port
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
