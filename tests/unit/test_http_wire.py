"""The HTTP wire against a real server that misbehaves in every way we know, on both event loops."""

import asyncio
import contextlib
import gc
import gzip
import itertools
import logging
import os
import socket
import time
import zlib
from ipaddress import ip_network

import msgspec
import pytest
import structlog
import uvloop

from receiver import Receiver
from tocsin import readings, settings
from tocsin.model import HttpReply, HttpRequest, NoReply, Reason
from tocsin.net import closers, exchange, names
from tocsin.net.exchange import MAX_BODY
from tocsin.net.http import HttpWire

LOOPBACK = ("127.0.0.0/8", "::1/128")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    return request.param


@pytest.fixture
def receiver():
    with Receiver() as server:
        yield server


@pytest.fixture
def fresh_authorities():
    """The trusted authorities are read once; this test changes them."""
    exchange.authorities.cache_clear()
    yield
    exchange.authorities.cache_clear()


@contextlib.asynccontextmanager
async def wire(*allowed, closed=(), proxy=None, ports=readings.EVERY_PORT):
    networks = tuple(ip_network(network) for network in allowed)
    options = msgspec.structs.replace(settings.load({}), allow_networks=networks, allow_ports=ports, proxy=proxy)
    it = HttpWire(options, lambda: closed)
    try:
        yield it
    finally:
        await it.close()


def request(url, body=b'{"text": "hello"}', **details):
    details.setdefault("timeout_seconds", 5.0)
    return HttpRequest(url=url, shown_url="https://example.com/••••", body=body, **details)


def send(run, *requests, allowed=LOOPBACK, **details):
    """Send one after the other on one wire; the last one's reply."""

    async def all_of_them():
        async with wire(*allowed, **details) as it:
            return [await it.send(each) for each in requests]

    return run(all_of_them())[-1]


# --------------------------------------------------------------------------------------------------------- what goes out


def test_a_request_and_its_answer(run, receiver):
    receiver.answer("/hook", 201, headers=[("X-One", "1"), ("X-Two", " a "), ("x-two", "b"), ("Retry-After", "7")], body=b"made")
    reply = send(run, request(receiver.url("/hook"), headers=(("Content-Type", "application/json"), ("webhook-id", "msg_1"))))
    assert reply == HttpReply(201, {"x-one": "1", "x-two": "b", "retry-after": "7", "content-length": "4"}, b"made")
    (got,) = receiver.requests
    assert (got.method, got.target, got.body) == ("POST", "/hook", b'{"text": "hello"}')
    assert got.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "user-agent": exchange._AGENT,
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": "17",
        "webhook-id": "msg_1",
    }


@pytest.mark.parametrize(
    "path",
    [
        "/a/../b/./c//d",
        "/%2e%2E/%41%zz",
        "/?x=%2f",
        "/%2f?x=%2f&y=http://a/b",
        "/?q=[1]&r={a|b}^`'\"",
        "/a;b=c:d@e!$&'()*+,~",
        "/" + "x" * 2000,
    ],
)
def test_the_path_goes_out_byte_for_byte(run, receiver, path):
    send(run, request(receiver.url(path)))
    assert receiver.requests[0].target == path


def test_a_path_outside_ascii_is_percent_encoded_and_a_fragment_stays_home(run, receiver):
    send(run, request(receiver.url("/알림/é?q=ü#part")))
    assert receiver.requests[0].target == "/%EC%95%8C%EB%A6%BC/%C3%A9?q=%C3%BC"


def test_userinfo_goes_out_as_basic_authorization(run, receiver):
    send(run, request(receiver.url("/hook").replace("://", "://us%40er:pa%3Ass@")))
    assert receiver.requests[0].headers["authorization"] == "Basic dXNAZXI6cGE6c3M="


@pytest.mark.parametrize("size", [0, 1, 65_535, 3_000_000])
def test_a_body_of_any_size_arrives_and_is_not_asked_for_leave(run, receiver, size):
    body = os.urandom(size)
    assert send(run, request(receiver.url("/hook"), body)).status == 200
    assert receiver.requests[0].body == body
    assert "expect" not in receiver.requests[0].headers


def test_methods_follow_each_other_on_one_handle(run, receiver):
    methods = ["POST", "GET", "PUT", "HEAD", "DELETE", "POST", "GET", "PATCH"]
    replies = [request(receiver.url("/hook"), method=method) for method in methods]
    send(run, *replies)
    assert [got.method for got in receiver.requests] == methods
    assert [bool(got.body) for got in receiver.requests] == [method not in {"GET", "HEAD"} for method in methods]


def test_an_empty_header_is_sent_and_a_given_agent_wins(run, receiver):
    send(run, request(receiver.url("/hook"), headers=(("X-Empty", ""), ("User-Agent", "mine"), ("Accept-Encoding", "br"))))
    got = receiver.requests[0].headers
    assert (got["x-empty"], got["user-agent"], got["accept-encoding"]) == ("", "mine", "br")


def test_nothing_of_one_request_stays_for_the_next(run, receiver):
    send(run, request(receiver.url("/%2f")), request(receiver.url("/plain")))
    assert [got.target for got in receiver.requests] == ["/%2f", "/plain"]
    receiver.requests.clear()
    send(run, request(receiver.url("/one"), headers=(("Authorization", "Bearer one"),)), request(receiver.url("/two"), b""))
    assert "authorization" not in receiver.requests[1].headers
    assert receiver.requests[1].body == b""


@pytest.mark.parametrize(
    ("url", "headers", "method"),
    [
        ("http://127.0.0.1:{port}/", (("X-A", "b\r\nX-C: d"),), "POST"),
        ("http://127.0.0.1:{port}/", (("X-A\nX-C", "b"),), "POST"),
        ("http://127.0.0.1:{port}/", (("X-A", "ü"),), "POST"),
        ("http://127.0.0.1:{port}/", (), "POST / HTTP/1.1\r\nX:"),
        ("http://127.0.0.1:{port}/\x00", (), "POST"),
        ("http://127.0.0.1:{port}/a b", (), "POST"),
        ("http://127.0.0.1:{port}/a\r\nX-C: d", (), "POST"),
        ("http://127.0.0.1:99999/", (), "POST"),
        ("http://[::1/", (), "POST"),
        ("http://[ü/", (), "POST"),
        ("http://exa mple/", (), "POST"),
        ("ftp://127.0.0.1:{port}/", (), "POST"),
        ("file:///etc/passwd", (), "POST"),
        ("gopher://127.0.0.1:{port}/_x", (), "POST"),
        ("", (), "POST"),
    ],
)
def test_what_cannot_be_sent_is_a_reply_and_no_exception(run, receiver, url, headers, method):
    bad = request(url.format(port=receiver.port), headers=headers, method=method)
    reply = send(run, bad)
    assert (reply.reason, reply.sent) == (Reason.SETTINGS, False)
    assert receiver.requests == []
    assert send(run, bad, request(receiver.url("/hook"))).status == 200, "the next request is fine"


# ------------------------------------------------------------------------------------------------------ what comes back


@pytest.mark.parametrize("status", [200, 204, 301, 302, 307, 308, 400, 404, 410, 429, 500, 503, 599])
def test_every_status_is_an_answer_and_no_redirect_is_followed(run, receiver, status):
    receiver.answer("/hook", status, headers={"Location": receiver.url("/elsewhere")}, body=b"" if status == 204 else b"text")
    reply = send(run, request(receiver.url("/hook")))
    assert reply.status == status
    assert [got.path for got in receiver.requests] == ["/hook"]


@pytest.mark.parametrize("how", ["whole", "chunked", "dribble"])
def test_an_answer_is_whole_however_it_is_written(run, receiver, how):
    receiver.answer("/hook", how=how, body=b"abc", pause=0.001)
    assert send(run, request(receiver.url("/hook"))).body == b"abc"


def test_http_1_0(run, receiver):
    receiver.answer("/hook", how="raw", body=b"HTTP/1.0 200 OK\r\nX-A: b\r\n\r\nuntil the end")
    assert send(run, request(receiver.url("/hook"))) == HttpReply(200, {"x-a": "b"}, b"until the end")


def test_answers_before_the_answer_and_trailers_behind_it_do_not_count(run, receiver):
    before = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nRetry-After: 1\r\n\r\n"
    chunks = b"HTTP/1.1 202 Fine\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nRetry-After: 99\r\n\r\n"
    receiver.answer("/hook", how="raw", body=before + chunks)
    assert send(run, request(receiver.url("/hook"))) == HttpReply(202, {"transfer-encoding": "chunked"}, b"ok")


@pytest.mark.parametrize("length", [MAX_BODY - 1, MAX_BODY])
def test_a_body_up_to_the_cap_is_kept_whole(run, receiver, length):
    receiver.answer("/hook", body=b"x" * length)
    assert send(run, request(receiver.url("/hook"))).body == b"x" * length


@pytest.mark.parametrize(
    ("status", "how", "size"), [(200, "whole", MAX_BODY + 1), (200, "whole", 10_000_000), (200, "endless", 10), (404, "endless", 10)]
)
def test_a_larger_body_is_cut_and_the_status_still_counts(run, receiver, status, how, size):
    receiver.answer("/hook", status, body=b"0123456789" * (size // 10 + 1), how=how)
    began = time.monotonic()
    reply = send(run, request(receiver.url("/hook")))
    assert (reply.status, len(reply.body)) == (status, MAX_BODY)
    assert reply.body.startswith(b"0123456789012")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_of_a_gzip_bomb_no_more_is_unpacked_than_of_any_answer(run, receiver, encoding, pack):
    bomb = pack(b"\0" * 20_000_000)
    receiver.answer("/hook", headers={"Content-Encoding": encoding}, body=bomb)
    assert send(run, request(receiver.url("/hook"))).body == bytes(MAX_BODY)


BROKEN = {
    "cut_headers": Reason.CUT,
    "close": Reason.CUT,
    "reset": Reason.CUT,
    "hang": Reason.TIMEOUT,
    "endless_headers": Reason.ANSWER_TOO_LARGE,
}


@pytest.mark.parametrize(("how", "reason"), BROKEN.items(), ids=BROKEN.keys())
def test_an_answer_that_breaks_may_have_been_taken(run, receiver, how, reason):
    receiver.answer("/hook", how=how, body=b"a body of some length")
    began = time.monotonic()
    reply = send(run, request(receiver.url("/hook"), timeout_seconds=0.5 if how == "hang" else 5.0))
    assert isinstance(reply, NoReply)
    assert (reply.reason, reply.sent) == (reason, True)
    assert reply.detail.endswith(".")
    assert time.monotonic() - began < 4
    assert len(receiver.requests) == 1


def test_a_server_that_dribbles_for_ever_is_left(run, receiver):
    receiver.answer("/hook", how="dribble", body=b"x" * 10_000)
    began = time.monotonic()
    reply = send(run, request(receiver.url("/hook"), timeout_seconds=2.0))
    assert isinstance(reply, HttpReply) and reply.cut is Reason.TIMEOUT
    assert time.monotonic() - began < 3


RAW = {
    "many short header lines": (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1001, Reason.ANSWER_TOO_LARGE),
    "header lines of over 128 KB": (b"HTTP/1.1 200 OK\r\n" + b"a: %s\r\n" % (b"x" * 9000) * 16, Reason.ANSWER_TOO_LARGE),
    "no HTTP": (b"220 smtp.example.com ESMTP\r\n", Reason.BAD_ANSWER),
    "nothing but a line end": (b"\r\n\r\n", Reason.BAD_ANSWER),
    "status line only": (b"HTTP/1.1 200 OK\r\n", Reason.CUT),
    "half a status line": (b"HTTP/1.1 2", Reason.CUT),
    "no status": (b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n", Reason.BAD_ANSWER),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", Reason.BAD_ANSWER),
    "length below zero": (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nabc", Reason.BAD_ANSWER),
    "length no number": (b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nabc", Reason.BAD_ANSWER),
    "NUL in a header": (b"HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 0\r\n\r\n", Reason.BAD_ANSWER),
    "one endless line": (b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 400_000 + b"\r\n\r\n", Reason.ANSWER_TOO_LARGE),
    "1xx without an end": (b"HTTP/1.1 102 Processing\r\n\r\n" * 50_000, Reason.ANSWER_TOO_LARGE),
    "packed transfer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Reason.BAD_ANSWER),
}


@pytest.mark.parametrize(("answer", "reason"), RAW.values(), ids=RAW.keys())
def test_nonsense_for_an_answer(run, receiver, answer, reason):
    receiver.answer("/hook", how="raw", body=answer)
    reply = send(run, request(receiver.url("/hook"), timeout_seconds=3))
    assert isinstance(reply, NoReply), reply
    assert (reply.reason, reply.sent) == (reason, True)


def test_bytes_after_the_answer_do_not_reach_the_next_request(run, receiver):
    receiver.answer(
        "/one", how="raw", body=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 Forged\r\nContent-Length: 0\r\n\r\n"
    )
    assert send(run, request(receiver.url("/one")), request(receiver.url("/two"))).status == 200
    assert receiver.connections == 2


# ------------------------------------------------------------------------------------- what fails before anything is sent


def test_refused(run, own_port):
    reply = send(run, request(f"http://127.0.0.1:{own_port}/"))
    assert reply == NoReply(Reason.CONNECT, sent=False, detail="No connection was made: Connection refused.")


def test_a_name_that_does_not_exist(run):
    reply = send(run, request("http://nowhere.invalid/hook"))
    assert reply == NoReply(Reason.DNS, sent=False, detail="The host name does not resolve.")


def test_a_server_that_never_takes_the_connection(run):
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        reply = send(run, request(f"http://127.0.0.1:{full.getsockname()[1]}/", timeout_seconds=0.5))
    assert (reply.reason, reply.sent) == (Reason.TIMEOUT, False)


@pytest.mark.parametrize("greeting", ["hang", "close", "reset"])
def test_a_secure_connection_that_is_never_made_sent_nothing(run, greeting):
    with Receiver(greeting=greeting) as server:
        reply = send(run, request(server.url("/hook").replace("http:", "https:"), timeout_seconds=0.5))
    assert reply.sent is False
    assert reply.reason in ({Reason.TIMEOUT} if greeting == "hang" else {Reason.TLS, Reason.CONNECT})


@pytest.mark.parametrize("greeting", ["close", "reset", "hang"])
def test_a_server_that_takes_the_connection_and_reads_nothing(run, greeting):
    with Receiver(greeting=greeting) as server:
        reply = send(run, request(server.url("/hook"), timeout_seconds=0.5))
    assert isinstance(reply, NoReply)
    assert reply.reason in ({Reason.TIMEOUT} if greeting == "hang" else {Reason.CUT, Reason.CONNECT})


# ------------------------------------------------------------------------------------------------------------------ TLS


def test_a_certificate_of_an_unknown_authority_is_refused(run):
    with Receiver(tls=True) as server:
        reply = send(run, request(server.url("/hook")), request(server.url("/hook")))
        assert (reply.reason, reply.sent) == (Reason.TLS, False)
        assert server.requests == []


def test_a_certificate_of_a_trusted_authority_is_accepted_for_its_own_name_only(run, tmp_path, monkeypatch, fresh_authorities):
    with Receiver(tls=True, names=("127.0.0.1",)) as server:
        server.authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert send(run, request(server.url("/hook")), request(server.url("/hook"))).status == 200
        assert server.connections == 1
        reply = send(run, request(server.url("/hook", host="localhost")))
        assert (reply.reason, reply.sent) == (Reason.TLS, False)
        assert len(server.requests) == 2


# ---------------------------------------------------------------------------------------------------------- connections


def test_connections_are_used_again(run, receiver):
    send(run, *(request(receiver.url(f"/{number}")) for number in range(20)))
    assert len(receiver.requests) == 20
    assert receiver.connections == 1


def test_a_new_socket_with_the_number_of_a_closed_one_is_heard(run, receiver):
    receiver.answer("/closes", close=True)
    each = [request(receiver.url("/closes"), timeout_seconds=3.0)] * 5
    assert send(run, *each, request(receiver.url("/last"))).status == 200
    assert (len(receiver.requests), receiver.connections) == (6, 6)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_an_idle_connection_that_died_costs_nothing(run, tls, tmp_path, monkeypatch, fresh_authorities):
    async def scenario(server):
        async with wire(*LOOPBACK) as it:
            for _ in range(5):
                assert (await it.send(request(server.url("/hook")))).status == 200
                server.close_connections()
                await server.wait_closed()
                await asyncio.sleep(0)  # one turn of the loop, in which it hears of the closing

    with Receiver(tls=tls) as server:
        if tls:
            server.authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        run(scenario(server))
        assert len(server.requests) == 5


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_used_connection_that_dies_under_a_request_is_followed_by_one_fresh_one(run, receiver, how):
    receiver.answer("/second", how=how)
    receiver.answer("/third", how=how)
    receiver.answer("/third", 201)
    reply = send(run, request(receiver.url("/first")), request(receiver.url("/second")))
    assert (reply.reason, reply.sent) == (Reason.CUT, True)
    assert [got.path for got in receiver.requests] == ["/first", "/second", "/second"]
    assert send(run, request(receiver.url("/first")), request(receiver.url("/third"))).status == 201
    assert [got.path for got in receiver.requests][3:] == ["/first", "/third", "/third"]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_who_does_not_want_repeats_gets_none(run, receiver, how):
    async def scenario():
        it = HttpWire(settings.load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8", "TOCSIN_UNKNOWN": "stop"}))
        try:
            return [await it.send(request(receiver.url(path))) for path in ("/first", "/second", "/third", "/fourth")]
        finally:
            await it.close()

    receiver.answer("/second", how=how)
    first, second, *others = run(scenario())
    assert (second.reason, second.sent) == (Reason.CUT, True)
    assert [one.status for one in (first, *others)] == [200, 200, 200]
    assert [got.path for got in receiver.requests] == ["/first", "/second", "/third", "/fourth"]
    assert len({got.connection for got in receiver.requests}) == 3  # once seen, no connection is kept


def test_a_host_that_closes_kept_connections_twice_is_kept_none_for_a_while(run, receiver, monkeypatch):
    monkeypatch.setattr(closers, "REMEMBERED_SECONDS", 3600.0)

    async def scenario():
        async with wire(*LOOPBACK) as it:

            async def connections(*paths):
                before = len(receiver.requests)
                assert [(await it.send(request(receiver.url(path)))).status for path in paths] == [200] * len(paths)
                return [got.connection for got in receiver.requests[before:]]

            for dying in ("/one", "/two"):
                receiver.answer(dying, how="close")
                receiver.answer(dying)
                await connections("/first", dying)
            single = await connections("/a", "/b", "/c")
            known = it._lanes[True]._kept.closers.hosts
            known.update({host: (count, 0.0) for host, (count, _) in known.items()})  # a while later
            return single, await connections("/d", "/e")

    single, kept = run(scenario())
    assert len(set(single)) == 3
    assert len(set(kept)) == 1


def test_what_is_known_of_hosts_that_close_is_bounded():
    known = closers.Closers(2)
    for number in range(closers.MAX_HOSTS + 10):
        known.closed(f"host-{number}:80", 0.0)
    assert len(known.hosts) == closers.MAX_HOSTS
    known.closed("host-5000:80", 1.0)
    assert (known.keeps("host-5000:80", 2.0), known.keeps("host-5001:80", 2.0), known.keeps("host-0:80", 2.0)) == (False, True, True)
    assert known.keeps("host-5000:80", 1.0 + closers.REMEMBERED_SECONDS)
    assert "host-5000:80" not in known.hosts


def test_a_server_that_went_away_sent_nothing(run):
    async def scenario():
        with Receiver() as server:
            async with wire(*LOOPBACK) as it:
                first = await it.send(request(server.url("/hook")))
                await asyncio.to_thread(server.stop)
                await asyncio.sleep(0)
                return first, await it.send(request(server.url("/hook")))

    first, second = run(scenario())
    assert first.status == 200
    assert (second.reason, second.sent) == (Reason.CONNECT, False)


def test_many_at_once(run, receiver):
    async def scenario():
        async with wire(*LOOPBACK) as it:
            requests = [request(receiver.url(f"/{number}", host=f"127.0.0.{1 + number % 40}"), timeout_seconds=20) for number in range(800)]
            return await asyncio.gather(*(it.send(each) for each in requests))

    with Receiver("0.0.0.0") as receiver:
        replies = run(scenario())
        assert {reply.status for reply in replies} == {200}
        assert sorted(int(got.path[1:]) for got in receiver.requests) == list(range(800))


def test_no_descriptor_is_left_behind(run, receiver, own_port):
    blocked, refused = request("http://10.0.0.1/"), request(f"http://127.0.0.1:{own_port}/")
    receiver.answer("/cut", how="cut_body")
    send(run, request(receiver.url("/hook")))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        send(run, request(receiver.url("/hook")), blocked, refused, request(receiver.url("/cut")))
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_cancelling_aborts_the_transfer_and_leaves_the_wire_usable(run, receiver):
    receiver.answer("/held", hold=True)

    async def scenario():
        async with wire(*LOOPBACK) as it:
            tasks = [asyncio.ensure_future(it.send(request(receiver.url("/held"), timeout_seconds=60))) for _ in range(5)]
            await receiver.wait_for(5)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            receiver.release()
            await receiver.wait_closed()
            return outcomes, await it.send(request(receiver.url("/next")))

    outcomes, after = run(scenario())
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert after.status == 200


def test_cancelling_before_the_first_turn_sends_nothing(run, receiver):
    async def scenario():
        async with wire(*LOOPBACK) as it:
            task = asyncio.ensure_future(it.send(request(receiver.url("/never"))))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return await it.send(request(receiver.url("/next")))

    assert run(scenario()).status == 200
    assert [got.path for got in receiver.requests] == ["/next"]


def test_closing_ends_what_is_under_way_and_refuses_what_comes(run, receiver):
    receiver.answer("/held", hold=True)

    async def scenario():
        async with wire(*LOOPBACK) as it:
            task = asyncio.ensure_future(it.send(request(receiver.url("/held"), timeout_seconds=60)))
            await receiver.wait_for(1)
            await it.close()
            await it.close()
            return await task, await it.send(request(receiver.url("/late")))

    held, late = run(scenario())
    assert (held.reason, held.sent) == (Reason.CUT, True)
    assert (late.reason, late.sent) == (Reason.CUT, False)
    assert [got.path for got in receiver.requests] == ["/held"]


def test_a_cut_says_whether_anything_went_out(run, receiver):
    receiver.answer("/held", hold=True)

    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing: no TLS handshake
            replies: list[HttpReply | NoReply] = []
            async with wire(*LOOPBACK) as it:
                it.start(request(receiver.url("/held"), timeout_seconds=60), replies.append)
                it.start(request(f"https://127.0.0.1:{silent.getsockname()[1]}/"), replies.append)
                await receiver.wait_for(1)
                it.cut()
                assert (await it.send(request(receiver.url("/next")))).status == 200  # it goes on
            return replies

    held, unsent = sorted(run(scenario()), key=lambda reply: -reply.sent)
    assert (held.reason, held.sent, held.stopped) == (Reason.CUT, True, True)
    assert (unsent.reason, unsent.sent, unsent.stopped) == (Reason.CUT, False, True)


# --------------------------------------------------------------------------------------------------------------- guard

FORMS = {
    "plain": "127.0.0.1",
    "decimal": "2130706433",
    "octal": "0177.0.0.1",
    "hexadecimal": "0x7f.1",
    "one hexadecimal number": "0x7f000001",
    "short": "127.1",
    "zero": "0",
    "trailing dot": "127.0.0.1.",
    "localhost": "localhost",
    "localhost with a dot": "localhost.",
    "localhost in capitals": "LOCALHOST",
    "name under localhost": "a.localhost",
    "full-width digits": "１２７.0.0.1",
    "circled digits": "①②⑦.⓪.⓪.①",
    "ideographic full stops": "127。0。0。1",
    "IPv6": "[::1]",
    "IPv6 unspecified": "[::]",
    "IPv4-mapped": "[::ffff:127.0.0.1]",
    "IPv4-mapped in hex": "[::ffff:7f00:1]",
    "IPv4-compatible": "[::127.0.0.1]",
    "NAT64": "[64:ff9b::127.0.0.1]",
    "6to4": "[2002:7f00:1::]",
    "zone": "[fe80::1%25lo]",
    "site-local": "[fec0::1]",
    "unique-local": "[fd00::1]",
    "metadata": "169.254.169.254",
    "userinfo in front": "example.com@127.0.0.1",
    "percent-encoded": "%31%32%37.0.0.1",
}


@pytest.mark.parametrize("host", FORMS.values(), ids=FORMS.keys())
def test_a_guarded_request_reaches_no_private_address_in_any_spelling(run, receiver, host):
    reply = send(run, request(f"http://{host}:{receiver.port}/"), allowed=())
    assert isinstance(reply, NoReply)
    assert reply.sent is False
    assert reply.reason in {Reason.BLOCKED, Reason.DNS, Reason.SETTINGS}
    if host not in {"a.localhost", FORMS["full-width digits"], FORMS["circled digits"], FORMS["ideographic full stops"], "127.0.0.1."}:
        assert reply.reason is Reason.BLOCKED
        assert "TOCSIN_ALLOW_NETWORKS" in reply.detail
    assert receiver.connections == 0


def test_the_operators_own_addresses_are_not_guarded(run, receiver):
    assert send(run, request(receiver.url("/hook"), guarded=False), allowed=()).status == 200


def test_a_connection_opened_without_the_guard_never_carries_a_guarded_request(run, receiver):
    reply = send(run, request(receiver.url("/one"), guarded=False), request(receiver.url("/two")), allowed=())
    assert reply.reason is Reason.BLOCKED
    assert [got.path for got in receiver.requests] == ["/one"]


def test_the_service_itself_stays_closed_in_an_allowed_network(run, receiver):
    reply = send(run, request(receiver.url("/hook")), closed=[("0.0.0.0", receiver.port)])
    assert reply.reason is Reason.BLOCKED
    assert receiver.connections == 0


@pytest.fixture
def resolves(monkeypatch):
    """`resolves(*answers)`: what each look-up finds, the last one for ever; no name stays known, no connection is used again."""

    def set_up(*answers):
        given = itertools.chain(answers, itertools.repeat(answers[-1]))
        prepare = exchange.Exchange.prepare

        async def look_up(_):
            return next(given)

        def prepare_afresh(exchange, each, route, addresses=(), fresh=False):
            prepare(exchange, each, route, addresses, fresh=True)

        monkeypatch.setattr(names, "_in_a_thread", look_up)
        monkeypatch.setattr(names.Names, "is_fresh", lambda *_: False)
        monkeypatch.setattr(exchange.Exchange, "prepare", prepare_afresh)

    return set_up


@pytest.fixture
def logged(monkeypatch):
    """What the wire writes into the log."""
    lines = structlog.testing.CapturingLogger()
    monkeypatch.setattr(exchange, "log", lines)
    return lines


def test_the_address_counts_that_the_name_has_at_connect(run, receiver, resolves, logged):
    """A name that stood for an allowed address a moment ago stands for another now."""
    resolves(["127.0.0.1"], ["127.0.0.2"])
    changing = request(receiver.url("/hook", host="changing.example"))
    reply = send(run, changing, changing, allowed=("127.0.0.1/32",))
    assert reply.reason is Reason.BLOCKED
    assert len(receiver.requests) == 1
    assert "127.0.0" not in reply.detail  # what a name stands for is for the operator only
    [line] = logged.calls
    assert (line.args, line.kwargs["address"]) == (("egress.blocked",), "127.0.0.2")
    assert (line.kwargs["host"], line.kwargs["port"]) == ("changing.example", receiver.port)


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:3128"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_closed_ports_are_not_connected_to_even_in_an_allowed_network(run, logged, scheme, proxy):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        others = (range(1, port), range(port + 1, 65536))
        target = f"{scheme}://127.0.0.1:{port}/secret-path"
        reply = send(run, request(target), ports=others, proxy=proxy)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert (reply.reason, reply.sent) == (Reason.BLOCKED, False)
    assert f"Port {port} is closed" in reply.detail and "TOCSIN_ALLOW_PORTS" in reply.detail
    [line] = logged.calls
    assert line.kwargs["port"] == port and "secret-path" not in str(line)


def test_the_operators_own_addresses_may_have_any_port(run, receiver):
    assert send(run, request(receiver.url("/hook"), guarded=False), ports=(range(80, 81),)).status == 200


def test_of_several_addresses_only_the_allowed_one_is_used(run, receiver, resolves):
    resolves(["10.0.0.1", "::1", "127.0.0.2", "127.0.0.1"])
    reply = send(run, request(receiver.url("/hook", host="several.example")), allowed=("127.0.0.1/32",))
    assert reply.status == 200


def test_a_name_is_looked_up_once_for_many_and_again_when_it_is_old(run, receiver, monkeypatch):
    asked = []

    async def look_up(host):
        asked.append(host)
        await asyncio.sleep(0)
        return ["127.0.0.1"]

    monkeypatch.setattr(names, "_in_a_thread", look_up)

    async def use():
        async with wire(*LOOPBACK) as it:
            each = request(receiver.url("/hook", host="known.example."))
            replies = await asyncio.gather(*(it.send(each) for _ in range(5)))
            replies.append(await it.send(each))
            first = len(asked)
            monkeypatch.setattr(names.Names, "is_fresh", lambda *_: False)
            replies.append(await it.send(each))
            return replies, first

    replies, first = run(use())
    assert [reply.status for reply in replies] == [200] * 7
    assert (first, asked) == (1, ["known.example."] * 2)


def test_names_that_hang_leave_threads_for_others(run, monkeypatch):
    hangs = asyncio.Event()
    asked = []

    async def look_up(host):
        asked.append(host)
        if host.startswith("hangs"):
            await hangs.wait()
            raise OSError("no such name")
        return ["127.0.0.1"]

    monkeypatch.setattr(names, "_in_a_thread", look_up)

    async def use():
        found = names.Names(60)
        many = [names.Place(f"hangs{number}", 80) for number in range(names.MAX_LOOKUPS)]

        async def tries():
            return await asyncio.gather(*(found.addresses(each, 0.05) for each in many), return_exceptions=True)

        first = await tries()  # nothing is known against them yet
        hangs.set()
        await asyncio.sleep(0.01)
        hangs.clear()
        asked.clear()
        second = await tries()
        started = len(asked)
        good = await found.addresses(names.Place("good", 80), 5)
        found.close()
        return first, second, started, good

    first, second, started, good = run(use())
    assert {type(each) for each in first} == {type(each) for each in second} == {TimeoutError}
    assert (started, good) == (names.MAX_DOUBTFUL, ["127.0.0.1"])


def test_a_look_up_that_fails_when_nobody_waits_any_more_is_no_complaint(run, monkeypatch, caplog):
    answer = asyncio.Event()

    async def look_up(_):
        await answer.wait()
        raise OSError("no such name")

    monkeypatch.setattr(names, "_in_a_thread", look_up)

    async def use():
        found = names.Names(60)
        with pytest.raises(TimeoutError):
            await found.addresses(names.Place("hangs", 80), 0.01)
        answer.set()
        while found._running:
            await asyncio.sleep(0)

    run(use())
    gc.collect()
    assert caplog.records == []


def test_when_no_thread_can_be_started_the_fault_is_ours(run, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(names.threading.Thread, "start", start)
    reply = send(run, request("http://example.com/"))
    assert reply == NoReply(Reason.INTERNAL, sent=False, detail="No thread can be started to look up the host name.", ours=True)


TEXT = '{"error": "그런 채널이 없습니다"}'.encode() * 10
GZIP = gzip.compress(TEXT, mtime=0)  # the same bytes for each of the processes that run the tests


@pytest.mark.parametrize(
    ("body", "encoding", "read"),
    [
        (GZIP, "gzip", TEXT),
        (GZIP, "x-gzip", TEXT),
        (GZIP, "GZip", TEXT),
        (GZIP, "deflate", TEXT),
        (zlib.compress(TEXT), "deflate", TEXT),
        (zlib.compress(TEXT)[2:-4], "Deflate", TEXT),  # raw, as many servers send it
        (b"plain", "gzip", b"plain"),
        (TEXT[:-4], "gzip", TEXT[:-4]),  # cut within a character
        (b"plain", "br", b"plain"),
        (b"", "br", b""),
        (GZIP, "identity", GZIP),
        (GZIP, "", GZIP),
        (b"\x0b\x0b\x80{}\x03", "br", b"(compressed)"),
        (b"\x28\xb5\x2f\xfd", "zstd", b"(compressed)"),
        (GZIP, "gzip, br", b"(compressed)"),
        (b"\x1f\x8b\xff\xff", "gzip", b"(compressed)"),
        (b"\x00\xff", "deflate", b"(compressed)"),
    ],
)
def test_an_answer_that_comes_packed_unasked_is_read(run, receiver, body, encoding, read):
    receiver.answer("/hook", 500, headers={"Content-Encoding": encoding} if encoding else {}, body=body)
    reply = send(run, request(receiver.url("/hook")))
    assert (reply.status, reply.body) == (500, read)


def test_of_a_packed_answer_that_is_cut_the_beginning_is_read(run, receiver):
    text = b"".join(b"%d\n" % number for number in range(1000))
    receiver.answer("/hook", 500, headers={"Content-Encoding": "gzip"}, body=gzip.compress(text)[:900])
    body = send(run, request(receiver.url("/hook"))).body
    assert body[:50] == text[:50] and text.startswith(body) and len(body) < len(text)


def test_a_name_whose_address_cannot_be_reached_is_looked_up_again(run, receiver, monkeypatch):
    """It moved: the old address refuses, and the next request goes to the new one, though names stay fresh for minutes."""
    found = ["127.0.0.9"]
    real = socket.getaddrinfo

    def look_up(host, *args, **options):
        return real(found[0] if host == "moved.test" else host, *args, **options)

    monkeypatch.setattr(names.socket, "getaddrinfo", look_up)

    async def scenario():
        async with wire(*LOOPBACK) as it:
            url = f"http://moved.test:{receiver.port}/hook"
            before = await it.send(request(url))
            found[0] = "127.0.0.1"
            return before, await it.send(request(url))

    before, after = run(scenario())
    assert (before.reason, before.sent) == (Reason.CONNECT, False)
    assert after.status == 200


# --------------------------------------------------------------------------------------------------------------- proxies


def test_proxies_of_the_environment_get_nothing(run, receiver, monkeypatch):
    with Receiver() as proxy:
        for name in PROXY_VARIABLES:
            monkeypatch.setenv(name, proxy.url(""))
        assert send(run, request(receiver.url("/hook"))).status == 200
        assert send(run, request(receiver.url("/hook"), guarded=False)).status == 200
        assert send(run, request("http://10.0.0.1/"), allowed=()).reason is Reason.BLOCKED
        send(run, request(receiver.url("/hook").replace("http:", "https:"), timeout_seconds=0.3))
        assert proxy.connections == 0


@pytest.mark.parametrize("host", ["10.0.0.1", "2130706433", "0x7f.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[fe80::1%25lo]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_with_a_proxy_the_target_is_judged_before(run, host, scheme):
    with Receiver() as proxy:
        reply = send(run, request(f"{scheme}://{host}/hook"), allowed=(), proxy=proxy.url(""))
        assert (reply.reason, reply.sent) == (Reason.BLOCKED, False)
        assert proxy.connections == 0


def test_with_a_proxy_a_name_that_does_not_exist_is_not_sent_to_it(run):
    with Receiver() as proxy:
        reply = send(run, request("http://nowhere.invalid/"), request("http://" + "a" * 70 + ".invalid/"), proxy=proxy.url(""))
        assert (reply.reason, reply.sent) == (Reason.DNS, False)
        assert send(run, request("http://[::1/"), proxy=proxy.url("")).reason is Reason.SETTINGS
        assert proxy.connections == 0


# --------------------------------------------------------------------------------------------------------------- secrets


def test_no_part_of_a_url_but_its_host_is_in_any_reply_or_log(run, receiver, own_port, caplog, capfd):
    secrets = ["userSecret", "passSecret", "pathSecret", "querySecret", "headerSecret", "bodySecret"]
    caplog.set_level(logging.DEBUG)
    authority = "userSecret:passSecret@127.0.0.1"
    shown = []
    hows = ["whole", *BROKEN]
    for how in hows:
        receiver.answer(f"/pathSecret/{how}", how=how)
    ports = [receiver.port, own_port, 99999]
    urls = [f"http://{authority}:{receiver.port}/pathSecret/{how}?querySecret" for how in hows]
    urls += [f"{scheme}://{authority}:{port}/pathSecret?querySecret" for scheme in ("http", "https", "ftp") for port in ports]
    urls += [f"http://userSecret:passSecret@{host}/pathSecret?querySecret" for host in ("10.0.0.1", "nowhere.invalid", "exa mple", "[::1")]

    async def scenario():
        requests = [
            request(url, b"bodySecret", headers=(("X-A", "headerSecret" + end),), timeout_seconds=0.4) for url in urls for end in ("", "\n")
        ]
        shown.extend(map(repr, requests))
        async with wire(*LOOPBACK) as direct, wire(*LOOPBACK, proxy=receiver.url("")) as through_proxy:
            return [await it.send(each) for it in (direct, through_proxy) for each in requests]

    with Receiver(tls=True) as secure:
        urls.append(f"https://{authority}:{secure.port}/pathSecret?querySecret")
        replies = run(scenario())
    assert {Reason.CUT, Reason.TIMEOUT, Reason.CONNECT, Reason.DNS, Reason.BLOCKED, Reason.SETTINGS, Reason.TLS} <= {
        reply.reason for reply in replies if isinstance(reply, NoReply)
    }
    shown += [repr(replies), caplog.text, *capfd.readouterr()]
    assert [secret for secret in secrets if secret in "".join(shown)] == []


# ------------------------------------------------------------------------------------------------------------------ time


def test_an_alarm_that_is_due_at_once_is_one_like_any_other(run, receiver):
    """uvloop's handle for it does not know when it is due."""
    receiver.answer("/held", hold=True)
    complaints = []

    async def scenario():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with wire(*LOOPBACK) as it:
            held = asyncio.ensure_future(it.send(request(receiver.url("/held"), timeout_seconds=30)))
            await receiver.wait_for(1)
            multi = it._lanes[True]._multi
            for _ in range(3):
                multi._set_alarm(0.0001)
                multi._set_timer()
                await asyncio.sleep(0)
            receiver.release()
            return await held

    assert run(scenario()).status == 200
    assert complaints == []


def test_an_answer_that_came_while_the_process_stood_still_counts(run, receiver):
    receiver.answer("/held", hold=True, close=True)

    async def scenario():
        async with wire(*LOOPBACK) as it:
            held = [asyncio.ensure_future(it.send(request(receiver.url("/held"), timeout_seconds=0.3))) for _ in range(5)]
            await receiver.wait_for(5)
            receiver.release()
            with receiver._changed:  # the loop does not turn until all answers lie in the kernel's buffers and the time is up
                assert receiver._changed.wait_for(lambda: receiver.open_connections == 0, 10)
            time.sleep(0.8)
            return await asyncio.gather(*held), await it.send(request(receiver.url("/next")))

    replies, after = run(scenario())
    assert [reply.status for reply in replies] == [200] * 5
    assert after.status == 200


def test_time_begins_anew_after_a_gap_only_once(run, receiver):
    receiver.answer("/hang", how="hang")

    async def scenario():
        async with wire(*LOOPBACK) as it:
            hangs = asyncio.ensure_future(it.send(request(receiver.url("/hang"), timeout_seconds=0.3)))
            await receiver.wait_for(1)
            for _ in range(3):
                time.sleep(0.6)
                await asyncio.sleep(0.01)
            reply = await hangs
            return reply, await it.send(request(receiver.url("/hang"), timeout_seconds=0.2))

    for reply in run(scenario()):
        assert (reply.reason, reply.sent) == (Reason.TIMEOUT, True)


def test_handles_beyond_those_that_wait_are_freed_at_once(run, receiver):
    """Their callbacks hold them in a circle, and a garbage collection is rare."""

    def handles():
        return sum(isinstance(one, exchange.Exchange) for one in gc.get_objects())

    async def many(it):
        await asyncio.gather(*(it.send(request(receiver.url("/many"))) for _ in range(exchange.MAX_FREE + 50)))

    async def twice():
        async with wire(*LOOPBACK) as it:
            gc.collect()
            gc.disable()
            try:
                before = handles()
                for _ in range(2):
                    await many(it)
                return handles() - before
            finally:
                gc.enable()

    receiver.answer("/many", 200, delay=0.2)
    assert run(twice()) <= exchange.MAX_FREE
