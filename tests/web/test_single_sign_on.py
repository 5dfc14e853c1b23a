"""Signing in with a real OpenID provider, and as whom a proxy in front names."""

from collections.abc import Iterator
from typing import TypeAlias

import pytest

from e2e.conftest import Starter
from e2e.service import Service
from support.openid import RealProvider, real_provider, sign_in_there, through  # noqa: F401  # a fixture
from web.conftest import EMAIL, SIGN_IN, Surfer
from web.test_second_factor import enter, set_up

Both: TypeAlias = tuple[Service, RealProvider]


@pytest.fixture
def start_both(start_service: Starter, real_provider: RealProvider) -> Iterator["Start"]:  # noqa: F811
    yield Start(start_service, real_provider)


class Start:
    def __init__(self, start_service: Starter, provider: RealProvider) -> None:
        self._start_service = start_service
        self.provider = provider

    def __call__(self, *, conform: bool = False, auth_method: str = "client_secret_basic", **environ: str) -> str:
        """Where the service is."""
        self.service = self._start_service(**{**SIGN_IN, **self.provider.environ, **environ})
        base = f"http://127.0.0.1:{self.service.port}"
        self.provider.start(base, conform=conform, auth_method=auth_method)
        return base

    def emails(self) -> list[tuple[str, bool]]:
        with self.service.admin() as admin:
            return [(user.email, user.is_admin) for user in admin.users()]


# -------------------------------------------------------------------------------------------------- the OpenID provider


def test_somebody_new_signs_in_and_becomes_a_user(start_both: Start) -> None:
    base = start_both(TOCSIN_OIDC_DOMAINS="example.com", TOCSIN_OIDC_NAME="Example Inc.")
    surfer = Surfer(base)
    assert "Sign in with Example Inc." in surfer.get("/sign-in").text
    answer = sign_in_there(surfer, "new@example.com")
    assert answer.url == f"{base}/" and "new@example.com" in answer.text
    assert start_both.emails() == [(EMAIL, True), ("new@example.com", False)]
    assert surfer.get("/users").status == 404


def test_they_come_to_the_page_that_they_asked_for(start_both: Start) -> None:
    base = start_both(TOCSIN_OIDC_DOMAINS="*")
    surfer = Surfer(base)
    page = surfer.get("/log?status=failed")
    assert page.path == "/sign-in"
    assert 'href="/sign-in/openid?to=/log%3Fstatus%3Dfailed"' in page.text
    assert sign_in_there(surfer, "new@example.com", "/sign-in/openid?to=/log%3Fstatus%3Dfailed").url == f"{base}/log?status=failed"
    for foreign in ("//evil.example.com", "https://evil.example.com/", "/\\evil.example.com"):
        other = Surfer(base)
        assert sign_in_there(other, "new@example.com", f"/sign-in/openid?to={foreign}").url == f"{base}/"


@pytest.mark.parametrize(
    ("email", "environ"),
    [
        ("new@elsewhere.example", {"TOCSIN_OIDC_DOMAINS": "example.com"}),
        ("new@sub.example.com", {"TOCSIN_OIDC_DOMAINS": "example.com"}),
        ("unverified@example.com", {"TOCSIN_OIDC_DOMAINS": "example.com"}),
        ("unverified@example.com", {"TOCSIN_OIDC_DOMAINS": "*"}),
        ("new@example.com", {}),
        ("new@example.com", {"TOCSIN_OIDC_DOMAINS": "example.com", "TOCSIN_OIDC_CREATE": "off"}),
    ],
)
def test_who_is_not_to_be_a_user_becomes_none(start_both: Start, email: str, environ: dict[str, str]) -> None:
    surfer = Surfer(start_both(**environ))
    answer = sign_in_there(surfer, email)
    assert answer.status == 422 and "Not signed in" in answer.text
    assert surfer.get("/").path == "/sign-in"
    assert start_both.emails() == [(EMAIL, True)]


def test_an_unverified_address_takes_over_nobody(start_both: Start) -> None:
    base = start_both()
    with start_both.service.admin() as admin:
        admin.add_user("unverified@example.com", True)
    surfer = Surfer(base)
    assert sign_in_there(surfer, "unverified@example.com").status == 422
    assert surfer.get("/users").path == "/sign-in"


def test_somebody_invited_is_bound_by_the_providers_own_name_for_them(start_both: Start) -> None:
    """A second account there with the same address is somebody else, until the operator says otherwise."""
    base = start_both(TOCSIN_OIDC_DOMAINS="example.com", TOCSIN_OIDC_CREATE="off")
    with start_both.service.admin() as admin:
        admin.add_user("Friend@example.com", False)
    assert sign_in_there(Surfer(base), "friend@example.com").url == f"{base}/"
    assert sign_in_there(Surfer(base), "friend@example.com").url == f"{base}/"
    answer = sign_in_there(Surfer(base), "again+friend@example.com")
    assert answer.status == 422 and "belongs to another account" in answer.text
    with start_both.service.admin() as admin:
        assert admin.unbind("friend@example.com")
    assert sign_in_there(Surfer(base), "again+friend@example.com").url == f"{base}/"
    assert sign_in_there(Surfer(base), "friend@example.com").status == 422


def test_somebody_disabled_stays_out(start_both: Start) -> None:
    base = start_both(TOCSIN_OIDC_DOMAINS="*")
    surfer = Surfer(base)
    sign_in_there(surfer, "new@example.com")
    with start_both.service.admin() as admin:
        admin.disable_user("new@example.com")
    assert surfer.get("/").path == "/sign-in"
    answer = sign_in_there(Surfer(base), "new@example.com")
    assert answer.status == 422 and "This user is disabled" in answer.text


def test_the_claim_decides_who_is_an_administrator(start_both: Start) -> None:
    base = start_both(TOCSIN_OIDC_DOMAINS="example.com", TOCSIN_OIDC_ADMIN_CLAIM="groups=tocsin-admins")
    assert sign_in_there(boss := Surfer(base), "boss@example.com").url == f"{base}/"
    assert boss.get("/users").status == 200
    with start_both.service.admin() as admin:
        admin.add_user("staff@example.com", True)
    assert sign_in_there(staff := Surfer(base), "staff@example.com").url == f"{base}/"
    assert staff.get("/users").status == 404


def test_the_last_administrator_stays_one_whatever_the_claim_says(start_both: Start) -> None:
    base = start_both(
        TOCSIN_OIDC_DOMAINS="example.com", TOCSIN_OIDC_ADMIN_CLAIM="groups=tocsin-admins", TOCSIN_BOOTSTRAP_EMAIL="first@example.com"
    )
    assert sign_in_there(Surfer(base), "first@example.com").url == f"{base}/"
    assert ("first@example.com", True) in start_both.emails()


@pytest.mark.parametrize(("conform", "auth_method"), [(True, "client_secret_basic"), (False, "client_secret_post")])
def test_other_forms_of_the_protocol(start_both: Start, conform: bool, auth_method: str) -> None:
    """The address told only at the user information endpoint, and the secret in the form."""
    base = start_both(conform=conform, auth_method=auth_method, TOCSIN_OIDC_DOMAINS="*", TOCSIN_OIDC_ADMIN_CLAIM="groups=tocsin-admins")
    assert sign_in_there(Surfer(base), "boss@example.com").url == f"{base}/"
    assert ("boss@example.com", True) in start_both.emails()


def test_new_keys_of_the_provider_are_taken_at_once(start_both: Start) -> None:
    base = start_both(TOCSIN_OIDC_DOMAINS="*")
    sign_in_there(Surfer(base), "one@example.com")
    start_both.provider.stop()
    start_both.provider.start(base)
    assert sign_in_there(Surfer(base), "two@example.com").url == f"{base}/"


def test_a_provider_that_is_down_leaves_the_password(start_both: Start) -> None:
    base = start_both()
    start_both.provider.stop()
    answer = Surfer(base).get("/sign-in/openid")
    assert answer.status == 503 and "cannot be used at this moment" in answer.text
    assert Surfer(base).sign_in().path == "/"


def test_a_second_factor_is_asked_for_after_the_provider_too(start_both: Start) -> None:
    base = start_both(TOCSIN_OIDC_DOMAINS="*", TOCSIN_REQUIRE_SECOND_FACTOR="all")
    surfer = Surfer(base)
    assert sign_in_there(surfer, "new@example.com").url == f"{base}/"  # the provider's duty
    app, _ = set_up(surfer)
    other = Surfer(base)
    assert sign_in_there(other, "new@example.com", "/sign-in/openid?to=/keys").url == f"{base}/sign-in/code?to=/keys"
    assert other.get("/keys").path == "/sign-in"
    assert enter(other, app.code()).path == "/"


def test_signing_out_offers_to_sign_out_there_too(start_both: Start) -> None:
    base = start_both(TOCSIN_OIDC_DOMAINS="*")
    surfer = Surfer(base)
    sign_in_there(surfer, "new@example.com")
    page = surfer.post("/sign-out", csrf=surfer.token())
    assert page.url == f"{base}/sign-in?done=signed_out" and 'href="/sign-out/openid"' in page.text
    there = surfer.get("/sign-out/openid")
    assert there.url.startswith(start_both.provider.issuer)
    assert surfer.get("/").path == "/sign-in"


# -------------------------------------------------------------------------------------------------------------- replayed


def test_neither_state_nor_code_works_twice(start_both: Start) -> None:
    base = start_both(TOCSIN_OIDC_DOMAINS="*")
    surfer = Surfer(base)
    away = surfer.get("/sign-in/openid", stay=True)
    kept = next(cookie.value or "" for cookie in surfer.cookies if cookie.name == "tocsin_away")
    seen: list[str] = []
    surfer.watch = seen.append
    assert through(surfer, surfer.get_url(away.headers["location"]), "new@example.com").url == f"{base}/"
    [callback] = [url.removeprefix(base) for url in seen if "/sign-in/openid/callback" in url]
    assert surfer.get(callback).status == 422  # the browser has dropped what it kept
    thief = Surfer(base)
    assert thief.get(callback).status == 422
    assert thief.get(callback, cookie=f"tocsin_away={kept}").status == 422
    assert thief.get("/").path == "/sign-in"


def test_the_answer_belongs_to_the_browser_that_asked(start_both: Start) -> None:
    """Or somebody could be made to work in the account of another person."""
    base = start_both(TOCSIN_OIDC_DOMAINS="*")
    thief, victim = Surfer(base), Surfer(base)
    away = thief.get("/sign-in/openid", stay=True)
    seen: list[str] = []
    thief.watch = seen.append
    through(thief, thief.get_url(away.headers["location"]), "thief@example.com")
    [callback] = [url.removeprefix(base) for url in seen if "/sign-in/openid/callback" in url]
    victim.get("/sign-in/openid", stay=True)
    assert victim.get(callback).status == 422
    assert victim.get("/").path == "/sign-in"
