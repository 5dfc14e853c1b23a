"""500 hosts that speak TLS, one message each, nothing known of them: beside aiohttp's bare loop with one context for all."""

import asyncio
import ssl
import time

import aiohttp

from bench.distant import Distant
from bench.filling import MINE, webhook
from bench.machine import run_pinned
from bench.messages import item
from bench.scenes.stage import Goal, Place

HOSTS = 500
OF_BARE = 0.8
IN_FLIGHT = 100  # aiohttp's own default


def scene(place: Place) -> list[Goal]:
    with place.distant(HOSTS) as distant:
        urls = [distant.url(number, tls=True) for number in range(HOSTS)]
        bare = HOSTS / run_pinned(place.core, post_all, urls, str(distant.authority))
        with place.serving([webhook(MINE, url) for url in urls], {"SSL_CERT_FILE": str(distant.authority)}) as running:
            distant.take()
            began = time.time_ns()
            texts = [item(number, 1 + number) for number in range(HOSTS)]
            running.call("POST", "/api/notifications/batch", {"notifications": texts})
            ours = HOSTS / _last(distant, began)
    place.say(f"  {ours:,.0f} hosts a second, aiohttp alone {bare:,.0f}")
    return [Goal(f"{HOSTS} cold TLS hosts, of aiohttp's bare loop", ours / bare, OF_BARE, at_least=True)]


def _last(distant: Distant, began: int) -> float:
    """Seconds until everybody had its message."""
    arrived: set[int] = set()
    last, ends_at = began, time.monotonic() + 30
    while len(arrived) < HOSTS and time.monotonic() < ends_at:
        for one in distant.take():
            arrived.add(one.tag)
            last = one.at
        time.sleep(0.02)
    return (last - began) / 1e9 if len(arrived) == HOSTS else float("inf")


def post_all(urls: list[str], authority: str) -> float:
    """Seconds for one message to each URL, in a fresh process."""
    return asyncio.run(_post_all(urls, authority))


async def _post_all(urls: list[str], authority: str) -> float:
    context = ssl.create_default_context(cafile=authority)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT, ssl=context)) as session:

        async def post(url: str, number: int) -> None:
            async with session.post(url, json=item(number, number)) as answer:
                await answer.read()

        began = time.perf_counter()
        await asyncio.gather(*(post(url, number) for number, url in enumerate(urls)))
        return time.perf_counter() - began
