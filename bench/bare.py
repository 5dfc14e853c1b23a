"""The bare client loop: the service's HTTP library and the very bytes it would send, without the service.

`PlainCurl` drives pycurl as libcurl's own examples do, https://curl.se/libcurl/c/evhiperfifo.html: a watcher for each socket, one timer.
The service's own wire, which does more and is quicker, is measured beside it.
"""

import asyncio
import io
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Protocol, TypeAlias

import pycurl
import uvloop

from bench.messages import TITLE, text
from tocsin.channels.contract import Context
from tocsin.channels.webhook import WebhookSettings, render
from tocsin.model import HttpReply, HttpRequest, Message, NoReply, Severity
from tocsin.net.http import HttpWire
from tocsin.settings import load
from tocsin.vault import new_signing_secret

MAX_CONNECTIONS = 4000
WATCH_SECONDS = 2.0

Work: TypeAlias = Callable[[Iterator[tuple[int, HttpRequest]]], Coroutine[None, None, None]]


class Client(Protocol):
    async def send(self, request: HttpRequest) -> HttpReply | NoReply: ...
    async def close(self) -> None: ...


class PlainCurl:
    """pycurl on the event loop, and nothing else."""

    def __init__(self, authority: str = "") -> None:
        """`authority`: a file with the certificates to trust; without one, what libcurl finds."""
        self._authority = authority
        self._loop = asyncio.get_running_loop()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, MAX_CONNECTIONS)
        self._timer: asyncio.TimerHandle | None = None
        self._free: list[pycurl.Curl] = []
        self._waiting: dict[pycurl.Curl, asyncio.Future[int]] = {}

    async def send(self, request: HttpRequest) -> HttpReply | NoReply:
        curl = self._free.pop() if self._free else pycurl.Curl()
        body = io.BytesIO()
        curl.setopt(pycurl.URL, request.url)
        curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in request.headers])
        curl.setopt(pycurl.POSTFIELDS, request.body)
        curl.setopt(pycurl.WRITEDATA, body)
        curl.setopt(pycurl.NOSIGNAL, 1)
        if self._authority:
            curl.setopt(pycurl.CAINFO, self._authority)
        curl.setopt(pycurl.TIMEOUT_MS, int(request.timeout_seconds * 1000))
        future = self._waiting[curl] = self._loop.create_future()
        self._multi.add_handle(curl)
        code = await future
        if code:
            raise RuntimeError(f"libcurl error {code}")
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        self._free.append(curl)
        return HttpReply(status, {}, body.getvalue())

    async def close(self) -> None:
        self._multi.close()
        if self._timer:
            self._timer.cancel()

    def _watch(self, what: int, fd: int, _multi: object, _data: object) -> None:
        if what in {pycurl.POLL_IN, pycurl.POLL_INOUT}:
            self._loop.add_reader(fd, self._act, fd, pycurl.CSELECT_IN)
        else:
            self._loop.remove_reader(fd)
        if what in {pycurl.POLL_OUT, pycurl.POLL_INOUT}:
            self._loop.add_writer(fd, self._act, fd, pycurl.CSELECT_OUT)
        else:
            self._loop.remove_writer(fd)

    def _set_timer(self, wait_ms: int) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_ms / 1000, self._act, pycurl.SOCKET_TIMEOUT, 0) if wait_ms >= 0 else None

    def _act(self, fd: int, events: int) -> None:
        self._multi.socket_action(fd, events)
        left = 1
        while left:
            left, done, failed = self._multi.info_read()
            for curl, code in [*((curl, 0) for curl in done), *((curl, code) for curl, code, _ in failed)]:
                self._multi.remove_handle(curl)
                self._waiting.pop(curl).set_result(code)


def run(ports: list[int], first_id: int, count: int, in_flight: int, our_wire: bool) -> tuple[int, float, float, list[int]]:
    """How many of the messages were the warm-up, the rest's seconds and share of the core, and the ids answered with 200."""
    return uvloop.run(_run(ports, first_id, count, in_flight, our_wire))


async def _run(ports: list[int], first_id: int, count: int, in_flight: int, our_wire: bool) -> tuple[int, float, float, list[int]]:
    settings = load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"})
    secrets = [new_signing_secret() for _ in ports]

    def rendered(number: int) -> HttpRequest:
        now = time.time_ns() // 1000
        which = number % len(ports)
        message = Message(text(number), TITLE, Severity.WARNING, at=now)
        key = f"msg_0123456789abcdef_{number}"
        context = Context(key, which, now, settings, number, number, signing_secrets=(secrets[which],))
        return render(message, WebhookSettings(f"http://127.0.0.1:{ports[which]}/hook"), context)[0]

    requests = [(number, rendered(number)) for number in range(first_id, first_id + count)]
    wire: Client = HttpWire(settings) if our_wire else PlainCurl()
    arrived: list[int] = []

    async def work(left: Iterator[tuple[int, HttpRequest]]) -> None:
        for number, request in left:
            reply = await wire.send(request)
            if isinstance(reply, HttpReply) and reply.status == 200:
                arrived.append(number)

    warm = max(len(ports), count // 20)
    await _all(work, iter(requests[:warm]), in_flight)
    started, cpu_started = time.perf_counter(), time.process_time()
    await _all(work, iter(requests[warm:]), in_flight)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    await wire.close()
    return warm, seconds, cpu_seconds / seconds, arrived


async def _all(work: Work, left: Iterator[tuple[int, HttpRequest]], in_flight: int) -> None:
    await asyncio.gather(*(work(left) for _ in range(in_flight)))


def run_at(urls: list[str], first_id: int, rate: float, seconds: float, authority: str) -> tuple[dict[int, int], float]:
    """One message to each URL in turn at that rate, however long the answers take: when each was given to libcurl, and CPU seconds."""
    return uvloop.run(_run_at(urls, first_id, rate, seconds, authority))


async def _run_at(urls: list[str], first_id: int, rate: float, seconds: float, authority: str) -> tuple[dict[int, int], float]:
    settings, secret, loop = load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"}), new_signing_secret(), asyncio.get_running_loop()
    wire, sent_at, sending = PlainCurl(authority), dict[int, int](), set[asyncio.Task[HttpReply | NoReply]]()
    cpu, began = time.process_time(), loop.time()
    for number in range(first_id, first_id + int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + (number - first_id) / rate - loop.time()))
        sent_at[number] = time.time_ns()
        message = Message(text(number), TITLE, Severity.WARNING, at=sent_at[number] // 1000)
        context = Context(f"msg_{number}", 1, message.at, settings, number, number, signing_secrets=(secret,))
        request = render(message, WebhookSettings(urls[number % len(urls)]), context)[0]
        task = loop.create_task(wire.send(request))
        sending.add(task)
        task.add_done_callback(sending.discard)
    if sending:
        await asyncio.wait(sending, timeout=WATCH_SECONDS)
    spent = time.process_time() - cpu
    for task in sending:
        task.cancel()
    return sent_at, spent
