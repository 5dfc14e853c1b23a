"""OpenID providers that break a rule: nobody whom they send is let in."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from e2e.conftest import Starter
from e2e.service import Service
from support.hostile import CLIENT_SECRET, Answers, HostileProvider, Twist, public
from web.conftest import SIGN_IN, Surfer

SERVICE = {"TOCSIN_OIDC_DOMAINS": "example.com", "TOCSIN_OIDC_ADMIN_CLAIM": "roles.all=boss"}


@pytest.fixture(scope="module")
def provider() -> Iterator[HostileProvider]:
    with HostileProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, provider: HostileProvider) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("hostile"), **SIGN_IN, **SERVICE, **provider.environ)
    try:
        yield service.start()
    finally:
        service.kill()


@pytest.fixture
def surfer(shared: Service, provider: HostileProvider) -> Iterator[Surfer]:
    yield Surfer(f"http://127.0.0.1:{shared.port}")
    provider.twist = bool


def claims(**changed: Any) -> Twist:
    return lambda answers: answers.claims.update(changed)


def without(*names: str) -> Twist:
    def twist(answers: Answers) -> None:
        for name in names:
            del answers.claims[name]

    return twist


def none(answers: Answers) -> None:
    answers.header, answers.unsigned = {"alg": "none"}, True


def none_written_otherwise(answers: Answers) -> None:
    answers.header, answers.unsigned = {"alg": "nOnE", "kid": "the key"}, True


def rs256_without_signature(answers: Answers) -> None:
    answers.unsigned = True


def clients_secret(answers: Answers) -> None:
    answers.header, answers.key = {"alg": "HS256"}, CLIENT_SECRET.encode()


def public_key_as_secret(answers: Answers) -> None:
    answers.header = {"alg": "HS256", "kid": "the key"}
    assert not isinstance(answers.key, bytes)
    answers.key = answers.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def other(change: dict[str, Any]) -> Twist:
    def twist(answers: Answers) -> None:
        answers.header |= change

    return twist


def now(seconds: int) -> int:
    return int(time.time()) + seconds


HOSTILE: dict[str, Twist] = {
    "another nonce": claims(nonce="another"),
    "no nonce": without("nonce"),
    "for another client": claims(aud="another"),
    "for others too, without saying for whom it was made": claims(aud=["tocsin", "another"]),
    "made for another client": claims(aud=["tocsin", "another"], azp="another"),
    "for another client, though made for us": claims(aud="another", azp="tocsin"),
    "for nobody": without("aud"),
    "no signature": none,
    "no signature, otherwise written": none_written_otherwise,
    "an empty signature": rs256_without_signature,
    "signed with the client's secret": clients_secret,
    "signed with the public key as a secret": public_key_as_secret,
    "expired": lambda answers: answers.claims.update(exp=now(-120)),
    "never expires": without("exp"),
    "expires at no number": claims(exp="tomorrow"),
    "made in the future": lambda answers: answers.claims.update(iat=now(600)),
    "not yet valid": lambda answers: answers.claims.update(nbf=now(600)),
    "of another issuer": claims(iss="https://accounts.example.com"),
    "of no issuer": without("iss"),
    "of nobody": without("sub"),
    "of an empty name": claims(sub=""),
    "of a name that is no text": claims(sub=1),
    "of a name that is too long": claims(sub="x" * 256),
    "of a name that cannot be kept": claims(sub="a\0b"),
    "of another access token": claims(at_hash="AAAAAAAAAAAAAAAAAAAAAA"),
    "with an unknown key": other({"kid": "unknown"}),
    "with something critical that is unknown": other({"crit": ["exp2"], "exp2": 1}),
    "an unverified address": claims(email_verified=False),
    "an address that is verified in words": claims(email_verified="no"),
    "an address that nothing is said of": without("email_verified"),
    "of another domain": claims(email="new@example.com.evil.example"),
    "two addresses": claims(email=["new@example.com"]),
    "no address": claims(email="example.com"),
    "the answer of another provider": lambda answers: answers.callback.update(iss="https://accounts.example.com"),
    "another state": lambda answers: answers.callback.update(state="another"),
    "a code that it does not know": lambda answers: answers.callback.update(code="another"),
    "an error": lambda answers: answers.callback.update(error="access_denied", error_description="<script>alert(1)</script>"),
    "no token": lambda answers: answers.tokens.update(id_token=None),
    "a token that is none": lambda answers: answers.tokens.update(id_token="x.y.z"),
    "a token that is too long": lambda answers: answers.tokens.update(id_token="x" * 40_000),
    "information of somebody else": lambda answers: [answers.claims.pop("email"), setattr(answers, "user_info", {"sub": "another"})],
}
BROKEN: dict[str, Twist] = {
    "an error of its own": lambda answers: setattr(answers, "token_status", 500),
    "a redirect": lambda answers: setattr(answers, "token_status", 307),
    "no JSON": lambda answers: setattr(answers, "token_body", b"<html>"),
    "JSON that is no object": lambda answers: setattr(answers, "token_body", b"[]"),
    "JSON too deep": lambda answers: setattr(answers, "token_body", b"[" * 60_000),
    "no information": lambda answers: [answers.claims.pop("email"), setattr(answers, "user_info", None)],
}


def test_an_honest_one_lets_people_in(surfer: Surfer, provider: HostileProvider) -> None:
    for twist in (bool, claims(aud=["tocsin"]), claims(azp="tocsin"), lambda answers: answers.header.pop("kid")):
        provider.twist = twist
        other = Surfer(surfer.base)
        assert other.get("/sign-in/openid").url == f"{surfer.base}/"
        assert other.get("/keys").path == "/keys"


@pytest.mark.parametrize("twist", HOSTILE)
def test_a_hostile_one_lets_nobody_in(surfer: Surfer, provider: HostileProvider, twist: str) -> None:
    provider.twist = HOSTILE[twist]
    answer = surfer.get("/sign-in/openid")
    assert (answer.path, answer.status) == ("/sign-in/openid/callback", 422), answer.text
    assert "<script>alert" not in answer.text
    assert surfer.get("/").path == "/sign-in"


def test_keys_that_a_token_brings_along_are_not_taken(surfer: Surfer, provider: HostileProvider) -> None:
    def twist(answers: Answers) -> None:
        answers.key = provider.other_key
        answers.header |= {"jwk": public(provider.other_key), "jku": f"{provider.issuer}/attackers-keys"}

    provider.twist = twist
    assert surfer.get("/sign-in/openid").status == 422
    assert "/attackers-keys" not in provider.asked


def test_an_answer_works_once_even_if_its_code_does_not(surfer: Surfer, provider: HostileProvider) -> None:
    provider.takes_codes_again = True
    away = surfer.get("/sign-in/openid", stay=True)
    kept = next(cookie.value or "" for cookie in surfer.cookies if cookie.name == "tocsin_away")
    seen: list[str] = []
    surfer.watch = seen.append
    assert surfer.get_url(away.headers["location"]).url == f"{surfer.base}/"
    callback = next(url.removeprefix(surfer.base) for url in seen if "/sign-in/openid/callback" in url)
    thief = Surfer(surfer.base)
    assert thief.get(callback, cookie=f"tocsin_away={kept}").status == 422
    assert thief.get("/").path == "/sign-in"
    provider.takes_codes_again = False


@pytest.mark.parametrize("twist", BROKEN)
def test_a_broken_one_is_said_to_be_of_no_use_now(surfer: Surfer, provider: HostileProvider, twist: str) -> None:
    provider.twist = BROKEN[twist]
    assert surfer.get("/sign-in/openid").status == 503
    assert surfer.get("/").path == "/sign-in"


def test_one_that_calls_itself_otherwise_is_not_used(start_service: Starter) -> None:
    with HostileProvider() as provider:
        provider.calls_itself = "https://accounts.example.com"
        service = start_service(**SIGN_IN, **SERVICE, **provider.environ)
        assert Surfer(f"http://127.0.0.1:{service.port}").get("/sign-in/openid").status == 503
        assert "set TOCSIN_OIDC_ISSUER to exactly that" in service.log()


def test_neither_tokens_nor_the_secret_are_logged(shared: Service, provider: HostileProvider, surfer: Surfer) -> None:
    for twist in (*HOSTILE.values(), *BROKEN.values()):
        provider.twist = twist
        Surfer(surfer.base).get("/sign-in/openid")
    log = shared.log()
    assert "openid.refused" in log and "openid.unusable" in log
    for secret in (CLIENT_SECRET, "an-access-token", "code-1", "eyJ"):
        assert secret not in log
    assert Path(shared.folder).exists()
