"""Answers whose status has come and whose body has not: what a receiver does in place of ending it, and what is made of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trustme

from tocsin import settings
from tocsin.channels.contract import Context
from tocsin.channels.registry import CHANNELS
from tocsin.flow.delivery.attempt import shown_reply
from tocsin.model import Delivered, Gone, HttpReply, HttpRequest, Later, NoReply, Outcome, Reason, Refused, Unknown
from tocsin.net.http import HttpWire

SERVICE = settings.load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8"})
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Raw(asyncio.Protocol):
    """Writes `answer` when a request with the body `{}` is whole, and then stays, closes, resets or breaks off the connection."""

    def __init__(self, answer: bytes, then: str) -> None:
        self._answer, self._then, self._heard = answer, then, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if not self._heard.endswith(b"{}"):
            return
        self._transport.write(self._answer)
        if self._then == "closes":
            self._transport.close()
        elif self._then == "resets":
            self._transport.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SOL_SOCKET, SO_LINGER: on, at once
            asyncio.get_running_loop().call_later(0.05, self._transport.abort)  # else the answer is thrown away as well
        elif self._then == "breaks off":
            self._transport.abort()


@pytest.fixture
def tls(trusted: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trusted.issue_cert("127.0.0.1").configure_cert(context)
    return context


@asynccontextmanager
async def serving(answer: bytes, then: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(lambda: Raw(answer, then), "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()


def ask(answer: bytes, then: str, tls: ssl.SSLContext | None = None, **details: Any) -> HttpReply | NoReply:
    async def use() -> HttpReply | NoReply:
        wire = HttpWire(SERVICE)
        async with serving(answer, then, tls) as url:
            try:
                return await wire.send(HttpRequest(url, "https://example.com/", b"{}", **{"body_seconds": 0.0, **details}))
            finally:
                await wire.close()

    return asyncio.run(use())


UNFINISHED = {
    "no length, stays open": (HEAD, "stays"),
    "events without an end": (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n", "stays"),
    "less than promised, stays open": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", "stays"),
    "less than promised, closes": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", "closes"),
    "no length, resets": (HEAD + b"ok", "resets"),
    "half a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "closes"),
    "a chunk that cannot be read": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nab", "stays"),
    "after other answers": (b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + HEAD, "stays"),
}


@pytest.mark.parametrize(("answer", "then"), UNFINISHED.values(), ids=UNFINISHED.keys())
def test_a_head_that_has_arrived_is_an_answer(answer: bytes, then: str) -> None:
    reply = ask(answer, then, timeout_seconds=60.0)
    assert isinstance(reply, HttpReply)
    assert reply.status == 200
    assert reply.cut in {Reason.CUT, Reason.TIMEOUT, Reason.BAD_ANSWER}


def test_a_secure_connection_that_ends_without_saying_so(tls: ssl.SSLContext) -> None:
    reply = ask(HEAD + b"ok", "breaks off", tls)
    assert isinstance(reply, HttpReply)
    assert (reply.status, reply.body, reply.cut) == (200, b"ok", Reason.CUT)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"], ids=["half a head", "1xx only"]
)
@pytest.mark.parametrize("then", ["stays", "closes"])
def test_without_a_whole_head_there_is_no_answer(answer: bytes, then: str) -> None:
    reply = ask(answer, then, timeout_seconds=0.5)
    assert isinstance(reply, NoReply)
    assert (reply.reason, reply.sent) == (Reason.TIMEOUT if then == "stays" else Reason.CUT, True)


def test_a_proxy_s_own_answer_is_none_of_the_target() -> None:
    async def use() -> HttpReply | NoReply:
        async with serving(b"", "stays") as _:
            server = await asyncio.get_running_loop().create_server(Tunnel, "127.0.0.1", 0)
            wire = HttpWire(msgspec.structs.replace(SERVICE, proxy=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
            try:
                return await wire.send(HttpRequest("https://127.0.0.1:8443/", "https://example.com/", b"{}", timeout_seconds=5.0))
            finally:
                await wire.close()
                server.close()

    reply = asyncio.run(use())
    assert isinstance(reply, NoReply)


class Tunnel(asyncio.Protocol):
    """A proxy that opens a tunnel and closes it when something goes through."""

    def connection_made(self, transport: Any) -> None:
        self._transport, self._is_open = transport, False

    def data_received(self, data: bytes) -> None:
        if self._is_open:
            self._transport.close()
        self._is_open = True
        self._transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")


def test_types_that_read_the_body_wait_for_it_as_long_as_for_the_head() -> None:
    reply = ask(HEAD + b"ok", "stays", timeout_seconds=0.5, body_seconds=None)
    assert isinstance(reply, HttpReply)
    assert (reply.body, reply.cut) == (b"ok", Reason.TIMEOUT)


def test_a_stop_leaves_a_head_that_has_arrived() -> None:
    async def use() -> HttpReply | NoReply:
        wire = HttpWire(SERVICE)
        async with serving(HEAD + b"ok", "stays") as url:
            heard = asyncio.Event()
            request = HttpRequest(url, "https://example.com/", b"{}")
            sending = asyncio.create_task(wire.send(request))
            while not heard.is_set():
                await asyncio.sleep(0)
                if any(one._body for one in wire._lanes[True]._multi._waiting.values()) if wire._lanes[True]._multi else False:  # pyright: ignore
                    heard.set()
            wire.cut()
            reply = await sending
            await wire.close()
            return reply

    reply = asyncio.run(use())
    assert isinstance(reply, HttpReply)
    assert (reply.status, reply.body, reply.cut) == (200, b"ok", Reason.CUT)


# ------------------------------------------------------------------------------------------------ what channels make of it


def verdict(kind: str, status: int, body: bytes = b"", **headers: str) -> Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return CHANNELS[kind].classify(HttpReply(status, named, body, Reason.CUT), Context("msg_1", 1, 1_000_000, SERVICE))


WEB = [kind for kind in CHANNELS if kind != "email"]


@pytest.mark.parametrize("kind", WEB)
@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 410, 413, 429, 500, 503])
def test_what_is_not_2xx_means_what_it_means_without_a_body(kind: str, status: int) -> None:
    whole = CHANNELS[kind].classify(HttpReply(status, {"retry-after": "7"}, b""), Context("msg_1", 1, 1_000_000, SERVICE))
    assert verdict(kind, status, retry_after="7") == whole
    assert not isinstance(whole, Unknown)
    assert status != 429 or (isinstance(whole, Later) and whole.wait_seconds == 7.0)


def test_gone_is_gone() -> None:
    assert isinstance(verdict("webhook", 410, b"go aw"), Gone)
    assert isinstance(verdict("discord", 410), Gone)


@pytest.mark.parametrize(
    ("kind", "body", "headers"),
    [
        ("webhook", b"", {}),
        ("discord", b'{"id": "12', {}),
        ("ntfy", b'{"id":"x', {"content_type": "application/json"}),
        ("slack", b"ok", {}),
        ("telegram", b'{"ok": true, "result": {"message_id": 7}}', {}),
        ("x", b'{"data": {"id": "7", "text": "x"}}', {}),
        ("microsoft_teams", b"1", {}),
        ("google_chat", b'{"name": "spaces/1/messages/2"}', {}),
    ],
)
def test_a_cut_2xx_that_says_all_is_a_yes(kind: str, body: bytes, headers: dict[str, str]) -> None:
    assert isinstance(verdict(kind, 200, body, **headers), Delivered)


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("slack", b""),
        ("slack", b"o"),
        ("telegram", b'{"ok": tr'),
        ("x", b'{"data": {"i'),
        ("microsoft_teams", b"Webhook message del"),
        ("google_chat", b'{"na'),
        ("ntfy", b"<html>"),
    ],
)
def test_a_cut_2xx_that_does_not_say_what_became_of_it_is_unknown(kind: str, status: int, body: bytes) -> None:
    assert isinstance(outcome := verdict(kind, status, body), Unknown)
    assert outcome.reason is Reason.CUT


def test_a_cut_2xx_that_says_no_is_a_no() -> None:
    throttled = verdict("microsoft_teams", 200, b"Microsoft Teams endpoint returned HTTP error 429 with", retry_after="9")
    assert (throttled.reason, getattr(throttled, "wait_seconds", None)) == (Reason.THROTTLED, 9.0)
    assert isinstance(verdict("x", 200, b'{"errors": [{"title": "no"}]}'), Refused)
    assert isinstance(verdict("microsoft_teams", 202), Delivered)  # a workflow's yes


def test_half_a_secret_at_the_end_of_a_cut_answer_is_not_shown() -> None:
    secret = "0123456789abcdef"
    for size in range(4, len(secret)):
        _, shown = shown_reply(HttpReply(500, {}, b"no such token " + secret[:size].encode(), Reason.CUT), (secret,))
        assert shown is not None and secret[:4] not in shown and "never came" in shown
    _, shown = shown_reply(HttpReply(500, {}, b"x" * 5000, Reason.CUT), (secret,))
    assert shown is not None and len(shown) == 2000 and shown.endswith("never came.)")
