"""What a client may send, how slowly, and on how many connections: over real sockets, with a clock that the test moves."""

import contextlib
import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from door.conftest import Running, Start, answer, rest
from tocsin.door import listen
from tocsin.settings import load

GET = b"GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


def codes(content: bytes) -> list[tuple[str, str]]:
    return [(one["status"], one["code"]) for one in json.loads(content)["errors"]]


def status(content: bytes) -> int:
    return int(content.split()[1]) if content else 0


# ----------------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("in_pieces", [False, True])
def test_heads_are_taken_up_to_32_kb_and_refused_above_64(start: Start, in_pieces: bool) -> None:
    server = start()
    for size, wanted in ((32 << 10, 200), (60 << 10, 200), (65 << 10, 0), (2 << 20, 0)):
        line = b"GET /api/x?%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"q" * size)
        one = b"GET /api/x HTTP/1.1\r\nHost: a\r\nCookie: %s\r\n\r\n" % (b"c" * size)
        many = b"GET /api/x HTTP/1.1\r\nHost: a\r\n%s\r\n" % (b"x: y\r\n" * (size // 6))
        for head, refused in ((line, ("414", "line_too_long")), (one, ("431", "head_too_large")), (many, ("431", "head_too_large"))):
            with server.connect() as wire:
                step = 1009 if in_pieces and size < 1 << 20 else len(head)
                with contextlib.suppress(OSError):
                    for at in range(0, len(head), step):
                        wire.sendall(head[at : at + step])
                found, headers, content = answer(wire)
                if wanted:
                    assert found == 200
                else:
                    assert (found, codes(content)) == (int(refused[0]), [refused])
                    assert headers["connection"] == "close" and headers["content-type"] == "application/json"
                    assert rest(wire) == b""
    assert {path for _, path in server.requests} == {"/api/x"} and len(server.requests) == 6


def test_outside_the_api_a_refusal_is_a_plain_sentence(start: Start) -> None:
    server = start()
    with server.connect(b"GET /log HTTP/1.1\r\nCookie: " + b"c" * 70_000) as wire:
        found, headers, content = answer(wire)
    assert (found, headers["content-type"], content) == (
        431,
        "text/plain; charset=utf-8",
        b"The head of a request can be at most 64 KB long.\n",
    )


@pytest.mark.parametrize(
    ("sent", "envelope"),
    [
        (b"GET /api/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", True),
        (b"GET http://a/api HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", True),
        (b"NONSENSE /api/x HTTP/1.1\r\n\r\n", True),
        (b"GET /api/x HTTP/1.1\r\nno colon\r\n\r\n", True),
        (b"GET /apix HTTP/1.1\r\nno colon\r\n\r\n", False),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", False),
        (b"POST /api/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", True),
        (b"GET /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", True),
    ],
)
def test_what_is_no_request_is_400(start: Start, sent: bytes, envelope: bool) -> None:
    server = start()
    with server.connect(sent) as wire:
        found, headers, content = answer(wire)
        assert (found, headers["connection"]) == (400, "close")
        assert (codes(content) == [("400", "unreadable")]) if envelope else content.endswith(b".\n")
        assert rest(wire) == b""
    assert server.requests == []


def test_a_refused_head_can_be_any_length_and_holds_nothing(start: Start) -> None:
    """The client that sends on gets to see the answer, up to a point."""
    server = start()
    with server.connect(b"GET / HTTP/1.1\r\n") as wire:
        with contextlib.suppress(OSError):
            for _ in range(20):
                wire.sendall(b"x: " + b"y" * (1 << 20) + b"\r\n")
        server.until(lambda: not server.door.register.count)


def test_unfinished_heads_are_bounded_together(start: Start) -> None:
    """Many half heads, each below the limit for one: the oldest go."""
    server = start(unfinished_bytes=200_000)
    half = b"GET /api/x HTTP/1.1\r\nHost: a\r\nCookie: " + b"c" * 50_000
    wires = []
    for _ in range(8):
        wires.append(server.connect(half))
        server.until(lambda: not any(one.charged == 0 for one in server.door.register.heads))
    assert server.call(lambda: server.door.register._unfinished) <= 200_000
    assert [codes(answer(wire)[2]) for wire in wires[:4]] == [[("503", "busy")]] * 4
    wires[-1].sendall(b"\r\n\r\n")
    assert answer(wires[-1])[0] == 200
    for wire in wires:
        wire.close()


def test_trailers_are_no_headers_and_have_a_limit(start: Start) -> None:
    server = start()
    head = b"POST /api/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    with server.connect(head + b"Authorization: none\r\n\r\n") as wire:
        assert "authorization" not in json.loads(answer(wire)[2])["names"]
    with server.connect(head) as wire:
        with contextlib.suppress(OSError):
            for _ in range(200):
                wire.sendall(b"t: " + b"x" * 1000 + b"\r\n")
        assert answer(wire)[0] in {400, 431}


# ------------------------------------------------------------------------------------------------------------------ time


def test_a_head_that_does_not_come_is_408(start: Start) -> None:
    server = start()
    half, silent = server.connect(b"GET /api/x HTTP/1.1\r\nHost:"), server.connect()
    server.until(lambda: len(server.door.register.heads) == 2 and any(one.charged for one in server.door.register.heads))
    server.passes(29)
    half.sendall(b" a\r\nx: y\r\n")  # a little more buys no time
    server.passes(2)
    found, headers, content = answer(half)
    assert (found, headers["connection"], codes(content)) == (408, "close", [("408", "too_slow")])
    assert rest(half) == b"" and rest(silent) == b""  # who asked nothing is told nothing
    for wire in (half, silent):
        wire.close()
    server.until(lambda: not server.door.register.count)


def test_each_piece_of_a_body_has_its_time_and_all_of_them_too(start: Start) -> None:
    server = start(body_seconds=60.0, body_rate=10)
    stopped, dribbling, slow = (server.connect(POST % 1000) for _ in range(3))
    server.until(lambda: len(server.door.register.bodies) == 3)

    def piece(wire: socket.socket, content: bytes) -> None:
        [guest] = [one for one in server.door.register.bodies if one.client[1] == wire.getsockname()[1]]
        before = guest._body_bytes
        wire.sendall(content)
        server.until(lambda: guest._body_bytes > before or guest._is_deaf)

    for _ in range(3):
        piece(dribbling, b"x")
        piece(slow, b"x" * 150)
        server.passes(29)
    assert codes(answer(stopped)[2]) == [("408", "too_slow")]
    piece(dribbling, b"x")  # the fourth in 87 s, one byte each
    assert codes(answer(dribbling)[2]) == [("408", "too_slow")]
    slow.sendall(b"x" * 550)  # comes slowly, but fast enough
    assert json.loads(answer(slow)[2])["size"] == 1000
    for _ in range(2):
        assert server.gone.acquire(timeout=20)
    for wire in (stopped, dribbling, slow):
        wire.close()


def test_kept_connections_end_after_their_time_and_not_before(start: Start) -> None:
    server = start(kept_seconds=75.0)
    with server.connect(GET) as wire:
        assert answer(wire)[0] == 200
        server.passes(74)
        wire.sendall(GET)
        assert answer(wire)[0] == 200
        server.passes(74)
        wire.sendall(b"GET /api/x HTTP/1.1\r\n")  # the head of the next one has a time of its own
        server.until(lambda: bool(server.door.register.heads))
        server.passes(29)
        wire.sendall(b"Host: a\r\n\r\n")
        assert answer(wire)[0] == 200
        server.passes(76)
        assert rest(wire) == b""


def test_a_request_in_progress_is_not_hurried(start: Start) -> None:
    server = start()
    with server.connect(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\nGET /api/x HTTP/1.1\r\nHo") as wire:
        assert server.held.acquire(timeout=20)
        server.passes(1000)
        server.release()
        assert answer(wire)[0] == 200
        wire.sendall(b"st: a\r\n\r\n")
        assert answer(wire)[0] == 200


def test_a_client_that_does_not_read_is_left(start: Start) -> None:
    server = start()
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.connect(("127.0.0.1", server.port))
    wire.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    server.until(lambda: bool(server.door.register._stalled))
    server.passes(59)
    assert server.call(lambda: server.door.register.count) == 1
    server.passes(2)
    server.until(lambda: not server.door.register.count)
    wire.close()


# ---------------------------------------------------------------------------------------------------------------- room


def test_when_all_places_are_taken_the_oldest_idle_one_goes(start: Start) -> None:
    server = start(connections=4)
    busy = server.connect(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    assert server.held.acquire(timeout=20)
    kept = [server.connect(GET), server.connect(GET)]
    assert [answer(wire)[0] for wire in kept] == [200, 200]
    silent = server.connect()
    server.until(lambda: server.door.register.count == 4)
    server.passes(1)
    new = [server.connect(GET)]
    assert answer(new[0])[0] == 200 and rest(silent) == b""  # first who never asked for anything
    new.append(server.connect(GET))
    assert answer(new[1])[0] == 200 and rest(kept[0]) == b""  # then who has been idle for longest
    kept[1].sendall(GET)
    assert answer(kept[1])[0] == 200  # now it is the youngest
    server.passes(1)
    new.append(server.connect(GET))
    assert answer(new[2])[0] == 200 and rest(new[0]) == b""
    server.release()
    assert answer(busy)[0] == 200
    for wire in (busy, silent, *kept, *new):
        wire.close()


def test_who_has_a_request_in_progress_stays_and_the_next_one_waits(start: Start) -> None:
    server = start(connections=3)
    closing = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    busy = [server.connect(closing % b"/held") for _ in range(3)]
    for _ in busy:
        assert server.held.acquire(timeout=20)
    waiting = [server.connect(closing % b"/api/x") for _ in range(10)]  # the kernel takes them
    server.until(lambda: server.door.register._call_when_room is not None)
    assert server.call(lambda: server.door.register.count) == 3 and len(server.requests) == 3
    server.release()
    assert [rest(wire).count(b"HTTP/1.1 200 ") for wire in (*busy, *waiting)] == [1] * 13
    for wire in (*busy, *waiting):
        wire.close()


def test_a_body_that_has_stopped_makes_room(start: Start) -> None:
    server = start(connections=2)
    bodies = [server.connect(POST % 10 + b"x") for _ in range(2)]
    server.until(lambda: len(server.door.register.bodies) == 2)
    new = server.connect(GET)
    server.until(lambda: server.door.register._call_when_room is not None)
    assert server.requests == []
    server.passes(6)
    assert answer(new)[0] == 200
    assert codes(answer(bodies[0])[2]) == [("503", "busy")]
    bodies[1].sendall(b"x" * 9)
    assert answer(bodies[1])[0] == 200
    for wire in (new, *bodies):
        wire.close()


def test_connections_per_address(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback has no such limit, so the addresses here are told to be others."""
    monkeypatch.setattr("tocsin.door.counted_address", lambda peer, settings: peer if peer != "127.0.0.1" else None)
    server = start(per_address=2)
    free = [server.connect(GET) for _ in range(5)]
    assert [answer(wire)[0] for wire in free] == [200] * 5
    one, held = server.connect(GET, "127.0.0.2"), server.connect(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n", "127.0.0.2")
    assert answer(one)[0] == 200 and server.held.acquire(timeout=20)
    server.passes(1)
    two = server.connect(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n", "127.0.0.2")
    assert server.held.acquire(timeout=20) and rest(one) == b""  # the idle one of the same address
    refused = server.connect(b"", "127.0.0.2")
    assert answer(refused)[0] == 429
    other = server.connect(GET, "127.0.0.3")
    assert answer(other)[0] == 200
    server.release()
    assert [answer(wire)[0] for wire in (held, two)] == [200, 200]
    for wire in (*free, one, held, two, refused, other):
        wire.close()
    server.until(lambda: not server.door.register.count and not server.door.register._addresses)


# ----------------------------------------------------------------------------------------------------- all that still works


def test_pipelined_requests_are_answered_in_their_order_and_bounded(start: Start) -> None:
    server = start()
    with server.connect() as wire:
        wire.sendall(b"".join(b"GET /api/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(3000)))
        wire.sendall(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = rest(wire)
    assert answers.count(b"HTTP/1.1 200 ") == 3001
    assert [path for _, path in server.requests] == [f"/api/{number}" for number in range(3000)] + ["/last"]


def test_requests_that_are_sent_ahead_of_one_that_takes_long_are_bounded(start: Start) -> None:
    server = start(unfinished_bytes=400_000)
    wire = server.connect(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    assert server.held.acquire(timeout=20)
    wire.sendall(GET * 2000)
    server.until(lambda: server.door.register._unfinished == 0 and any(one._is_deaf for one in server.door.server_state.connections))
    server.release()
    assert answer(wire)[0] == 200  # what was in progress
    assert rest(wire) == b"" and len(server.requests) == 1
    wire.close()


def test_continue_chunks_old_versions_and_closing(start: Start) -> None:
    server = start()
    with server.connect(b"POST /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n") as wire:
        assert wire.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.sendall(b"abc")
        assert json.loads(answer(wire)[2])["size"] == 3
        wire.sendall(b"POST /api/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            wire.sendall(b"2;extension=1\r\nxx\r\n")
        wire.sendall(b"0\r\n\r\n")
        assert json.loads(answer(wire)[2])["size"] == 6
        wire.sendall(b"GET /api/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"connection: close" in rest(wire)
    with server.connect(b"GET /api/x HTTP/1.0\r\n\r\n") as wire:
        assert status(rest(wire)) == 200
    with server.connect(b"\r\n\r\n" + GET + b"\r\n") as wire:  # some clients put line breaks between requests
        assert answer(wire)[0] == 200


def test_old_clients_are_not_told_to_continue(start: Start) -> None:
    with start().connect(b"POST /api/x HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc") as wire:
        assert status(rest(wire)) == 200


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0"])
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_an_offer_of_another_protocol_is_ignored_and_the_body_is_the_requests_own(start: Start, protocol: bytes, piece: int) -> None:
    """Java's client offers h2c with each first request. What its body says must never be taken for a request."""
    server = start()
    inner = b"DELETE /api/stolen HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST /api/%s HTTP/1.1\r\nHost: a\r\n" + OFFER % protocol
    sent = b"".join((
        head % b"length", b"Content-Length: %d\r\n\r\n" % len(inner), inner,
        head % b"chunks", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nTrailer: t\r\n\r\n" % (len(inner), inner),
        head.replace(b"POST", b"GET") % b"none", b"\r\n",
        head % b"last", b"Content-Length: 0\r\n\r\n", GET,
        head % b"kept", b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
        b"GET /api/end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ))  # fmt: skip
    with server.connect() as wire:
        for start_at in range(0, len(sent), piece):
            wire.sendall(sent[start_at : start_at + piece])
        found = rest(wire)
    assert found.count(b"HTTP/1.1 200 ") == 7 and b"connection: close" in found
    assert [path for _, path in server.requests] == [f"/api/{name}" for name in ("length", "chunks", "none", "last", "x", "kept", "end")]
    assert found.count(b'"size": %d' % len(inner)) == 2


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: gzip", b"Content-Length: 1\r\nTransfer-Encoding: chunked", b"Content-Length: x"])
def test_an_offer_with_a_body_without_an_end_is_400(start: Start, framing: bytes) -> None:
    server = start()
    with server.connect(b"POST /api/x HTTP/1.1\r\nHost: a\r\n" + OFFER % b"h2c" + framing + b"\r\n\r\n" + GET) as wire:
        assert status(rest(wire)) == 400
    assert not server.requests


@pytest.mark.parametrize("target", [b"a:80", b"/api/x"])
def test_a_tunnel_is_not_opened_and_its_body_is_no_request(start: Start, target: bytes) -> None:
    server = start()
    inner = b"DELETE /api/stolen HTTP/1.1\r\nHost: a\r\n\r\n"
    with server.connect(
        b"CONNECT %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (target, len(inner), inner)
    ) as wire:
        rest(wire)
    assert ("DELETE", "/api/stolen") not in server.requests


@pytest.mark.parametrize("sent", [GET, b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n", GET * 500, POST % 3 + b"abc"])
def test_who_has_nothing_more_to_say_is_still_answered(start: Start, sent: bytes) -> None:
    server = start()
    with server.connect(sent) as wire:
        wire.shutdown(socket.SHUT_WR)
        if b"/held" in sent:
            assert server.held.acquire(timeout=20)
            server.release()
        assert rest(wire).count(b"HTTP/1.1 200 ") == max(1, sent.count(b"GET"))
    server.until(lambda: not server.door.register.count)


def test_who_leaves_while_requests_sent_ahead_wait_is_gone_for_all_of_them(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start()
    wire = server.connect(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    server.until(lambda: bool(server.door.register._stalled))
    server.until(lambda: len(server.requests) == 2)  # the second one waits until its answer can be sent
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    wire.close()
    server.until(lambda: not server.door.server_state.tasks)
    assert not [record for record in caplog.records if record.exc_info]


def test_who_leaves_in_the_middle_of_a_body_is_gone(start: Start) -> None:
    server = start()
    with server.connect(POST % 10 + b"abc"):
        server.until(lambda: bool(server.door.register.bodies))
    assert server.gone.acquire(timeout=20)
    server.until(lambda: not server.door.register.count)


def test_garbage_after_a_request_does_not_spoil_its_answer(start: Start) -> None:
    server = start()
    with server.connect(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n\x00\x01garbage\r\n\r\n") as wire:
        assert server.held.acquire(timeout=20)
        server.release()
        found = rest(wire)
    assert found.startswith(b"HTTP/1.1 200 ") and found.count(b"HTTP/1.1") == 1


def test_large_bodies_arrive_whole(start: Start) -> None:
    server = start()
    with server.connect(POST % (5 << 20)) as wire:
        wire.sendall(b"x" * (5 << 20))
        assert json.loads(answer(wire)[2])["size"] == 5 << 20
        wire.sendall(GET)
        assert answer(wire)[0] == 200


def test_stopping_lets_requests_end_and_closes_all_others(start: Start) -> None:
    server = start()
    held, kept, silent, half = server.connect(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"), *(server.connect(one) for one in (GET, b"", b"GE"))
    assert server.held.acquire(timeout=20) and answer(kept)[0] == 200
    server.until(lambda: server.door.register.count == 4)
    server.door.should_exit = True
    assert [rest(wire) for wire in (kept, silent, half)] == [b""] * 3
    server.release()
    assert b"connection: close" in rest(held)
    for wire in (held, kept, silent, half):
        wire.close()


@pytest.mark.parametrize("requests", [b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 3, b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_stopping_does_not_wait_for_who_does_not_read_and_reports_no_fault(
    start: Start, requests: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    server.door.config.timeout_graceful_shutdown = 1
    wire = server.connect(requests)
    server.until(lambda: bool(server.door.register._stalled) or server.held.acquire(blocking=False))
    server.door.should_exit = True
    server._thread.join(10)
    assert not server._thread.is_alive()
    wire.close()
    assert not [record for record in caplog.records if record.exc_info]


def test_the_register_ends_empty(start: Start) -> None:
    server: Running = start()
    for sent in (GET, b"", b"GET", POST % 5, b"\x00\r\n\r\n", GET * 3):
        server.connect(sent).close()
    register = server.door.register
    server.until(lambda: len(server.door.server_state.connections) == register.count == 0)
    queues = (register.heads, register.bodies, register.kept, register.leaving)
    assert server.call(lambda: [len(queue) for queue in queues]) == [0] * 4
    assert not server.call(lambda: register._unfinished)


# -------------------------------------------------------------------------------------------------------------- address


@pytest.mark.parametrize(
    ("name", "addresses", "family"),
    [
        ("nas", ["::1"], socket.AF_INET6),
        ("nas", ["::1", "127.0.0.1"], socket.AF_INET),
        ("nas", ["127.0.0.1"], socket.AF_INET),
        ("nas", [], socket.AF_INET),
        ("::1", [], socket.AF_INET6),
    ],
)
def test_a_name_is_listened_on_in_the_family_that_it_has(
    name: str, addresses: list[str], family: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def look_up(host: str, *_: object, **__: object) -> list[Any]:
        if not addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_server", lambda address, **how: opened.append((address[0], how["family"])))
    listen(load({"TOCSIN_HOST": name}, Path("/nonexistent/.env")))
    assert opened == [(name, family)]
