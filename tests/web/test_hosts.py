"""Under which names the pages are served, and what browsers are told to do with them."""

import re
import socket
from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from e2e.conftest import Starter
from e2e.service import Service, until
from tocsin.settings import Settings, SettingsError
from tocsin.web.hosts import Hosts
from web.conftest import EMAIL, PASSWORD, SIGN_IN, Surfer, sign_in

BASE = "https://alerts.example.com"
LOOPBACK = ("localhost", "localhost:8700", "127.0.0.1:8700", "127.9.8.7", "[::1]:8700", "[::ffff:127.0.0.1]", "tocsin.localhost", "")


@pytest.mark.parametrize(
    ("given", "allowed", "refused"),
    [
        ({}, ("evil.example", "10.1.2.3:8700", *LOOPBACK), ()),
        (
            {"TOCSIN_BASE_URL": BASE},
            ("alerts.example.com", "Alerts.Example.COM:443", "alerts.example.com.", *LOOPBACK),
            (
                "evil.example",
                "alerts.example.com.evil.example",
                "example.com",
                "x.alerts.example.com",
                "10.1.2.3",
                "[::2]:8700",
                "[",
                "a b",
            ),
        ),
        ({"TOCSIN_BASE_URL": "https://bücher.example"}, ("xn--bcher-kva.example",), ("bucher.example",)),
        (
            {"TOCSIN_BASE_URL": BASE, "TOCSIN_ALLOWED_HOSTS": "nas, 192.168.1.5, [fd00::5], *.lan"},
            ("nas:8700", "192.168.1.5:8700", "[fd00:0::5]:8700", "a.lan", "b.a.lan", "alerts.example.com", *LOOPBACK),
            (":8700", "lan", "nas.evil.example", "192.168.1.6", "evillan", "evil.example"),
        ),
        ({"TOCSIN_ALLOWED_HOSTS": "nas"}, ("nas", *LOOPBACK), ("evil.example",)),
        ({"TOCSIN_BASE_URL": BASE, "TOCSIN_ALLOWED_HOSTS": "*"}, ("evil.example", "10.1.2.3"), ()),
        ({"TOCSIN_BASE_URL": BASE, "TOCSIN_HOST": "192.168.1.5"}, ("192.168.1.5:8700",), ("192.168.1.6",)),
        ({"TOCSIN_BASE_URL": BASE, "TOCSIN_HOST": "::"}, LOOPBACK, ("192.168.1.5", "[fd00::1]")),
        ({"TOCSIN_BASE_URL": BASE, "TOCSIN_HOST": "0.0.0.0"}, LOOPBACK, ("192.168.1.5", "0.0.0.0")),
    ],
)
def test_which_names_are_ours(
    make_settings: Callable[..., Settings], given: dict[str, str], allowed: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    hosts = Hosts(make_settings(**given))
    assert [one for one in allowed if not hosts.allows(one)] == []
    assert [one for one in refused if hosts.allows(one)] == []


@pytest.mark.parametrize("text", ["https://a.example", "a.example:8700", "a b", "10.0.0.0/8", "*.", "a,,b*"])
def test_names_that_are_none(make_settings: Callable[..., Settings], text: str) -> None:
    with pytest.raises(SettingsError, match="TOCSIN_ALLOWED_HOSTS must be host names"):
        make_settings(TOCSIN_ALLOWED_HOSTS=text)


def test_another_name_gets_no_page_and_health_and_keys_do_not_care(start_service: Starter) -> None:
    service = start_service(TOCSIN_BASE_URL=BASE, **SIGN_IN)
    surfer, key = Surfer(f"http://127.0.0.1:{service.port}"), service.first().key
    for path in ("/", "/sign-in", "/docs", "/ko/docs", "/docs/channels/slack", "/sign-in/a-token", "/nowhere", "/users"):
        refused = surfer.get(path, stay=True, host="evil.example")
        assert refused.status == 421, path
        assert "evil.example" in refused.text and "TOCSIN_ALLOWED_HOSTS" in refused.text
        assert surfer.get(path, stay=True, host="alerts.example.com:443").status != 421, path
    assert "TOCSIN_ALLOWED_HOSTS" in surfer.get("/sign-in", host="evil.example", accept_language="ko").text
    posted = surfer.post("/sign-in", headers={"Host": "evil.example"}, email=EMAIL, password=PASSWORD)
    assert posted.status == 421 and "<script>" not in surfer.get("/", host="<script>").text
    for path in ("/healthz", "/readyz", "/metrics"):  # asked by address, as load balancers do
        assert surfer.get(path, host="10.1.2.3:8700").status == 200, path
    assert surfer.get("/api/notifications", host="evil.example", authorization=f"Bearer {key}").status == 200
    until(lambda: "host.not_allowed" in service.log())


def test_behind_a_trusted_proxy_the_name_that_it_forwards_counts(start_service: Starter) -> None:
    trusting = start_service(TOCSIN_BASE_URL=BASE, TOCSIN_TRUSTED_PROXIES="127.0.0.0/8", **SIGN_IN)
    surfer = Surfer(f"http://127.0.0.1:{trusting.port}")
    assert surfer.get("/sign-in", host="tocsin:8700", x_forwarded_host="alerts.example.com").status == 200
    assert surfer.get("/sign-in", host="alerts.example.com", x_forwarded_host="evil.example").status == 421
    trusting.kill()
    strict = start_service(TOCSIN_BASE_URL=BASE, **SIGN_IN)
    surfer = Surfer(f"http://127.0.0.1:{strict.port}")
    assert surfer.get("/sign-in", host="evil.example", x_forwarded_host="alerts.example.com").status == 421


# -------------------------------------------------------------------------------------------------------------- headers


def everything(surfer: Surfer, key: str) -> dict[str, dict[str, str]]:
    """Answers of every kind with their headers."""
    asked = {path: surfer.get(path, stay=True) for path in ("/", "/sign-in", "/docs", "/healthz", "/readyz", "/metrics", "/nowhere")}
    asked |= {path: surfer.get(path) for path in ("/api/notifications", "/api/openapi.json", "/api/nowhere")}
    asked["with a key"] = surfer.get("/api/notifications", authorization=f"Bearer {key}")
    asked["an asset"] = surfer.get(str(re.findall(r'src="(/[^"]*/live[^"]*)"', asked["/sign-in"].text)[0]))
    return {what: {name.lower(): value for name, value in answer.headers.items()} for what, answer in asked.items()}


def test_every_answer_says_that_its_type_is_what_it_says(shared_base: str, start_service: Starter) -> None:
    service = start_service(**SIGN_IN)
    surfer, key = Surfer(f"http://127.0.0.1:{service.port}"), service.first().key or ""
    found = everything(surfer, key)
    assert [what for what, headers in found.items() if headers.get("x-content-type-options") != "nosniff"] == []
    assert [what for what, headers in found.items() if "strict-transport-security" in headers] == []
    pages = ("/", "/sign-in", "/docs", "/nowhere", "an asset")
    assert {found[what].get("cross-origin-resource-policy") for what in pages} == {"same-origin"}
    with socket.create_connection(("127.0.0.1", service.port)) as wire:
        wire.sendall(b"GET /api/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        head = wire.makefile("rb").read().partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 400 ") and head.count(b"x-content-type-options: nosniff") == 1


@pytest.mark.parametrize(
    ("base", "sent"),
    [(BASE, True), (f"{BASE}:443/tocsin", True), ("http://alerts.example.com", False), (f"{BASE}:8443", False)],
    ids=["https", "https under a path", "http", "a port of its own"],
)
def test_browsers_are_told_to_stay_with_tls_if_the_base_url_says_so(start_service: Starter, base: str, sent: bool) -> None:
    """Not at a port of its own: the header covers the whole host, with whatever else is served there."""
    service = start_service(TOCSIN_BASE_URL=base, **SIGN_IN)
    found = everything(Surfer(f"http://127.0.0.1:{service.port}"), service.first().key or "")
    assert {headers.get("strict-transport-security") for headers in found.values()} == {"max-age=31536000" if sent else None}


def test_browsers_are_told_to_stay_with_tls_if_a_trusted_proxy_says_so(start_service: Starter) -> None:
    service = start_service(TOCSIN_TRUSTED_PROXIES="127.0.0.0/8", **SIGN_IN)
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    for forwarded, sent in (
        ({"x_forwarded_proto": "https", "x_forwarded_host": "alerts.example.com"}, ["max-age=31536000"]),
        ({"x_forwarded_proto": "https", "x_forwarded_host": "alerts.example.com", "x_forwarded_port": "8443"}, None),
        ({"x_forwarded_proto": "http", "x_forwarded_host": "alerts.example.com"}, None),
    ):
        assert surfer.get("/sign-in", **forwarded).headers.get_all("strict-transport-security") == sent


def test_no_text_becomes_html_in_the_browser_but_our_own_fragments(page: Page, served: Service) -> None:
    """The journeys show that the pages live with it: fragments, the drawer, previews, test sends."""
    sign_in(page)
    page.goto("/log")
    page.evaluate("document.body.append(Object.assign(document.createElement('div'), {id: 'place'}))")
    for attack in (
        "document.getElementById('place').innerHTML = '<img src=x>'",
        "document.getElementById('place').insertAdjacentHTML('beforeend', '<img src=x>')",
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.owned = 1'}))",
        "document.createElement('script').src = 'https://evil.example/x.js'",
        "trustedTypes.createPolicy('mine', {createHTML: (text) => text})",
        "trustedTypes.createPolicy('tocsin', {createHTML: (text) => text})",
    ):
        refused = page.evaluate(f"() => {{ try {{ {attack}; return ''; }} catch (error) {{ return error.name; }} }}")
        assert refused == "TypeError", attack
    assert page.evaluate("window.owned") is None and page.locator("#place img").count() == 0
    assert page.evaluate("new DOMParser().parseFromString('<p>x</p>', 'text/html').body.textContent") == "x"  # as htmx does
