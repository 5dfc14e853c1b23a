"""The HTTP wire against a server that speaks HTTP/2, and breaks off in HTTP/2's own ways."""

import asyncio
import contextlib
import itertools
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import msgspec
import pytest
import trustme

from proxy import Proxy
from tocsin import settings
from tocsin.model import HttpReply, HttpRequest, NoReply, Reason
from tocsin.net import origins
from tocsin.net.http import HttpWire

Answering = Callable[[h2.connection.H2Connection, int], None]


class Server(asyncio.Protocol):
    """One connection. `answer` is called with the stream of each whole request."""

    def __init__(self, answer: Answering, seen: Counter[str], most_streams: int) -> None:
        self._answer = answer
        self._seen = seen
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._most_streams = most_streams

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._seen["connections"] += 1
        self._spoken = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        self._seen[self._spoken] += 1
        self._received = b""
        if self._spoken == "http/1.1":
            return
        self._connection.initiate_connection()
        self._connection.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self._most_streams})
        transport.write(self._connection.data_to_send())

    def data_received(self, data: bytes) -> None:
        if self._spoken == "http/1.1":
            self._read_1(data)
            return
        with contextlib.suppress(h2.exceptions.ProtocolError):  # the client's frames cross a GOAWAY
            for event in self._connection.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self._seen["requests"] += 1
                    self._answer(self._connection, event.stream_id)
        self._transport.write(self._connection.data_to_send())

    def _read_1(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(b"\r\n\r\n{}"):
            self._received = b""
            self._seen["requests over 1.1"] += 1
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@asynccontextmanager
async def serving(
    authority: trustme.CA, answer: Answering, unknown: str = "retry", most_streams: int = 100, proxy: str = ""
) -> AsyncIterator[tuple[str, Counter[str], HttpWire]]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    seen: Counter[str] = Counter()
    server = await asyncio.get_running_loop().create_server(lambda: Server(answer, seen, most_streams), "127.0.0.1", 0, ssl=context)
    configured = {"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8", "TOCSIN_UNKNOWN": unknown, "TOCSIN_PROXY": proxy}
    wire = HttpWire(settings.load(configured))
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", seen, wire
    finally:
        await wire.close()
        server.close()


def request(url: str, body: bytes = b"{}") -> HttpRequest:
    return HttpRequest(url=url, shown_url="https://example.com/", body=body, timeout_seconds=5.0)


def says(connection: h2.connection.H2Connection, stream: int, status: str = "200", body: bytes = b"ok") -> None:
    connection.send_headers(stream, [(":status", status), ("x-said", "by h2")])
    connection.send_data(stream, body, end_stream=True)


def test_requests_share_one_connection(trusted: trustme.CA) -> None:
    async def use() -> tuple[list[HttpReply | NoReply], Counter[str]]:
        async with serving(trusted, says) as (url, seen, wire):
            first = await wire.send(request(url))
            return [first, *await asyncio.gather(*(wire.send(request(url, b"x" * 100_000)) for _ in range(20)))], seen

    replies, seen = asyncio.run(use())
    assert {(reply.status, reply.body, reply.headers["x-said"]) for reply in replies if isinstance(reply, HttpReply)} == {
        (200, b"ok", "by h2")
    }
    assert len(replies) == seen["requests"] == 21
    assert (seen["connections"], seen["h2"]) == (1, 1)


@pytest.mark.parametrize(("count", "most"), [(100, 1), (300, 4)])
def test_a_hundred_requests_to_a_host_never_spoken_to_take_one_connection(trusted: trustme.CA, count: int, most: int) -> None:
    async def use() -> tuple[list[HttpReply | NoReply], Counter[str]]:
        async with serving(trusted, says) as (url, seen, wire):
            return await asyncio.gather(*(wire.send(request(url)) for _ in range(count))), seen

    replies, seen = asyncio.run(use())
    assert {reply.status for reply in replies if isinstance(reply, HttpReply)} == {200}
    assert len(replies) == seen["requests"] == count
    assert seen["connections"] <= most


def refuses(connection: h2.connection.H2Connection, stream: int) -> None:
    connection.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)


def resets(connection: h2.connection.H2Connection, stream: int) -> None:
    connection.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)


def goes_away(connection: h2.connection.H2Connection, _stream: int) -> None:
    connection.close_connection(h2.errors.ErrorCodes.NO_ERROR, last_stream_id=0)


def calms(connection: h2.connection.H2Connection, _stream: int) -> None:
    connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, last_stream_id=0)


def calms_one(connection: h2.connection.H2Connection, stream: int) -> None:
    connection.reset_stream(stream, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)


def breaks_down(connection: h2.connection.H2Connection, _stream: int) -> None:
    connection.close_connection(h2.errors.ErrorCodes.INTERNAL_ERROR, last_stream_id=0)


def requires_1(connection: h2.connection.H2Connection, stream: int) -> None:
    connection.reset_stream(stream, h2.errors.ErrorCodes.HTTP_1_1_REQUIRED)


def requires_1_and_goes(connection: h2.connection.H2Connection, _stream: int) -> None:
    connection.close_connection(h2.errors.ErrorCodes.HTTP_1_1_REQUIRED, last_stream_id=0)


def breaks_off(connection: h2.connection.H2Connection, stream: int) -> None:
    connection.send_headers(stream, [(":status", "200")])
    connection.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)


@pytest.mark.parametrize("answer", [resets, calms_one, breaks_down])  # a GOAWAY with that code looks like libcurl's own reset
def test_a_stream_that_is_reset_is_an_answer_that_was_lost(trusted: trustme.CA, answer: Answering) -> None:
    async def use() -> tuple[HttpReply | NoReply, Counter[str]]:
        async with serving(trusted, answer) as (url, seen, wire):
            return await wire.send(request(url)), seen

    reply, seen = asyncio.run(use())
    assert isinstance(reply, NoReply)
    assert reply.sent and reply.reason in {Reason.CUT, Reason.BAD_ANSWER}
    assert seen["requests"] == 1


def test_a_head_counts_though_its_stream_never_ends(trusted: trustme.CA) -> None:
    def goes_on(connection: h2.connection.H2Connection, stream: int) -> None:
        connection.send_headers(stream, [(":status", "200")])

    async def use() -> list[HttpReply | NoReply]:
        replies: list[HttpReply | NoReply] = []
        for answer in (breaks_off, goes_on):
            async with serving(trusted, answer) as (url, _, wire):
                replies.append(await wire.send(msgspec.structs.replace(request(url), body_seconds=0.0)))
        return replies

    replies = asyncio.run(use())
    assert [(reply.status, reply.cut is not None) for reply in replies if isinstance(reply, HttpReply)] == [(200, True)] * 2


def at_first(answer: Answering, count: int, before: int = 0) -> Answering:
    """Answers well `before` times, then `count` times otherwise."""
    numbers = itertools.count(1)

    def answers(connection: h2.connection.H2Connection, stream: int) -> None:
        (answer if before < next(numbers) <= before + count else says)(connection, stream)

    return answers


@pytest.mark.parametrize("before", [0, 1], ids=["first request", "kept connection"])
@pytest.mark.parametrize("unknown", ["retry", "stop"])
@pytest.mark.parametrize("answer", [refuses, goes_away, calms])
@pytest.mark.parametrize("proxied", [False, True])
def test_what_was_surely_not_processed_goes_out_again_at_once(
    trusted: trustme.CA, answer: Answering, unknown: str, before: int, proxied: bool
) -> None:
    async def use(proxy: str) -> tuple[list[HttpReply | NoReply], Counter[str]]:
        async with serving(trusted, at_first(answer, 2, before), unknown, proxy=proxy) as (url, seen, wire):
            return [await wire.send(request(url)) for _ in range(before + 1)], seen

    with Proxy() as proxy:
        replies, seen = asyncio.run(use(proxy.url if proxied else ""))
    assert [reply.status for reply in replies if isinstance(reply, HttpReply)] == [200] * (before + 1)
    assert seen["requests"] == before + 3


@pytest.mark.parametrize("answer", [refuses, goes_away, calms])
def test_a_server_that_refuses_every_stream_is_not_asked_for_ever_and_has_not_taken_it(trusted: trustme.CA, answer: Answering) -> None:
    async def use() -> tuple[HttpReply | NoReply, Counter[str]]:
        async with serving(trusted, answer) as (url, seen, wire):
            return await wire.send(request(url)), seen

    reply, seen = asyncio.run(use())
    assert isinstance(reply, NoReply)
    assert (reply.reason, reply.sent) == (Reason.SERVER_ERROR, False)
    assert seen["requests"] == 4


@pytest.mark.parametrize(("answer", "count"), [(refuses, 30), (goes_away, 1), (calms, 1)])
def test_many_that_are_refused_share_a_connection_again(trusted: trustme.CA, answer: Answering, count: int) -> None:
    async def use() -> tuple[list[HttpReply | NoReply], Counter[str]]:
        async with serving(trusted, at_first(answer, count, 1), "stop") as (url, seen, wire):
            first = await wire.send(request(url))
            return [first, *await asyncio.gather(*(wire.send(request(url)) for _ in range(30)))], seen

    replies, seen = asyncio.run(use())
    assert {reply.status for reply in replies if isinstance(reply, HttpReply)} == {200}
    assert len(replies) == 31
    assert 31 + count <= seen["requests"] <= 61  # what came behind a GOAWAY is not counted
    assert seen["connections"] <= 4


@pytest.mark.parametrize("code", [h2.errors.ErrorCodes.NO_ERROR, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM])
def test_the_last_stream_that_is_named_may_have_been_processed(trusted: trustme.CA, code: h2.errors.ErrorCodes) -> None:
    def leaves(connection: h2.connection.H2Connection, stream: int) -> None:
        connection.close_connection(code, last_stream_id=stream)

    async def use() -> tuple[HttpReply | NoReply, Counter[str]]:
        async with serving(trusted, leaves) as (url, seen, wire):
            return await wire.send(msgspec.structs.replace(request(url), timeout_seconds=0.5)), seen

    reply, seen = asyncio.run(use())
    assert isinstance(reply, NoReply)
    assert (reply.reason, reply.sent) == (Reason.TIMEOUT, True)
    assert seen["requests"] == 1


@pytest.mark.parametrize("before", [0, 1], ids=["first request", "kept connection"])
@pytest.mark.parametrize("unknown", ["retry", "stop"])
@pytest.mark.parametrize("answer", [requires_1, requires_1_and_goes])
def test_a_server_that_requires_http_1_gets_it(trusted: trustme.CA, answer: Answering, unknown: str, before: int) -> None:
    async def use() -> tuple[list[HttpReply | NoReply], list[int]]:
        async with serving(trusted, at_first(answer, 100, before), unknown) as (url, seen, wire):
            replies = [await wire.send(request(url)) for _ in range(before + 1)]
            asked = [seen["requests"]]
            replies += await asyncio.gather(*(wire.send(request(url)) for _ in range(5)))
            return replies, [*asked, seen["requests"], seen["requests over 1.1"]]

    replies, [at_first_over_2, over_2, over_1] = asyncio.run(use())
    assert [reply.status for reply in replies if isinstance(reply, HttpReply)] == [200] * (before + 6)
    assert (over_2, over_1) == (at_first_over_2, 6)


def test_what_is_required_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(origins, "time", SimpleNamespace(monotonic=lambda: now))
    known = origins.Origins()
    known.requires_1("a.example:443")
    assert [known.needs_1(origin) for origin in ("a.example:443", "b.example:443", None)] == [True, False, False]
    now += origins.REQUIRED_SECONDS
    assert not known.needs_1("a.example:443")


def test_a_server_that_takes_no_streams_has_taken_nothing(trusted: trustme.CA) -> None:
    async def use() -> tuple[HttpReply | NoReply, Counter[str]]:
        async with serving(trusted, refuses, most_streams=0) as (url, seen, wire):
            return await wire.send(request(url)), seen

    reply, seen = asyncio.run(use())
    assert isinstance(reply, NoReply)
    assert (reply.reason, reply.sent) == (Reason.SERVER_ERROR, False)
    assert seen["connections"] == seen["requests"] == 4


def test_informational_answers_do_not_count(trusted: trustme.CA) -> None:
    def informs(connection: h2.connection.H2Connection, stream: int) -> None:
        for _ in range(50):
            connection.send_headers(stream, [(":status", "103"), ("link", "</x>")])
        says(connection, stream, "204", b"")

    async def use() -> HttpReply | NoReply:
        async with serving(trusted, informs) as (url, _, wire):
            return await wire.send(request(url))

    reply = asyncio.run(use())
    assert isinstance(reply, HttpReply)
    assert (reply.status, "link" in reply.headers) == (204, False)
