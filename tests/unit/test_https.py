"""What the HTTP wire knows of https hosts: who waits for a first connection, and which TLS sessions are resumed."""

import asyncio
import contextlib
import ssl
from collections import Counter
from ipaddress import ip_network

import msgspec
import pytest
import trustme

from receiver import Receiver
from tocsin import settings
from tocsin.model import HttpReply, HttpRequest, Reason
from tocsin.net import origins
from tocsin.net.http import HttpWire
from unit.conftest import trusting


@pytest.fixture
def authority(tmp_path, monkeypatch):
    """Signs certificates that the wire trusts."""
    it = trustme.CA()
    with trusting(it, tmp_path, monkeypatch):
        yield it


@contextlib.contextmanager
def trusted(tmp_path, monkeypatch):
    with Receiver(tls=True) as server, trusting(server.authority, tmp_path, monkeypatch):
        yield server


@contextlib.asynccontextmanager
async def wire():
    it = HttpWire(msgspec.structs.replace(settings.load({}), allow_networks=(ip_network("127.0.0.0/8"),)))
    try:
        yield it
    finally:
        await it.close()


def request(url, seconds=10.0):
    return HttpRequest(url=url, shown_url="https://example.com/", body=b"{}", timeout_seconds=seconds)


def both(it):
    return asyncio.get_running_loop().create_task(it)


def test_requests_to_a_host_with_http_1_1_wait_for_a_connection_but_for_no_answer(tmp_path, monkeypatch):
    async def use(server):
        async with wire() as it:
            under_way = [both(it.send(request(server.url("/held")))) for _ in range(20)]
            await server.wait_for(20)  # all are there before one is answered
            server.release()
            first = {reply.status for reply in await asyncio.gather(*under_way)}
            return first, it._lanes[True]._https[0]._speaks_2, it._lanes[True]._https[0]._gates

    with trusted(tmp_path, monkeypatch) as server:
        server.answer("/held", hold=True)
        statuses, speaks_2, gates = asyncio.run(use(server))
        assert statuses == {200}
        assert (list(speaks_2.values()), gates) == ([False], {})
        assert server.connections == 20


def test_plain_http_waits_for_nothing():
    async def use(server):
        async with wire() as it:
            under_way = [both(it.send(request(server.url("/held")))) for _ in range(20)]
            await server.wait_for(20)
            server.release()
            return {reply.status for reply in await asyncio.gather(*under_way)}

    with Receiver() as server:
        server.answer("/held", hold=True)
        assert asyncio.run(use(server)) == {200}


def test_a_first_connection_that_hangs_holds_up_the_others_for_a_moment_only(monkeypatch):
    monkeypatch.setattr(origins, "MAX_WAIT_SECONDS", 0.0)

    async def use(server):
        async with wire() as it:
            under_way = [both(it.send(request(server.url("/").replace("http:", "https:")))) for _ in range(5)]
            while server.connections < 5:
                await asyncio.sleep(0.001)
            it.cut()
            return await asyncio.gather(*under_way)

    with Receiver(greeting="hang") as server:
        replies = asyncio.run(use(server))
    assert {(reply.reason, reply.sent, reply.stopped) for reply in replies} == {(Reason.CUT, False, True)}


@pytest.mark.parametrize("how", ["cut", "close", "cancel", "refuse"])
def test_who_waits_for_a_first_connection_hears_of_its_end(monkeypatch, how):
    monkeypatch.setattr(origins, "MAX_WAIT_SECONDS", 60.0)

    async def use(url):
        async with wire() as it:
            first, *others = [both(it.send(request(url, seconds=5))) for _ in range(5)]
            await asyncio.sleep(0)
            match how:
                case "cut":
                    it.cut()
                case "close":
                    await it.close()
                case "cancel":
                    others[0].cancel()
                    first.cancel()
                    await asyncio.wait([first, others[0]])
                    it.cut()
                case _:
                    pass
            replies = await asyncio.gather(first, *others, return_exceptions=True)
            assert it._lanes[True]._https[0]._gates == {}
            return replies

    with Receiver(greeting="reset" if how == "refuse" else "hang") as server:
        replies = asyncio.run(use(server.url("/").replace("http:", "https:")))
    if how == "cancel":
        assert [isinstance(reply, asyncio.CancelledError) for reply in replies] == [True, True, False, False, False]
        replies = replies[2:]
    expected = {Reason.CONNECT, Reason.TLS} if how == "refuse" else {Reason.CUT}
    assert {reply.reason for reply in replies} <= expected
    assert not any(reply.sent for reply in replies)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def test_sessions_of_many_hosts_are_resumed(authority, version):
    hosts = [f"127.0.3.{number}" for number in range(1, 61)]

    async def use():
        resumed = Counter()

        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n{}")
            resumed[writer.get_extra_info("ssl_object").session_reused] += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = version
        authority.issue_cert(*hosts).configure_cert(context)
        server = await asyncio.start_server(answer, "0.0.0.0", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        counts = []
        async with wire() as it:
            for guarded in (True, True, False):
                resumed.clear()
                for host in hosts:
                    one = msgspec.structs.replace(request(f"https://{host}:{port}/"), guarded=guarded)
                    assert isinstance(await it.send(one), HttpReply)
                counts.append(dict(resumed))
        server.close()
        return counts

    assert asyncio.run(use()) == [{False: 60}, {True: 60}, {True: 60}]
