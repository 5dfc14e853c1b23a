"""What is read of headers that reverse proxies send, and of whom it is believed."""

from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from tocsin.api import proxies
from tocsin.settings import Settings
from tocsin.web.render import under_prefix

PEER = "10.0.0.9"


@pytest.fixture
def trusting(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(TOCSIN_TRUSTED_PROXIES="10.0.0.0/8")


def heads(**given: str) -> dict[bytes, bytes]:
    return {b"host": b"inner:8700"} | {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in given.items()}


def scope(peer: str = PEER) -> dict[str, Any]:
    return {"client": (peer, 1), "scheme": "http", "server": ("127.0.0.1", 8700)}


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9:4001", "203.0.113.9"),
        ("1.2.3.4, 203.0.113.9:4001", "203.0.113.9"),
        ("203.0.113.9:4001, 10.1.1.1:80", "203.0.113.9"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("", PEER),
        ("203.0.113.9,", "203.0.113.9"),
        ("2001:db8::1%eth0", "2001:db8::1"),
        ("unknown", PEER),
        ("1.2.3.4, unknown", PEER),  # what is before it may be anybody's word
        ("1.2.3.4, unknown, 10.1.1.1", "10.1.1.1"),
    ],
)
def test_a_port_is_no_part_of_an_address(trusting: Settings, forwarded: str, address: str) -> None:
    assert proxies.client_address(scope(), heads(x_forwarded_for=forwarded), trusting) == address


def test_a_client_that_changes_its_port_is_the_same(trusting: Settings) -> None:
    for form in ("203.0.113.9:{}", "[2001:db8::1]:{}"):
        found = {
            proxies.neighbourhood(proxies.client_address(scope(), heads(x_forwarded_for=form.format(n)), trusting)) for n in range(1, 99)
        }
        assert len(found) == 1


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ({}, "http://inner:8700"),
        ({"x_forwarded_proto": "HTTPS"}, "https://inner:8700"),
        ({"x_forwarded_proto": "https, Https"}, "https://inner:8700"),
        ({"x_forwarded_ssl": "On"}, "https://inner:8700"),
        ({"x_forwarded_proto": "https", "x_forwarded_host": "alerts.example"}, "https://alerts.example"),
        ({"x_forwarded_proto": "https", "x_forwarded_host": "alerts.example", "x_forwarded_port": "443"}, "https://alerts.example"),
        ({"x_forwarded_proto": "https", "x_forwarded_host": "alerts.example", "x_forwarded_port": "1" * 5000}, "https://alerts.example"),
        ({"x_forwarded_proto": "https", "x_forwarded_host": "alerts.example", "x_forwarded_port": "8443"}, "https://alerts.example:8443"),
        ({"x_forwarded_host": "[2001:db8::1]", "x_forwarded_port": "81"}, "http://[2001:db8::1]:81"),
        ({"x_forwarded_host": "a.example:82", "x_forwarded_port": "81"}, "http://a.example:82"),
        ({"x_forwarded_host": "not a host"}, "http://inner:8700"),
        ({"x_forwarded_host": "a.example", "x_forwarded_prefix": "/tocsin/"}, "http://a.example/tocsin"),
        ({"x_forwarded_prefix": "/a/b"}, "http://inner:8700/a/b"),
        ({"x_forwarded_prefix": "//evil.example"}, "http://inner:8700"),
        ({"x_forwarded_prefix": "/a/../b"}, "http://inner:8700"),
        ({"x_forwarded_prefix": '/"><script>'}, "http://inner:8700"),
        ({"x_forwarded_prefix": "evil"}, "http://inner:8700"),
    ],
)
def test_what_a_trusted_proxy_says_of_our_address(trusting: Settings, given: dict[str, str], base: str) -> None:
    assert proxies.base_url(scope(), heads(**given), trusting) == base
    assert proxies.base_url(scope("192.0.2.1"), heads(**given), trusting) == "http://inner:8700"  # of a stranger nothing is believed


def test_the_base_url_decides_where_it_is_set(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(TOCSIN_BASE_URL="https://a.example/x/", TOCSIN_TRUSTED_PROXIES="10.0.0.0/8")
    given = heads(x_forwarded_prefix="/other", x_forwarded_host="b.example")
    assert (proxies.base_url(scope(), given, settings), proxies.prefix(scope(), given, settings)) == ("https://a.example/x", "/x")


@pytest.mark.parametrize(
    ("path", "prefix"),
    [("/my%20app", "/my%20app"), ("/%C3%BC/", "/%C3%BC"), ("/ü", "/%C3%BC"), ("/~jun", "/~jun"), ("/a/b", "/a/b"), ("", "")],
)
def test_a_prefix_is_written_as_in_requests(make_settings: Callable[..., Settings], path: str, prefix: str) -> None:
    settings = make_settings(TOCSIN_BASE_URL=f"http://a.example{path}")
    assert proxies.prefix(scope(), heads(), settings) == prefix


@pytest.mark.parametrize(
    ("origin", "base", "same"),
    [
        ("https://a.example", "https://a.example", True),
        ("https://a.example", "https://a.example:443", True),
        ("https://a.example:443", "https://a.example", True),
        ("https://a.example", "http://a.example:443", True),  # TLS ends at a proxy that we do not believe
        ("https://a.example", "http://a.example", True),
        ("http://a.example", "http://a.example:80", True),
        ("https://A.example", "https://a.example", True),
        ("http://[::1]:8700", "http://[::1]:8700", True),
        ("https://a.example:8443", "https://a.example", False),
        ("http://a.example:8700", "http://a.example", False),
        ("https://evil.example", "https://a.example", False),
        ("https://a.example.evil", "https://a.example", False),
        ("null", "https://a.example", False),
        ("", "", False),
        ("https://a.example:99999", "https://a.example", False),
    ],
)
def test_which_origins_are_ours(origin: str, base: str, same: bool) -> None:
    assert proxies.is_same_origin(origin, base) is same


def test_who_comes_through_a_proxy_that_we_were_not_told_of_shares_its_address(make_settings: Callable[..., Settings]) -> None:
    settings, given = make_settings(), heads(x_forwarded_for="203.0.113.9")
    assert proxies.counted_as(scope("127.0.0.1"), given, settings) == "shared 127.0.0.1"
    assert proxies.counted_as(scope("172.17.0.1"), heads(), settings) == "shared 172.17.0.1"  # it may be a proxy that does not say so
    assert proxies.counted_as(scope("127.0.0.1"), heads(), settings) == "shared 127.0.0.1"
    assert proxies.counted_as(scope("198.41.0.4"), heads(), settings) == "198.41.0.4"
    assert proxies.counted_as(scope("198.41.0.4"), given, settings) == "198.41.0.4"  # nobody gets more tries by a header


def test_only_where_proxies_are_may_a_client_be_one(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    private = ["127.0.0.9", "10.1.2.3", "172.31.0.1", "192.168.1.5", "169.254.1.2", "::1", "fd00::1", "fe80::1%eth0", "::ffff:10.1.2.3"]
    public = ["203.0.113.9", "192.0.2.1", "198.18.0.1", "100.64.0.1", "172.32.0.1", "240.0.0.1", "2001:db8::1", "64:ff9b:1::1"]
    counted = {peer: proxies.counted_as(scope(peer), heads(), settings) for peer in private + public}
    assert [peer for peer, name in counted.items() if name.startswith("shared ")] == private


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "known"),
    [
        ("", "81.2.69.1", "", "81.2.69.1"),
        ("", "81.2.69.1", "1.2.3.4", "81.2.69.1"),
        ("", "10.0.0.5", "", "10.0.0.5"),
        ("", "::ffff:10.0.0.5", "", "10.0.0.5"),
        ("", "fd00::5", "", "fd00::/64"),
        ("", "10.0.0.9", "81.2.69.1", ""),  # a proxy that we were not told of
        ("", "127.0.0.1", "", ""),
        ("", "::1", "", ""),
        ("", "::ffff:127.0.0.1", "", ""),
        ("10.0.0.9", "10.0.0.9", "81.2.69.1", "81.2.69.1"),
        ("10.0.0.9", "10.0.0.9", "192.168.1.5", "192.168.1.5"),
        ("10.0.0.9", "10.0.0.9", "81.2.69.1, 192.168.1.5", ""),
        ("10.0.0.9", "10.0.0.9", "", ""),
        ("10.0.0.9", "10.0.0.9", "unknown", ""),
        ("198.41.0.4", "198.41.0.4", "", ""),
        ("", "", "", ""),
    ],
)
def test_a_user_is_known_at_an_address_unless_it_is_a_proxys(
    make_settings: Callable[..., Settings], trusted: str, peer: str, forwarded: str, known: str
) -> None:
    settings = make_settings(TOCSIN_TRUSTED_PROXIES=trusted)
    given = heads(x_forwarded_for=forwarded) if forwarded else heads()
    assert proxies.known_as(scope(peer), given, settings) == known


def test_one_client_counts_as_one_address_however_it_is_written(trusting: Settings) -> None:
    def counted(*forwarded: str) -> set[str]:
        return {proxies.counted_as(scope(), heads(x_forwarded_for=one), trusting) for one in forwarded}

    assert counted("198.41.0.4", "198.41.0.4:4001", "::ffff:198.41.0.4", "[::ffff:198.41.0.4]:80", "::FFFF:C629:4") == {"198.41.0.4"}
    assert counted("2a02:88::1", "2a02:0088:0:0:dead:beef::2", "[2A02:88::3]:4001", "2a02:88::4%eth0") == {"2a02:88::/64"}
    assert counted("2a02:88:0:1::1") == {"2a02:88:0:1::/64"}


@pytest.mark.parametrize(
    "form",
    [
        "::ffff:203.0.113.12:{}",
        "2001:db8:5:0:0:0:0:1:{}",
        "203.0.113.13 :{}",
        "203.0.113.15:_p{}",
        "203.0.113.0{}",
        "unknown:{}",
        "for=203.0.113.17:{}",
        "{}",
        "x" * 500,
    ],
)
def test_what_cannot_be_read_counts_as_the_proxy_that_sent_it(trusting: Settings, form: str) -> None:
    """So nobody becomes many by writing what is no address."""
    for number in (4001, 4002):
        given = heads(x_forwarded_for=f"198.51.100.{number - 4000}, {form.format(number)}")
        assert proxies.client_address(scope(), given, trusting) == PEER
        assert proxies.counted_as(scope(), given, trusting) == f"shared {PEER}"


def test_the_lines_of_the_chain_are_one_list(trusting: Settings) -> None:
    lines = [(b"x-forwarded-for", b"203.0.113.9"), (b"host", b"one"), (b"x-forwarded-for", b"10.1.1.1"), (b"host", b"two")]
    headers = proxies.headers_of({"headers": lines})
    assert headers == {b"x-forwarded-for": b"203.0.113.9,10.1.1.1", b"host": b"two"}
    assert proxies.client_address(scope(), headers, trusting) == "203.0.113.9"
    swapped = proxies.headers_of({"headers": [(b"x-forwarded-for", b"10.1.1.1"), (b"x-forwarded-for", b"203.0.113.9")]})
    assert proxies.client_address(scope(), swapped, trusting) == "203.0.113.9"


def test_of_a_proxy_that_sends_no_address_the_log_says_so_once(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = CapturingLogger()
    monkeypatch.setattr(proxies, "log", lines)
    proxies._say_no_address.cache_clear()
    trusting = make_settings(TOCSIN_TRUSTED_PROXIES="198.41.0.4,10.0.0.9")
    for peer in ("10.0.0.9", "198.41.0.4", "172.17.0.1", "10.0.0.9", ""):
        for method in ("GET", "POST"):
            proxies.counted_as({**scope(peer), "method": method}, heads(), trusting)
    assert [(line.method_name, line.args[0], line.kwargs["peer"]) for line in lines.calls] == [
        ("warning", "proxy.no_client_address", "10.0.0.9"),
        ("warning", "proxy.no_client_address", "198.41.0.4"),
        ("info", "proxy.no_client_address", "172.17.0.1"),
    ]
    assert lines.calls[0].kwargs["why"] == "it sends no X-Forwarded-For that can be read, so all that come through it count as one address"


def test_a_private_client_of_a_trusted_proxy_is_one_client_unless_it_forwards_for_others(trusting: Settings) -> None:
    for forwarded, counted in (
        ("192.168.1.5", "192.168.1.5"),
        ("203.0.113.9, 192.168.1.5", "shared 192.168.1.5"),
        ("fd00::1", "fd00::/64"),
    ):
        assert proxies.counted_as(scope(), heads(x_forwarded_for=forwarded), trusting) == counted


def test_a_prefix_goes_in_front_of_our_own_paths_only() -> None:
    page = (
        '<a class="x" href="/log?a=/b">t</a><form method="post" action="/keys"><img src="/static/i.svg"><div data-live="/log">'
        '<button hx-post="/handlers/1/test" hx-headers=\'{"a": "/b"}\'><a href="https://e.example/">e</a><a href="//e.example/">'
        '<input value="/x"><pre>href=&#34;/y&#34;</pre><link\nhref="/z">'
    )
    expected = (
        '<a class="x" href="/p/log?a=/b">t</a><form method="post" action="/p/keys"><img src="/p/static/i.svg"><div data-live="/p/log">'
        '<button hx-post="/p/handlers/1/test" hx-headers=\'{"a": "/b"}\'><a href="https://e.example/">e</a><a href="//e.example/">'
        '<input value="/x"><pre>href=&#34;/y&#34;</pre><link\nhref="/p/z">'
    )
    assert under_prefix(page, "/p") == expected


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ({"x_forwarded_host": "alerts.example", "x_forwarded_port": "8443"}, "https://alerts.example:8443"),
        ({"x_forwarded_host": "[2001:db8::1]", "x_forwarded_port": "8443"}, "https://[2001:db8::1]:8443"),
        ({"x_forwarded_host": "alerts.example:9000", "x_forwarded_port": "8443"}, "https://alerts.example:9000"),
        ({"x_forwarded_host": "alerts.example", "x_forwarded_port": "443"}, "https://alerts.example"),
        ({"x_forwarded_host": "alerts.example", "x_forwarded_port": "80"}, "https://alerts.example"),  # something before it ended TLS
        ({"x_forwarded_host": "alerts.example", "x_forwarded_port": "x"}, "https://alerts.example"),
        ({"host": "alerts.example", "x_forwarded_port": "8080"}, "https://alerts.example"),  # rather the proxy's own port
    ],
)
def test_the_port_that_a_proxy_names_is_in_links(trusting: Settings, given: dict[str, str], base: str) -> None:
    assert proxies.base_url(scope(), heads(x_forwarded_proto="https", **given), trusting) == base
