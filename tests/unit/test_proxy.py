"""The operator's proxy: what goes through it, past it, and what of its own doing is never the target's."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pycurl
import pytest
import trustme

from proxy import Proxy
from receiver import Receiver
from tocsin.model import HttpReply, HttpRequest, NoReply, Reason
from tocsin.net import names, proxies
from tocsin.net.http import HttpWire
from tocsin.settings import Settings, SettingsError, load
from unit.conftest import trusting


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        yield server


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver(tls=True) as server, trusting(server.authority, tmp_path, monkeypatch):
        yield server


@contextlib.asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[HttpWire]:
    it = HttpWire(settings)
    try:
        yield it
    finally:
        await it.close()


def request(url: str, guarded: bool = True, seconds: float = 5.0) -> HttpRequest:
    headers = (("X-Secret", "sesame"),)
    return HttpRequest(url=url, shown_url="https://example.com/", body=b"{}", headers=headers, guarded=guarded, timeout_seconds=seconds)


def send(settings: Settings, *requests: HttpRequest) -> list[HttpReply | NoReply]:
    async def scenario() -> list[HttpReply | NoReply]:
        async with wire(settings) as it:
            return [await it.send(one) for one in requests]

    return asyncio.run(scenario())


@pytest.mark.parametrize("guarded", [True, False])
def test_plain_http_goes_through_a_tunnel_too(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing of the request is the proxy's to read or to answer, whatever no_proxy of the environment says."""
    monkeypatch.setenv("no_proxy", "*")
    target = receiver.url("/a%2fb%C3%A4?c=%7e")
    [first, second] = send(make_settings(TOCSIN_PROXY=proxy.url), request(target, guarded), request(target, guarded))
    assert isinstance(first, HttpReply) and isinstance(second, HttpReply) and first.status == second.status == 200
    assert proxy.asked == [f"127.0.0.1:{receiver.port}"]  # one tunnel for both
    assert not {"retry-after", "x-proxy"} & {*first.headers, *second.headers}  # which the proxy has said of itself
    assert [one.target for one in receiver.requests] == ["/a%2fb%C3%A4?c=%7e"] * 2
    assert b"sesame" not in proxy.heads[0] and receiver.requests[0].headers["x-secret"] == "sesame"


@pytest.mark.parametrize("status", [301, 400, 403, 404, 407, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("guarded", [True, False])
def test_what_the_proxy_refuses_is_the_proxys(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy, scheme: str, status: int, guarded: bool
) -> None:
    proxy.status = status
    settings = make_settings(TOCSIN_PROXY=proxy.url.replace("//", "//user:sesame@"))
    [reply] = send(settings, request(receiver.url("/hook").replace("http", scheme), guarded))
    assert isinstance(reply, NoReply)
    assert (reply.reason, reply.sent, str(status) in reply.detail) == (Reason.PROXY, False, True)
    assert "sesame" not in reply.detail


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_or_closes_is_the_proxys_fault(
    make_settings: Callable[..., Settings], own_port: int, scheme: str
) -> None:
    for url in (f"http://127.0.0.1:{own_port}", "http://nowhere.invalid:3128"):
        [reply] = send(make_settings(TOCSIN_PROXY=url), request(f"{scheme}://127.0.0.1:8080/"))
        assert isinstance(reply, NoReply) and (reply.reason, reply.sent) == (Reason.PROXY, False)


OK = b"HTTP/1.1 200 OK\r\n"
NO_TUNNEL = {
    "nothing": b"",
    "part of the status line": b"HTTP/1.1 2",
    "status line": OK,
    "part of a header": OK + b"X:",
    "long header": OK + b"X: " + b"a" * 400_000 + b"\r\n\r\n",
    "many headers": OK + b"X: a\r\n" * 60_000 + b"\r\n",
    "no header": OK + b"rubbish\r\n\r\n",
    "NUL": OK + b"X: \0\r\n\r\n",
    "no status line": b"rubbish\r\n\r\n",
    "no status": b"HTTP/1.1 rubbish\r\n\r\n",
    "HTTP/0.9": b"<p>rubbish</p>",
    "version": b"HTTP/9.9 200 OK\r\n\r\n",
    "empty line": b"\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n",
    "interim, part of a header": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"X:",
    "part of a refusal": b"HTTP/1.1 403 No\r\nX:",
    "part of a refusal's body": b"HTTP/1.1 403 No\r\nContent-Length: 500\r\n\r\nNo",
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("what", "then"),
    [*((what, "close") for what in NO_TUNNEL), *((what, then) for what in list(NO_TUNNEL)[:4] for then in ("reset", "wait"))],
)
def test_what_goes_wrong_before_the_tunnel_is_made_is_the_proxys(
    make_settings: Callable[..., Settings], proxy: Proxy, what: str, scheme: str, then: str
) -> None:
    """Nothing was sent to the target."""
    proxy.says, proxy.then = NO_TUNNEL[what], then
    seconds = 0.3 if then == "wait" else 5.0
    [reply] = send(make_settings(TOCSIN_PROXY=proxy.url), request(f"{scheme}://127.0.0.1:8080/", seconds=seconds))
    assert isinstance(reply, NoReply) and (reply.reason, reply.sent) == (Reason.PROXY, False)


TUNNEL = {
    "HTTP/1.1": OK + b"\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\n\n",
    "page": OK + b"Content-Length: 5\r\n\r\nhello",
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "header": OK + b"X: a\r\n\r\n",
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("what", "then"), [*((what, "close") for what in TUNNEL), ("HTTP/1.1", "reset"), ("HTTP/1.1", "wait")])
def test_tunnels_through_which_nothing_comes_back_are_the_proxys_from_the_third_target_on(
    make_settings: Callable[..., Settings], proxy: Proxy, what: str, scheme: str, then: str
) -> None:
    """A request that went out may have arrived, whoever is to blame."""
    proxy.says, proxy.then = TUNNEL[what], then
    seconds = 0.5 if then == "wait" else 5.0

    async def scenario() -> list[NoReply]:
        async with wire(make_settings(TOCSIN_PROXY=proxy.url)) as it:
            found: list[NoReply] = []
            for number in (2, 2, 3, 4, 2):
                reply = await it.send(request(f"{scheme}://127.0.0.{number}:8080/", seconds=seconds))
                assert isinstance(reply, NoReply) and it.trouble is None
                assert bool(it.complaints()) == (reply.reason is Reason.PROXY)
                found.append(reply)
            return found

    replies = asyncio.run(scenario())
    assert [reply.reason is Reason.PROXY for reply in replies] == [False] * 3 + [True] * 2
    assert then == "reset" or {reply.sent for reply in replies} == {scheme == "http"}  # a reset may come before the request


def test_what_the_target_does_behind_the_tunnel_is_the_targets(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy, secure: Receiver
) -> None:
    receiver.answer("/gone", 410)
    receiver.answer("/proxy", 407)
    receiver.answer("/cut", how="close")
    settings = make_settings(TOCSIN_PROXY=proxy.url)
    gone, unauthorized, cut, not_tls, good = send(
        settings,
        *(request(receiver.url(path)) for path in ("/gone", "/proxy", "/cut")),
        request(receiver.url("/").replace("http", "https")),
        request(secure.url("/")),
    )
    assert [one.status for one in (gone, unauthorized, good) if isinstance(one, HttpReply)] == [410, 407, 200]
    assert isinstance(cut, NoReply) and (cut.reason, cut.sent) == (Reason.CUT, True)
    assert isinstance(not_tls, NoReply) and not_tls.reason in {Reason.TLS, Reason.TIMEOUT}  # it waits for a line that never comes


def test_readyz_hears_of_a_proxy_through_which_nothing_goes(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy
) -> None:
    proxy.hosts |= {f"127.0.0.{number}": "127.0.0.1" for number in range(2, 6)}  # a tunnel of its own for each

    async def scenario() -> list[str | None]:
        async with wire(make_settings(TOCSIN_PROXY=proxy.url)) as it:
            heard: list[str | None] = []
            for status in (200, 403, 407, 403, 200):
                proxy.status = status
                await it.send(request(receiver.url(f"/{status}").replace("127.0.0.1", f"127.0.0.{len(heard) + 1}")))
                heard.append(it.trouble)
                said.append(it.complaints())
            return heard

    said: list[list[str]] = []
    before, otherwise, refused, still, after = asyncio.run(scenario())
    assert before is otherwise is after is None
    assert refused == still == "Nothing goes out: the operator's proxy answered 407: it asks for a user and password."
    assert said == [[]] * 5


class Answered:
    """What libcurl knows after a request of which nothing was sent."""

    def __init__(self, event: str) -> None:
        self._known = {
            pycurl.HTTP_CONNECTCODE: int(event) if event.isdigit() else 200 if event == "part" else 0,
            pycurl.CONNECT_TIME: 0.0 if event == "gone" else 0.1,
        }

    def getinfo(self, what: int) -> Any:
        return self._known[what]


HEADS = {"200": [OK, b"\r\n"], "part": [OK]}


@pytest.mark.parametrize(
    ("events", "heard"),
    [
        ("407 403 502 silent 403", "407 407 407 407 407"),
        ("403 403 403 407 403", "ready ready 403 407 407"),
        ("gone 403", "gone 403"),  # it is there, and has let nothing through
        ("gone silent", "gone silent"),
        ("407 gone 403", "407 gone 407"),
        ("gone 407 403", "gone 407 407"),
        ("407 200 403", "407 ready ready"),  # a tunnel, and a target that closes it: the proxy does let through
        ("gone 200", "gone ready"),
        ("407 part 403", "407 407 407"),
        ("part part part", "ready ready part"),
        ("407 passed 403", "407 ready ready"),
        ("gone passed", "gone ready"),
    ],
)
def test_what_is_certain_about_the_proxy_is_not_taken_back_by_what_one_target_is_refused(events: str, heard: str) -> None:
    proxy = proxies.Proxy("http://proxy.example:3128")
    words = {
        "407": "answered 407",
        "part": "cannot be read",
        "403": "answered 403",
        "gone": "cannot be reached",
        "silent": "does not answer",
    }
    for number, (event, expected) in enumerate(zip(events.split(), heard.split(), strict=True)):
        if event == "passed":
            proxy.passed()
        else:
            failure = NoReply(Reason.CUT, sent=False, detail="It ended.")
            proxy.refusal(cast(pycurl.Curl, Answered(event)), failure, f"{number}.example:443", HEADS.get(event, ()))
        is_certain = expected in {"407", "gone"}
        assert (proxy.trouble is not None, proxy.suspicion is not None) == (is_certain, not is_certain and expected != "ready")
        assert words.get(expected, "") in (proxy.trouble or proxy.suspicion or ""), (number, event)


async def told(it: HttpWire, receiver: Receiver, numbers: Iterable[int]) -> list[tuple[Reason | None, bool]]:
    """What becomes of a request to each target, 127.0.0.NUMBER, and whether the proxy is complained of after that. The service stays ready:
    users choose the targets."""
    found: list[tuple[Reason | None, bool]] = []
    for number in numbers:
        reply = await it.send(request(receiver.url("/hook").replace("127.0.0.1", f"127.0.0.{number}")))
        found.append((reply.reason if isinstance(reply, NoReply) else None, bool(it.complaints())))
        assert it.trouble is None
    return found


REFUSALS = {
    "403": (403, None),
    "502": (502, None),
    "closes": (200, b""),
    "rubbish": (200, b"SSH-2.0-OpenSSH_9\r\n"),
    "part": (200, OK),
}


@pytest.mark.parametrize(("status", "says"), REFUSALS.values(), ids=REFUSALS.keys())
def test_readyz_hears_of_a_proxy_that_refuses_several_targets_and_lets_none_through(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy, status: int, says: bytes | None
) -> None:
    proxy.hosts |= {f"127.0.0.{number}": "127.0.0.1" for number in range(2, 9)}

    async def scenario() -> list[list[tuple[Reason | None, bool]]]:
        async with wire(make_settings(TOCSIN_PROXY=proxy.url)) as it:
            proxy.status, proxy.says = status, says
            found = [await told(it, receiver, [2, 3, 2, 3, 4])]
            proxy.status, proxy.says = 200, None
            found.append(await told(it, receiver, [5]))
            proxy.status, proxy.says = status, says
            found.append(await told(it, receiver, [6, 7]))
            return found

    refused, passed, again = asyncio.run(scenario())
    assert refused == [(Reason.PROXY, False)] * 4 + [(Reason.PROXY, True)]
    assert passed == [(None, False)]
    assert again == [(Reason.PROXY, False)] * 2


CONNECTED = b"HTTP/1.1 200 Connected\r\n\r\n"
SAYS_NOTHING = "Nothing goes out: the operator's proxy makes tunnels, but no proper answer comes back."
LETS_NOTHING_SECURE = "Nothing goes out: the operator's proxy lets no secure connection through."


@pytest.mark.parametrize(
    ("is_secure", "inspects", "reason", "complaint"),
    [
        (True, True, Reason.TLS, LETS_NOTHING_SECURE),
        (True, False, Reason.TLS, LETS_NOTHING_SECURE),
        (False, False, Reason.CUT, SAYS_NOTHING),
    ],
)
def test_what_happens_to_every_target_is_the_proxys(
    make_settings: Callable[..., Settings],
    receiver: Receiver,
    proxy: Proxy,
    secure: Receiver,
    is_secure: bool,
    inspects: bool,
    reason: Reason,
    complaint: str,
) -> None:
    """It takes every tunnel, and shows a certificate of its own, or closes. One or two such targets cannot be told from the proxy."""
    proxy.hosts |= {f"127.0.0.{number}": "127.0.0.1" for number in range(2, 9)}
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("proxy.example").configure_cert(context)
    target = secure if is_secure else receiver

    async def scenario() -> list[list[tuple[Reason | None, bool]]]:
        async with wire(make_settings(TOCSIN_PROXY=proxy.url)) as it:
            proxy.context, proxy.says = (context, None) if inspects else (None, CONNECTED)
            found = [await told(it, target, [2, 2, 3, 3, 4, 2, 5])]
            assert it.complaints() == [complaint]
            proxy.context = proxy.says = None
            found.append(await told(it, target, [1]))
            proxy.context, proxy.says = (context, None) if inspects else (None, CONNECTED)
            found.append(await told(it, target, [6, 7]))
            return found

    broken, passed, again = asyncio.run(scenario())
    assert broken == [(reason, False)] * 4 + [(Reason.PROXY, True)] * 3
    assert passed == [(None, False)]
    assert again == [(reason, False)] * 2


def test_a_proxy_that_closes_is_known_by_plain_and_secure_targets_together(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy, secure: Receiver
) -> None:
    proxy.says = CONNECTED

    async def scenario() -> list[tuple[Reason | None, bool]]:
        async with wire(make_settings(TOCSIN_PROXY=proxy.url)) as it:
            return [*await told(it, receiver, [2]), *await told(it, secure, [3]), *await told(it, receiver, [4])]

    assert asyncio.run(scenario()) == [(Reason.CUT, False), (Reason.TLS, False), (Reason.PROXY, True)]


def test_an_answer_that_begins_has_come_through_the_proxy(make_settings: Callable[..., Settings], proxy: Proxy) -> None:
    proxy.says = CONNECTED + b"HTTP/1.1 200 OK\r\nX:"

    async def scenario() -> list[Reason | None]:
        async with wire(make_settings(TOCSIN_PROXY=proxy.url)) as it:
            replies = [await it.send(request(f"http://127.0.0.{number}:8080/")) for number in (2, 3, 4)]
            return [reply.reason if isinstance(reply, NoReply) and reply.sent else None for reply in replies]

    assert asyncio.run(scenario()) == [Reason.CUT] * 3


def test_targets_that_fail_each_in_its_own_way_are_not_the_proxys(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy, secure: Receiver
) -> None:
    proxy.hosts |= {f"127.0.0.{number}": "127.0.0.1" for number in range(2, 9)}

    async def scenario() -> list[tuple[Reason | None, bool]]:
        async with wire(make_settings(TOCSIN_PROXY=proxy.url)) as it:
            found: list[tuple[Reason | None, bool]] = []
            for numbers, says in (([2, 3], None), ([4, 5], CONNECTED), ([6, 7], None)):
                proxy.says = says
                found += await told(it, secure, numbers)
            return found

    assert asyncio.run(scenario()) == [(Reason.TLS, False)] * 6  # the certificate is for 127.0.0.1 only


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_proxys_name_is_looked_up_again_if_it_cannot_be_reached(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy, host: str, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, asked = ["127.0.0.9"], []

    def look_up(name: str, *args: Any, **options: Any) -> Any:
        if name == "proxy.test":
            asked.append(name)
            name = found[0]
        return _getaddrinfo(name, *args, **options)

    monkeypatch.setattr(names.socket, "getaddrinfo", look_up)
    settings = make_settings(TOCSIN_PROXY=proxy.url.replace("127.0.0.1", "proxy.test"))

    async def scenario() -> list[HttpReply | NoReply]:
        async with wire(settings) as it:
            one = request(receiver.url("/hook").replace("127.0.0.1", host), guarded)
            before = await it.send(one)
            found[0] = "127.0.0.1"
            return [before, *[await it.send(one) for _ in range(3)]]

    before, *after = asyncio.run(scenario())
    assert isinstance(before, NoReply) and (before.reason, before.sent) == (Reason.PROXY, False)
    assert [reply.status for reply in after if isinstance(reply, HttpReply)] == [200] * 3
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("listed", "past"),
    [
        ("127.0.0.1", True),
        ("127.0.0.0/8", True),
        ("localhost", False),
        ("127.0.0.1.", True),
        ("10.0.0.0/8,127.0.0.1/32", True),
        ("*", True),
        ("127.0.0.2", False),
        ("27.0.0.1", False),
    ],
)
@pytest.mark.parametrize("guarded", [True, False])
def test_what_no_proxy_lists_goes_past_it(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy, listed: str, past: bool, guarded: bool
) -> None:
    settings = make_settings(TOCSIN_PROXY=proxy.url, TOCSIN_NO_PROXY=listed)
    [reply] = send(settings, request(receiver.url("/hook"), guarded))
    assert isinstance(reply, HttpReply) and reply.status == 200
    assert proxy.asked == ([] if past else [f"127.0.0.1:{receiver.port}"])


@pytest.mark.parametrize("guarded", [True, False])
def test_a_name_goes_past_the_proxy_where_its_addresses_are_listed(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy, guarded: bool
) -> None:
    settings = make_settings(TOCSIN_PROXY=proxy.url, TOCSIN_NO_PROXY="127.0.0.0/8,::1/128")
    replies = send(settings, *[request(receiver.url("/hook").replace("127.0.0.1", "localhost"), guarded)] * 2)
    assert [one.status for one in replies if isinstance(one, HttpReply)] == [200, 200]
    assert proxy.asked == []


def test_names_in_no_proxy_stand_for_all_under_them(make_settings: Callable[..., Settings]) -> None:
    direct = proxies.Direct(make_settings(TOCSIN_NO_PROXY="corp.example, .Inner.example,::1, 10.1.0.0/16"))
    inside = ["corp.example", "a.corp.example", "CORP.example", "corp.example.", "inner.example", "x.inner.example", "[::1]", "10.1.2.3"]
    outside = ["notcorp.example", "corp.example.org", "example", "10.2.0.1", "[::2]", ""]
    assert [host for host in [*inside, *outside] if direct.has(host)] == inside


def test_addresses_in_no_proxy_are_addresses_however_they_are_written(make_settings: Callable[..., Settings]) -> None:
    listed = "2001:DB8::1,[fe80::5],::ffff:10.9.9.9,corp.example.,2001:db8:1::/48"
    direct = proxies.Direct(make_settings(TOCSIN_NO_PROXY=listed))
    inside = [
        "[2001:db8:0:0::1]",
        "[2001:0db8::0001]",
        "[fe80:0::5]",
        "10.9.9.9",
        "[::ffff:10.9.9.9]",
        "a.CORP.example.",
        "[2001:db8:1:2::]",
    ]
    outside = ["[2001:db8::2]", "10.9.9.8", "db8::1.example"]
    assert [host for host in [*inside, *outside] if direct.has(host)] == inside
    assert direct.covers(["10.9.9.9"]) and not direct.covers(["10.9.9.9", "10.9.9.8"])


def test_the_guard_judges_what_goes_past_the_proxy(make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy) -> None:
    settings = make_settings(TOCSIN_PROXY=proxy.url, TOCSIN_NO_PROXY="127.0.0.0/8", TOCSIN_ALLOW_NETWORKS="")
    [reply] = send(settings, request(receiver.url("/hook")))
    assert isinstance(reply, NoReply) and reply.reason is Reason.BLOCKED
    assert receiver.connections == 0


def _knows_nothing_outside(host: str, *args: Any, **options: Any) -> Any:
    if host == "outside.example":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return _getaddrinfo(host, *args, **options)


_getaddrinfo = socket.getaddrinfo


@pytest.mark.parametrize("resolves", ["on", "off"])
def test_the_proxy_looks_up_what_does_not_resolve_here_where_it_may(
    make_settings: Callable[..., Settings], receiver: Receiver, proxy: Proxy, resolves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.hosts["outside.example"] = "127.0.0.1"
    monkeypatch.setattr(names.socket, "getaddrinfo", _knows_nothing_outside)
    settings = make_settings(TOCSIN_PROXY=proxy.url, TOCSIN_PROXY_RESOLVES=resolves)
    [reply] = send(settings, request(f"http://outside.example:{receiver.port}/hook"))
    if resolves == "on":
        assert isinstance(reply, HttpReply) and reply.status == 200
        assert proxy.asked == [f"outside.example:{receiver.port}"]
    else:
        assert isinstance(reply, NoReply) and (reply.reason, reply.sent) == (Reason.DNS, False)
        assert "TOCSIN_PROXY_RESOLVES" in reply.detail
        assert proxy.asked == []


@pytest.mark.parametrize("host", ["10.0.0.1", "localhost", "[::1]", "2130706433"])
def test_addresses_and_names_that_resolve_are_judged_even_so(make_settings: Callable[..., Settings], proxy: Proxy, host: str) -> None:
    settings = make_settings(TOCSIN_PROXY=proxy.url, TOCSIN_PROXY_RESOLVES="on", TOCSIN_ALLOW_NETWORKS="")
    [reply] = send(settings, request(f"http://{host}/hook"))
    assert isinstance(reply, NoReply) and reply.reason is Reason.BLOCKED
    assert proxy.asked == []


@pytest.mark.parametrize("value", ["10.0.0.0/99", "http://a.example", "a b", "host:8080", "dead:8080", "1::2::3"])
def test_what_no_proxy_cannot_mean_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="TOCSIN_NO_PROXY must be"):
        load({"TOCSIN_NO_PROXY": value})


def test_check_asks_the_proxy_for_a_tunnel(receiver: Receiver, proxy: Proxy, own_port: int) -> None:
    target = receiver.url("").replace("http", "https")
    assert proxies.complaint(proxy.url, target) is None
    proxy.status = 407
    assert "407" in (proxies.complaint(proxy.url, target) or "")
    proxy.says = OK + b"X:"
    assert "the rest of its answer cannot be read" in (proxies.complaint(proxy.url, target) or "")
    proxy.says = OK + b"\r\n"
    assert proxies.complaint(proxy.url, target) is None
    assert "cannot be reached" in (proxies.complaint(f"http://127.0.0.1:{own_port}", target) or "")
