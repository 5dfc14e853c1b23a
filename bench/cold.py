"""Cold TLS: one message to each of many hosts that were never spoken to, through our HTTP wire and through aiohttp's bare loop.

`python -m bench.cold [hosts] [runs]`. Loopback only: a listener and a certificate for each of the addresses 127.0.x.y, in a process of
their own. Both clients trust the system's authorities beside the one that signed, as a service does. aiohttp is no dependency: it is
measured where it is installed.
"""

import asyncio
import importlib
import importlib.util
import os
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import trustme
import uvloop

from bench.machine import cores, run_pinned, start_pinned
from tocsin.model import HttpReply, HttpRequest, NoReply
from tocsin.net.http import HttpWire
from tocsin.settings import load

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_BODY = b'{"type":"notification","data":{"text":"%b"}}' % (b"x" * 400)
_HEADERS = (("Content-Type", "application/json"), ("webhook-id", "msg_0123456789abcdef_1"))
_SYSTEM = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")

Client: TypeAlias = Callable[[list[str]], Coroutine[None, None, int]]


def addresses(count: int) -> list[str]:
    return [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]


class _Exchange(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.endswith(_BODY):
            self._data = b""
            self._transport.write(_OK)


def serve(pipe: Connection) -> None:
    uvloop.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    authority, port = trustme.CA(), 0
    for address in pipe.recv():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(address).configure_cert(context)
        listener = socket.create_server((address, port), backlog=1024)
        port = listener.getsockname()[1]
        await asyncio.get_running_loop().create_server(_Exchange, sock=listener, ssl=context)
    pipe.send((port, authority.cert_pem.bytes()))
    await asyncio.to_thread(pipe.recv)


async def through_our_wire(urls: list[str]) -> int:
    wire = HttpWire(load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"}))
    ended = asyncio.get_running_loop().create_future()
    replies: list[HttpReply | NoReply] = []

    def done(reply: HttpReply | NoReply) -> None:
        replies.append(reply)
        if len(replies) == len(urls):
            ended.set_result(None)

    for url in urls:
        wire.start(HttpRequest(url=url, shown_url=url, headers=_HEADERS, body=_BODY, timeout_seconds=60.0), done)
    await ended
    await wire.close()
    return sum(isinstance(reply, HttpReply) and reply.status == 200 for reply in replies)


async def through_aiohttp(urls: list[str]) -> int:
    aiohttp: Any = importlib.import_module("aiohttp")
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=context)) as session:

        async def send(url: str) -> int:
            async with session.post(url, data=_BODY, headers=dict(_HEADERS)) as response:
                await response.read()
                return int(response.status == 200)

        return sum(await asyncio.gather(*map(send, urls)))


def timed(ours: bool, urls: list[str]) -> tuple[int, float, float]:
    """Messages answered with 200, seconds, seconds of processor time: in a process that has sent nothing before."""
    client: Client = through_our_wire if ours else through_aiohttp
    if not ours:
        importlib.import_module("aiohttp")
    started, cpu_started = time.perf_counter(), time.process_time()
    arrived = uvloop.run(client(urls))
    return arrived, time.perf_counter() - started, time.process_time() - cpu_started


def measure(hosts: int, runs: int) -> list[tuple[bool, float, float]]:
    """For each run and client: whether it was ours, hosts a second, milliseconds of processor time for each host.

    Raises RuntimeError if a message was lost.
    """
    ours, others = cores()
    _, pipe = start_pinned(others, serve)
    pipe.send(addresses(hosts))
    port, authority = pipe.recv()
    urls = [f"https://{address}:{port}/hook" for address in addresses(hosts)]
    clients = [True, False] if importlib.util.find_spec("aiohttp") else [True]
    results: list[tuple[bool, float, float]] = []
    with tempfile.TemporaryDirectory() as directory:
        bundle = Path(directory, "authorities.pem")
        system = next((Path(file).read_bytes() for file in _SYSTEM if Path(file).is_file()), b"")
        bundle.write_bytes(system + b"\n" + authority)
        os.environ["SSL_CERT_FILE"] = str(bundle)
        for is_ours in clients * runs:
            arrived, seconds, cpu = run_pinned(ours, timed, is_ours, urls)
            if arrived != hosts:
                raise RuntimeError(f"{hosts - arrived} of {hosts} messages were lost")
            results.append((is_ours, hosts / seconds, cpu / hosts * 1000))
    pipe.send(None)
    return results


def main(hosts: int = 500, runs: int = 3) -> None:
    results = measure(hosts, runs)
    for name, is_ours in (("our wire", True), ("aiohttp", False)):
        rates = [one[1] for one in results if one[0] is is_ours]
        costs = [one[2] for one in results if one[0] is is_ours]
        if rates:
            spread = f"{min(rates):.0f} to {max(rates):.0f}"
            print(f"{name:9} {statistics.median(rates):6.0f} hosts/s ({spread}), {statistics.median(costs):.2f} ms of CPU each")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
