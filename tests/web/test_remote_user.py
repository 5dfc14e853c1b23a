"""Who is signed in by a proxy in front, which names them in a header."""

import http.client
import os
from pathlib import Path

import pytest

from e2e.conftest import Starter
from e2e.service import Service
from tocsin.api.proxies import remote_user
from tocsin.settings import SettingsError, load
from web.conftest import EMAIL, SIGN_IN, Answer, Surfer
from web.test_second_factor import enter, set_up

NONE = Path(os.devnull)
PROXY = {"TOCSIN_REMOTE_USER_HEADER": "Remote-Email", "TOCSIN_TRUSTED_PROXIES": "127.0.0.1/32"}


class Proxied(Surfer):
    """A browser behind a proxy that has signed somebody in."""

    def __init__(self, service: Service, email: str | None) -> None:
        super().__init__(f"http://127.0.0.1:{service.port}")
        self.email = email

    def ask(self, request, stay: bool = False) -> Answer:  # as above
        if self.email is not None:
            request.add_header("Remote-Email", self.email)
        return super().ask(request, stay)


def users(service: Service) -> list[tuple[str, bool]]:
    with service.admin() as admin:
        return [(user.email, user.is_admin) for user in admin.users()]


def test_whom_the_proxy_names_needs_no_form(start_service: Starter) -> None:
    service = start_service(**SIGN_IN, **PROXY)
    surfer = Proxied(service, "new@example.com")
    page = surfer.get("/log?status=failed")
    assert page.url == f"{surfer.base}/log?status=failed" and "new@example.com" in page.text
    assert surfer.post("/keys", csrf=surfer.token(), name="mine", scopes="handlers:read").status == 200
    assert users(service) == [(EMAIL, True), ("new@example.com", False)]
    assert Proxied(service, EMAIL.upper()).get("/users").status == 200


@pytest.mark.parametrize("proxies", ["127.0.0.2/32", "10.0.0.0/8"])
def test_a_stranger_names_nobody(start_service: Starter, proxies: str) -> None:
    service = start_service(**SIGN_IN, **PROXY | {"TOCSIN_TRUSTED_PROXIES": proxies})
    surfer = Proxied(service, EMAIL)
    assert surfer.get("/").path == "/sign-in"
    assert "Password" in surfer.get("/sign-in").text
    assert users(service) == [(EMAIL, True)]


def test_a_client_of_the_unix_socket_names_nobody() -> None:
    """It could be anybody who may open it, though it is believed about addresses."""
    settings = load({**PROXY, "TOCSIN_UNIX_SOCKET": "/tmp/s"}, NONE)
    headers = [(b"remote-email", EMAIL.encode())]
    assert remote_user({"client": None, "headers": headers}, settings) is None
    assert remote_user({"client": ("", 0), "headers": headers}, settings) is None
    assert remote_user({"client": ("127.0.0.1", 4711), "headers": headers}, settings) == EMAIL


@pytest.mark.parametrize("environ", [{}, {"TOCSIN_TRUSTED_PROXIES": "0.0.0.0/0"}, {"TOCSIN_TRUSTED_PROXIES": "10.0.0.0/8,::/0"}])
def test_it_does_not_start_where_anybody_could_name_anybody(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"TOCSIN_REMOTE_USER_HEADER .*TOCSIN_TRUSTED_PROXIES"):
        load({"TOCSIN_REMOTE_USER_HEADER": "Remote-Email", **environ}, NONE)


def test_two_headers_name_nobody(start_service: Starter) -> None:
    """One of them may be the client's own."""
    service = start_service(**SIGN_IN, **PROXY)
    connection = http.client.HTTPConnection("127.0.0.1", service.port)
    connection.putrequest("GET", "/sign-in")
    for email in ("new@example.com", EMAIL):
        connection.putheader("Remote-Email", email)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 200 and b'name="password"' in answer.read()
    connection.close()


def test_who_is_no_user_is_told_so_where_none_is_made(start_service: Starter) -> None:
    service = start_service(**SIGN_IN, **PROXY, TOCSIN_REMOTE_USER_CREATE="off")
    answer = Proxied(service, "new@example.com").get("/")
    assert answer.status == 422 and "Ask an administrator to invite" in answer.text
    with service.admin() as admin:
        admin.add_user("new@example.com", False)
        admin.add_user("gone@example.com", False)
        admin.disable_user("gone@example.com")
    assert Proxied(service, "new@example.com").get("/").path == "/"
    assert "This user is disabled" in Proxied(service, "gone@example.com").get("/").text


@pytest.mark.parametrize("named", ["alice", "not an address", "a@b@c", "<script>alert(1)</script>@example.com"])
def test_what_is_no_address_is_nobody(start_service: Starter, named: str) -> None:
    service = start_service(**SIGN_IN, **PROXY)
    answer = Proxied(service, named).get("/")
    assert answer.status == 422 and "names no e-mail address" in answer.text and "<script>alert" not in answer.text
    assert users(service) == [(EMAIL, True)]


def test_administrators_are_those_of_the_list(start_service: Starter) -> None:
    service = start_service(**SIGN_IN, **PROXY, TOCSIN_REMOTE_USER_ADMINS="Boss@example.com, second@example.com")
    with service.admin() as admin:
        admin.add_user("staff@example.com", True)
    assert Proxied(service, "boss@example.com").get("/users").status == 200
    assert Proxied(service, "staff@example.com").get("/users").status == 404
    assert users(service) == [(EMAIL, True), ("staff@example.com", False), ("boss@example.com", True)]


def test_its_session_lasts_as_long_as_the_proxy_says_the_same(start_service: Starter) -> None:
    service = start_service(**SIGN_IN, **PROXY)
    surfer = Proxied(service, "one@example.com")
    assert "one@example.com" in surfer.get("/").text
    surfer.email = "two@example.com"
    assert "two@example.com" in surfer.get("/").text
    surfer.email = None
    assert surfer.get("/").path == "/sign-in"
    surfer.email = "one@example.com"
    service.terminate()
    service.environ["TOCSIN_REMOTE_USER_HEADER"] = "X-Another"
    service.start()
    surfer.base = f"http://127.0.0.1:{service.port}"
    assert surfer.get("/").path == "/sign-in"


def test_signing_out_does_not_sign_in_again_at_once(start_service: Starter) -> None:
    service = start_service(**SIGN_IN, **PROXY, TOCSIN_REMOTE_USER_SIGN_OUT_URL="/oauth2/sign_out")
    surfer = Proxied(service, "new@example.com")
    surfer.get("/")
    page = surfer.post("/sign-out", csrf=surfer.token())
    assert page.url == f"{surfer.base}/sign-in?done=signed_out"
    assert "still knows you as new@example.com" in page.text and f'href="{surfer.base}/oauth2/sign_out"' in page.text
    assert surfer.sign_in().path == "/"  # as somebody else, by password
    assert surfer.get("/users").status == 200


def test_a_second_factor_is_asked_for_after_the_proxy_too(start_service: Starter) -> None:
    service = start_service(**SIGN_IN, **PROXY)
    surfer = Proxied(service, "new@example.com")
    surfer.get("/")
    app, _ = set_up(surfer)
    other = Proxied(service, "new@example.com")
    assert other.get("/keys").path == "/sign-in/code"
    assert enter(other, app.code()).path == "/"


def test_it_is_nothing_to_the_api(start_service: Starter) -> None:
    service = start_service(**SIGN_IN, **PROXY)
    assert Proxied(service, EMAIL).get("/api/notification-handlers").status == 401
