"""The bare client loop: the service's own HTTP client and the very bytes it would send, without the service."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import TypeAlias

import uvloop

from bench.messages import TITLE, text
from tocsin.channels.contract import Context
from tocsin.channels.webhook import WebhookSettings, render
from tocsin.model import HttpReply, HttpRequest, Message, Severity
from tocsin.net.http import HttpWire
from tocsin.settings import load
from tocsin.vault import new_signing_secret

Work: TypeAlias = Callable[[Iterator[tuple[int, HttpRequest]]], Coroutine[None, None, None]]


def run(ports: list[int], first_id: int, count: int, in_flight: int) -> tuple[int, float, float, list[int]]:
    """How many of the messages were the warm-up, the rest's seconds and share of the core, and the ids answered with 200."""
    return uvloop.run(_run(ports, first_id, count, in_flight))


async def _run(ports: list[int], first_id: int, count: int, in_flight: int) -> tuple[int, float, float, list[int]]:
    settings = load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"})
    secrets = [new_signing_secret() for _ in ports]

    def rendered(number: int) -> HttpRequest:
        now = time.time_ns() // 1000
        which = number % len(ports)
        message = Message(text(number), TITLE, Severity.WARNING, at=now)
        key = f"msg_0123456789abcdef_{number}"
        context = Context(key, which, now, "", settings, number, number, signing_secrets=(secrets[which],))
        return render(message, WebhookSettings(f"http://127.0.0.1:{ports[which]}/hook"), context)[0]

    requests = [(number, rendered(number)) for number in range(first_id, first_id + count)]
    wire = HttpWire(settings)
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
