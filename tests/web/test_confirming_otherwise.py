"""Proving again who one is, by a code of the second factor or at the OpenID provider."""

import html
import re

import pytest

from e2e.service import Service
from support.hostile import Answers, HostileProvider
from support.openid import real_provider, through  # noqa: F401  # a fixture
from web.conftest import PASSWORD, SIGN_IN, Answer, Surfer
from web.test_second_factor import set_up
from web.test_sessions import an_hour_later, is_asked
from web.test_single_sign_on import Start, sign_in_there, start_both  # noqa: F401  # a fixture

ALL = ["handlers:read", "handlers:write", "notifications:send", "deliveries:read", "deliveries:write"]


def make_key(surfer: Surfer, **more: str) -> Answer:
    return surfer.post("/keys", csrf=surfer.token(), name="everything", scopes=ALL, **more)


def is_made(answer: Answer) -> bool:
    return bool(re.search(r"tk_\w{43}", answer.text))


def test_a_code_of_the_second_factor_proves_it(surfer: Surfer, served: Service) -> None:
    app, codes = set_up(surfer)
    for proof in (app.code(), codes[0]):
        an_hour_later(served)
        asked = make_key(surfer)
        assert asked.status == 403 and 'name="confirm_code"' in asked.text and not is_made(asked)
        wrong = make_key(surfer, confirm_code="000000")
        assert wrong.status == 422 and "This code is wrong" in wrong.text and not is_made(wrong)
        assert is_made(make_key(surfer, confirm_code=proof))
    an_hour_later(served)
    assert not is_made(make_key(surfer, confirm_code=app.again()))  # used


def test_a_second_factor_is_not_set_up_at_somebody_elses_open_session(surfer: Surfer, served: Service) -> None:
    page = surfer.get("/account/second-factor").text
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    an_hour_later(served)
    assert is_asked(surfer.get("/account/second-factor"))
    assert is_asked(surfer.post("/account/second-factor", csrf=surfer.token(), sealed=sealed[1], code="123456"))


def test_a_required_one_can_be_set_up_in_an_old_session(start_service) -> None:
    service = start_service(**SIGN_IN, TOCSIN_REQUIRE_SECOND_FACTOR="all")
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    surfer.sign_in()
    an_hour_later(service)
    asked = surfer.get("/keys")
    assert asked.path == "/account/second-factor" and is_asked(asked)
    answer = surfer.post("/confirm?to=/account/second-factor", csrf=surfer.token("/docs"), confirm_password=PASSWORD)
    assert answer.path == "/account/second-factor" and 'id="secret"' in answer.text


def confirming_link(answer: Answer) -> str:
    found = re.search(r'href="(/sign-in/openid\?again=1[^"]*)"', answer.text)
    assert found, answer.text
    return html.unescape(found[1])


def test_signing_in_anew_at_the_provider_proves_it(start_both: Start) -> None:  # noqa: F811
    base = start_both(TOCSIN_OIDC_DOMAINS="example.com")
    surfer = Surfer(base)
    sign_in_there(surfer, "new@example.com")
    an_hour_later(start_both.service)
    asked = surfer.post("/keys", csrf=surfer.token(), headers={"Referer": f"{base}/keys"}, name="everything", scopes=ALL)
    assert asked.status == 403 and confirming_link(asked) == "/sign-in/openid?again=1&to=/keys"
    there = surfer.get(confirming_link(asked))
    assert 'name="login"' in there.text  # although the provider knows them
    assert through(surfer, there, "new@example.com").url == f"{base}/keys"
    assert is_made(make_key(surfer))


def test_somebody_else_at_the_provider_proves_nothing(start_both: Start) -> None:  # noqa: F811
    base = start_both(TOCSIN_OIDC_DOMAINS="example.com")
    surfer = Surfer(base)
    sign_in_there(surfer, "new@example.com")
    an_hour_later(start_both.service)
    answer = sign_in_there(surfer, "other@example.com", confirming_link(make_key(surfer)))
    assert answer.status == 422 and "somebody else" in answer.text
    assert not is_made(make_key(surfer))
    assert [email for email, _ in start_both.emails()] == ["operator@example.com", "new@example.com"]
    assert "new@example.com" in surfer.get("/account").text


@pytest.mark.parametrize("auth_time", [None, 0, "now", True, -600])
def test_a_provider_that_did_not_ask_anew_proves_nothing(start_service, auth_time: object) -> None:
    def twist(answers: Answers) -> None:
        if auth_time is not None:
            answers.claims["auth_time"] = answers.claims["iat"] + auth_time if auth_time == -600 else auth_time

    with HostileProvider() as provider:
        service = start_service(**SIGN_IN, **provider.environ, TOCSIN_OIDC_DOMAINS="example.com")
        surfer = Surfer(f"http://127.0.0.1:{service.port}")
        assert surfer.get("/sign-in/openid").path == "/"
        an_hour_later(service)
        provider.twist = twist
        assert surfer.get(confirming_link(make_key(surfer))).status == 422
        assert not is_made(make_key(surfer))
        provider.twist = lambda answers: answers.claims.update(auth_time=answers.claims["iat"])
        surfer.get(confirming_link(make_key(surfer)))
        assert is_made(make_key(surfer))
