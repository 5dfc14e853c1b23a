"""The pages behind reverse proxies: under a sub-path, by other names, and with forms that were left open."""

import re
import shutil
import socket
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import Starter
from e2e.service import Service, until
from support.ports import held_port
from web.conftest import EMAIL, PASSWORD, SIGN_IN, Surfer

OWN = re.compile(r'\s(?:href|src|action|data-live|hx-get|hx-post)="(/[^"]*)"')
PATHS = ("/", "/handlers/add", "/handlers/add/webhook", "/log", "/send", "/keys", "/account", "/users", "/workers", "/docs", "/ko/docs")


def paths_on(page: str) -> set[str]:
    return {path for path in OWN.findall(page) if not path.startswith("//")}


@pytest.fixture(scope="module")
def under(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Its base URL has a path."""
    service = Service(tmp_path_factory.mktemp("under"), TOCSIN_TRUSTED_PROXIES="127.0.0.0/8", **SIGN_IN)
    with held_port() as port:
        service.environ |= {"TOCSIN_PORT": str(port), "TOCSIN_BASE_URL": f"http://127.0.0.1:{port}/apps/tocsin"}
        try:
            yield service.start()
        finally:
            service.kill()


def test_every_page_under_a_sub_path_leads_to_pages_there(under: Service) -> None:
    surfer = Surfer(f"http://127.0.0.1:{under.port}/apps/tocsin")
    signed_in = surfer.sign_in()
    assert (signed_in.status, signed_in.path) == (200, "/apps/tocsin/")
    assert {cookie.path for cookie in surfer.cookies} == {"/apps/tocsin"}
    for path in PATHS:
        page = surfer.get(path)
        found = paths_on(page.text)
        assert page.status == 200 and found, path
        assert [one for one in found if not one.startswith("/apps/tocsin/")] == [], path
        for one in found:
            if "/static/" in one or one.endswith(("/log", "/docs", "/keys")):
                assert surfer.get(one.removeprefix("/apps/tocsin")).status == 200, one
    assert surfer.get("", stay=True).status == 200  # without the slash at its end
    assert surfer.get("/handlers/1", stay=True).status == 404
    assert surfer.get("/handlers", stay=True).headers["location"] == "/apps/tocsin/"
    stranger = Surfer(surfer.base)
    assert stranger.get("/log", stay=True).headers["location"] == "/apps/tocsin/sign-in?to=/log"
    assert stranger.get("/log", stay=True, hx_request="true").headers["hx-redirect"] == "/apps/tocsin/sign-in"
    back = stranger.post("/sign-in?to=/keys", email=EMAIL, password=PASSWORD)
    assert back.path == "/apps/tocsin/keys"


def test_a_proxy_may_take_the_sub_path_away(under: Service) -> None:
    surfer = Surfer(f"http://127.0.0.1:{under.port}")
    for path in ("/sign-in", "/docs"):
        page = surfer.get(path)
        assert page.status == 200
        assert [one for one in paths_on(page.text) if not one.startswith("/apps/tocsin/")] == []
    assert surfer.get("/appstocsin/sign-in").status == 404
    client = under.first()
    for path in ("/api/notifications", "/apps/tocsin/api/notifications", "/apps/tocsin/healthz", "/healthz"):
        assert client.get(path).status == 200, path
    assert client.get("/apps/tocsin/api/notifications").json["links"]["first"].startswith(f"{under.environ['TOCSIN_BASE_URL']}/api/")


@pytest.mark.parametrize("path", ["/my%20app", "/ü"])
def test_a_sub_path_with_other_characters(start_service: Starter, path: str) -> None:
    service = start_service(TOCSIN_BASE_URL=f"http://127.0.0.1:8701{path}", TOCSIN_ALLOWED_HOSTS="*", **SIGN_IN)
    written = urllib.parse.quote(path, safe="/%")
    for prefix in (written, ""):  # the proxy leaves it in requests, or takes it away
        surfer = Surfer(f"http://127.0.0.1:{service.port}{prefix}")
        page = surfer.get("/sign-in")
        assert page.status == 200 and f'href="{written}/static/' in page.text and f"Path={written};" in (page.headers["set-cookie"] or "")
        assert surfer.get("/api/handler-states", authorization=f"Bearer {service.first().key}").status == 200
    signed_in = Surfer(f"http://127.0.0.1:{service.port}{written}")
    assert signed_in.sign_in().path == f"{written}/"


def test_a_sub_path_that_a_trusted_proxy_tells(start_service: Starter) -> None:
    service = start_service(TOCSIN_TRUSTED_PROXIES="127.0.0.0/8", **SIGN_IN)
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    page = surfer.get("/sign-in", x_forwarded_prefix="/t")
    assert [one for one in paths_on(page.text) if not one.startswith("/t/")] == []
    assert all("Path=/t;" in one for one in page.headers.get_all("set-cookie") or [])
    page = surfer.get("/sign-in", x_forwarded_prefix='/"onload="x')
    assert "onload" not in page.text and page.status == 200


def test_a_double_slash_at_the_beginning_is_one(shared_base: str) -> None:
    """As of a client that joins its base URL, with a slash at its end, and a path."""
    surfer = Surfer(shared_base)
    assert surfer.get("//healthz").status == 200
    refused = surfer.get("//api/notifications")
    assert (refused.status, refused.headers["content-type"]) == (401, "application/json")


# -------------------------------------------------------------------------------------------------------------- origins


@pytest.mark.parametrize(
    ("origin", "host"),
    [("http://alerts.lan", "alerts.lan:80"), ("https://alerts.lan", "alerts.lan:443"), ("https://alerts.lan", "alerts.lan")],
)
def test_an_origin_with_the_same_host_is_ours_with_default_ports_or_without(shared_base: str, origin: str, host: str) -> None:
    surfer = Surfer(shared_base)
    answer = surfer.post("/sign-in", headers={"Origin": origin, "Host": host}, email=EMAIL, password="wrong password")
    assert answer.status == 422


def test_what_differs_is_said_where_a_proxy_changes_the_host(start_service: Starter) -> None:
    service = start_service(**SIGN_IN)
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    for origin in ("http://alerts.lan", "null"):
        answer = surfer.post("/sign-in", headers={"Origin": origin}, email=EMAIL, password=PASSWORD)
        assert answer.status == 403
        assert f"comes from {origin}" in answer.text and f"forms only from {surfer.base}." in answer.text
        assert "TOCSIN_BASE_URL" in answer.text
    until(lambda: service.log().count("form.foreign") == 2)
    assert "alerts.lan" in service.log() and PASSWORD not in service.log()


def test_an_origin_that_is_the_base_url_or_the_address_that_was_asked_is_ours(start_service: Starter) -> None:
    service = start_service(TOCSIN_BASE_URL="https://alerts.example", TOCSIN_ALLOWED_HOSTS="192.168.1.5", **SIGN_IN)
    for headers, is_secure in (
        ({"Origin": "https://alerts.example"}, True),  # through a proxy that does not keep Host
        ({"Origin": "https://alerts.example", "Host": "alerts.example"}, True),
        ({"Origin": "http://192.168.1.5:8700", "Host": "192.168.1.5:8700"}, False),  # past the proxy, over plain http
    ):
        surfer = Surfer(f"http://127.0.0.1:{service.port}")
        page = surfer.get("/sign-in", **({"host": headers["Host"]} if "Host" in headers else {}))
        before = (page.headers["set-cookie"] or "").partition(";")[0]
        csrf = re.search(r'name="csrf" value="([0-9a-f]{64})"', page.text)
        assert csrf
        answer = surfer.post("/sign-in", csrf=csrf[1], headers={**headers, "Cookie": before}, stay=True, email=EMAIL, password=PASSWORD)
        assert answer.status == 303, headers
        [session] = [
            one for one in answer.headers.get_all("set-cookie") or [] if one.startswith(("tocsin_session=", "__Host-tocsin_session="))
        ]
        assert session.startswith("__Host-") is is_secure
        assert ("; Secure" in session) is is_secure
        assert ("Secure" in (page.headers["set-cookie"] or "")) is is_secure


def test_a_sign_in_form_that_another_tab_made_old_comes_again(shared_base: str) -> None:
    first, second = Surfer(shared_base), Surfer(shared_base)
    stale = first.token("/sign-in")
    first.cookies = second.cookies
    answer = second.post("/sign-in", csrf=stale, email=EMAIL, password=PASSWORD)
    assert answer.status == 403 and "too old" in answer.text
    assert f'value="{EMAIL}"' in answer.text and PASSWORD not in answer.text
    again = re.search(r'name="csrf" value="([0-9a-f]{64})"', answer.text)
    assert again
    signed_in = second.post("/sign-in", csrf=again[1], email=EMAIL, password=PASSWORD)
    assert signed_in.path == "/"
    assert second.post("/sign-in?to=/log", csrf=stale, email=EMAIL, password=PASSWORD).path == "/log"  # signed in already


# --------------------------------------------------------------------------------------------------- failed attempts


def test_failed_sign_ins_and_wrong_keys_are_in_the_log_with_the_address_and_no_secret(start_service: Starter) -> None:
    service = start_service(TOCSIN_TRUSTED_PROXIES="127.0.0.0/8", TOCSIN_LOG_FORMAT="json", **SIGN_IN)
    base = f"http://127.0.0.1:{service.port}"
    surfer = Surfer(base)
    surfer.post("/sign-in", headers={"X-Forwarded-For": "203.0.113.9:4001"}, email="someone@example.com", password="a wrong secret")
    surfer.get("/api/notifications", authorization="Bearer tk_wrongwrongwrongwrong", x_forwarded_for="198.51.100.7")
    surfer.get("/api/notifications", x_forwarded_for="198.51.100.8")
    until(lambda: service.log().count("key.refused") == 2 and "sign_in.failed" in service.log())
    said = service.log()
    assert all(address in said for address in ('"203.0.113.9"', '"198.51.100.7"', '"198.51.100.8"'))
    assert "a wrong secret" not in said and "tk_wrong" not in said


def test_wrong_keys_of_one_address_do_not_fill_the_log(start_service: Starter) -> None:
    service = start_service()
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    statuses = [surfer.get("/api/notifications", authorization="Bearer tk_wrong").status for _ in range(40)]
    assert statuses == [401] * 30 + [429] * 10
    until(lambda: service.log().count("key.refused") == 31)


@pytest.mark.parametrize("through", [{"X-Forwarded-For": "203.0.113.9"}, {}], ids=["it says for whom", "it does not"])
def test_one_persons_typos_lock_nobody_else_out_behind_a_proxy_that_we_were_not_told_of(
    start_service: Starter, through: dict[str, str]
) -> None:
    service = start_service(**SIGN_IN)
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    statuses = [surfer.post("/sign-in", headers=through, email="typo@example.com", password=f"typo {n}").status for n in range(8)]
    assert 429 in statuses  # the account has to wait
    assert surfer.post("/sign-in", headers=through, email=EMAIL, password=PASSWORD).path == "/"
    until(lambda: ("proxy.not_trusted" if through else "proxy.no_client_address") in service.log())


# ---------------------------------------------------------------------------------------------------------------- nginx


NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port};
    {locations}
  }}
}}
"""
STRIPPED = """location /tocsin/ { proxy_pass http://127.0.0.1:UPSTREAM/; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme; }"""
KEPT = STRIPPED.replace("UPSTREAM/;", "UPSTREAM;")
BARE = "location / { proxy_pass http://127.0.0.1:UPSTREAM; }"


@pytest.mark.parametrize(("locations", "path"), [(STRIPPED, "/tocsin"), (KEPT, "/tocsin"), (BARE, "")], ids=["stripped", "kept", "bare"])
def test_behind_nginx(start_service: Starter, own_port: int, tmp_path: Path, locations: str, path: str) -> None:
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    base = f"http://127.0.0.1:{own_port}{path}"
    service = start_service(TOCSIN_BASE_URL=base, TOCSIN_TRUSTED_PROXIES="127.0.0.0/8", **SIGN_IN)
    config = NGINX.format(folder=tmp_path, port=own_port, locations=locations.replace("UPSTREAM", str(service.port)))
    (tmp_path / "nginx.conf").write_text(config)
    proxy = subprocess.Popen([nginx, "-p", tmp_path, "-c", tmp_path / "nginx.conf"])
    try:
        until(lambda: _listens(own_port))
        surfer = Surfer(base)
        origin = urllib.parse.urlsplit(base)
        signed_in = surfer.post("/sign-in", headers={"Origin": f"{origin.scheme}://{origin.netloc}"}, email=EMAIL, password=PASSWORD)
        assert (signed_in.status, signed_in.path) == (200, f"{path}/")
        for found in paths_on(signed_in.text):
            assert surfer.get(found.removeprefix(path), stay=True).status in {200, 303, 405}, found
    finally:
        proxy.terminate()
        proxy.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
