"""The second factor at the pages: set up, asked for, lost, renewed, turned off, required."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pyotp
import pytest

from e2e.conftest import Starter
from e2e.service import Service
from tocsin.flow.people.second_factor import RECOVERY_CODES
from web.conftest import EMAIL, PASSWORD, SIGN_IN, Answer, Surfer

STEP = 30


class App:
    """The app on somebody's phone. It never shows the same code twice: for each further one its clock is a step ahead."""

    def __init__(self, secret: str) -> None:
        self._totp = pyotp.TOTP(secret)
        self._last = 0

    def code(self) -> str:
        step = max(int(time.time()) // STEP - 1, self._last + 1)
        self._last = step
        return self._totp.at(step * STEP)

    def again(self) -> str:
        return self._totp.at(self._last * STEP)


def secret_on(page: str) -> str:
    found = re.search(r'<pre tabindex="0" id="secret">([A-Z2-7]{32})</pre>', page)
    assert found, page
    return found[1]


def codes_on(page: str) -> list[str]:
    found = re.search(r'id="recovery-codes">([^<]+)</pre>', page)
    assert found, page
    return found[1].split()


def set_up(surfer: Surfer) -> tuple[App, list[str]]:
    page = surfer.get("/account/second-factor").text
    app = App(secret_on(page))
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    answer = surfer.post("/account/second-factor", csrf=surfer.token(), sealed=sealed[1], code=app.code())
    assert answer.status == 200, answer.text
    return app, codes_on(answer.text)


def half_way(base: str) -> Surfer:
    """Somebody who has entered the password."""
    surfer = Surfer(base)
    assert surfer.sign_in().path == "/sign-in/code"
    return surfer


def enter(surfer: Surfer, code: str) -> Answer:
    return surfer.post("/sign-in/code", csrf=surfer.token("/sign-in/code"), code=code)


# --------------------------------------------------------------------------------------------------------- setting it up


def test_it_is_set_up_with_the_first_code_of_the_app(surfer: Surfer, base: str) -> None:
    app, codes = set_up(surfer)
    assert len(set(codes)) == RECOVERY_CODES
    assert all(re.fullmatch(r"([A-HJ-NP-Z2-9]{4}-){3}[A-HJ-NP-Z2-9]{4}", one) for one in codes)
    page = surfer.get("/account/second-factor").text
    assert f"{RECOVERY_CODES} recovery codes are left" in page and codes[0] not in page  # shown once
    other = half_way(base)
    assert other.get("/").path == "/sign-in"  # the password alone is not enough, for any page
    assert other.get("/keys").path == "/sign-in"
    assert enter(other, app.code()).path == "/"
    assert other.get("/keys").path == "/keys"


def test_nothing_is_asked_for_before_a_code_has_confirmed_it(surfer: Surfer, base: str) -> None:
    page = surfer.get("/account/second-factor").text
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    answer = surfer.post("/account/second-factor", csrf=surfer.token(), sealed=sealed[1], code="000000")
    assert answer.status == 422 and "This code is wrong" in answer.text
    assert secret_on(answer.text) == secret_on(page)  # the app has it by now
    assert Surfer(base).sign_in().path == "/"


def test_a_secret_that_is_somebody_elses_is_not_taken(surfer: Surfer, served: Service, base: str) -> None:
    page = surfer.get("/account/second-factor").text
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    with served.admin() as admin:
        admin.add_user("second@example.com", False)
        admin.set_password("second@example.com", PASSWORD)
    other = Surfer(base)
    assert other.sign_in("second@example.com").path == "/"
    answer = other.post("/account/second-factor", csrf=other.token(), sealed=sealed[1], code=App(secret_on(page)).code())
    assert answer.status == 422 and secret_on(answer.text) != secret_on(page)
    for broken in ("", "nonsense", sealed[1][:-4], "é"):
        assert other.post("/account/second-factor", csrf=other.token(), sealed=broken, code="123456").status == 422


def test_the_qr_code_is_an_image_without_styles_that_holds_the_secret(surfer: Surfer) -> None:
    page = surfer.get("/account/second-factor").text
    found = re.search(r"<svg[^>]*class=\"qr\".*?</svg>", page)
    assert found and "style" not in found[0]
    tree = ElementTree.fromstring(found[0])
    assert [path.attrib.get("fill") or path.attrib.get("stroke") for path in tree] == ["#fff", "#000"]


# ------------------------------------------------------------------------------------------------------------ signing in


def test_a_code_works_once(surfer: Surfer, base: str) -> None:
    app, _ = set_up(surfer)
    assert enter(half_way(base), app.again()).status == 422  # the one that set it up
    assert enter(half_way(base), app.code()).path == "/"
    assert enter(half_way(base), app.again()).status == 422


def test_people_type_codes_as_they_see_them(surfer: Surfer, base: str) -> None:
    app, codes = set_up(surfer)
    digits = app.code()
    wide = "".join(chr(ord(one) - ord("0") + ord("０")) for one in digits)
    assert enter(half_way(base), f" {wide[:3]} {wide[3:]} ").path == "/"
    assert enter(half_way(base), codes[0].lower().replace("-", " ")).path == "/"


def test_a_recovery_code_works_once_and_new_ones_replace_those_left(surfer: Surfer, base: str) -> None:
    app, codes = set_up(surfer)
    assert enter(half_way(base), codes[0]).path == "/"
    assert enter(half_way(base), codes[0]).status == 422
    assert f"{RECOVERY_CODES - 1} recovery codes are left" in surfer.get("/account/second-factor").text
    answer = surfer.post("/account/second-factor/codes", csrf=surfer.token(), code=app.code())
    fresh = codes_on(answer.text)
    assert enter(half_way(base), codes[1]).status == 422
    assert enter(half_way(base), fresh[1]).path == "/"


def test_nobody_gets_to_the_code_without_the_password(surfer: Surfer, base: str) -> None:
    app, _ = set_up(surfer)
    stranger = Surfer(base)
    assert stranger.get("/sign-in/code").path == "/sign-in"
    answer = stranger.post("/sign-in/code", csrf=stranger.token("/sign-in"), code=app.code())
    assert answer.status == 422 and "This took too long" in answer.text
    assert Surfer(base).sign_in(password="wrong password").status == 422


def test_guesses_of_codes_are_slowed_down_and_a_recovery_code_still_works(start_service: Starter) -> None:
    service = start_service(TOCSIN_TRUSTED_PROXIES="127.0.0.0/8", **SIGN_IN)
    base = f"http://127.0.0.1:{service.port}"
    surfer = Surfer(base)
    surfer.sign_in()
    app, codes = set_up(surfer)
    guesser = half_way(base)
    csrf = guesser.token("/sign-in/code")
    seen = [guesser.post("/sign-in/code", csrf=csrf, headers={"X-Forwarded-For": f"198.51.100.{n}"}, code="000000") for n in range(8)]
    assert [one.status for one in seen][:5] == [422] * 5 and 429 in [one.status for one in seen]  # by account, from any address
    assert int(seen[-1].headers["retry-after"]) >= 1
    owner = half_way(base)
    csrf = owner.token("/sign-in/code")
    assert owner.post("/sign-in/code", csrf=csrf, code=app.code()).status == 429
    assert owner.post("/sign-in/code", csrf=csrf, code=codes[0]).path == "/"


def test_a_sign_in_link_does_not_go_around_it(surfer: Surfer, served: Service, base: str) -> None:
    app, _ = set_up(surfer)
    with served.admin() as admin:
        token = admin.sign_in_token(EMAIL)
    other = Surfer(base)
    assert other.post(f"/sign-in/{token}").path == "/sign-in/code"
    assert other.get("/").path == "/sign-in"
    assert enter(other, app.code()).path == "/"


def test_one_comes_to_the_page_that_was_asked_for(surfer: Surfer, base: str) -> None:
    app, _ = set_up(surfer)
    other = Surfer(base)
    answer = other.post("/sign-in?to=/log%3Fstatus%3Dfailed", email=EMAIL, password=PASSWORD)
    assert answer.path == "/sign-in/code"
    answer = other.post(answer.url.removeprefix(base), code=app.code())
    assert answer.url == f"{base}/log?status=failed"


# ------------------------------------------------------------------------------------------------------------ afterwards


def test_it_is_turned_off_with_a_code(surfer: Surfer, base: str) -> None:
    app, _ = set_up(surfer)
    assert surfer.post("/account/second-factor/off", csrf=surfer.token(), code="000000").status == 422
    assert surfer.post("/account/second-factor/off", csrf=surfer.token(), code=app.code()).path == "/account/second-factor"
    assert Surfer(base).sign_in().path == "/"


def test_a_second_window_cannot_set_it_up_again(surfer: Surfer) -> None:
    page = surfer.get("/account/second-factor").text
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    set_up(surfer)
    answer = surfer.post("/account/second-factor", csrf=surfer.token(), sealed=sealed[1], code=App(secret_on(page)).code())
    assert answer.status == 422 and "in another window" in answer.text


def test_the_operator_resets_it_beside_the_service(surfer: Surfer, served: Service, base: str) -> None:
    set_up(surfer)
    with served.admin() as admin:
        admin.reset_second_factor(EMAIL)
    assert Surfer(base).sign_in().path == "/"


def test_neither_secret_nor_codes_are_in_the_store_or_the_log(surfer: Surfer, served: Service) -> None:
    page = surfer.get("/account/second-factor").text
    secret = secret_on(page)
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    answer = surfer.post("/account/second-factor", csrf=surfer.token(), sealed=sealed[1], code=App(secret).code())
    codes = codes_on(answer.text)
    served.terminate()
    kept = b"".join(file.read_bytes() for file in Path(served.folder).rglob("*") if file.is_file())
    for one in (secret, *codes, *(code.replace("-", "") for code in codes)):
        assert one.encode() not in kept


# -------------------------------------------------------------------------------------------------------------- required


@pytest.fixture(params=["admins", "all"])
def strict(request: pytest.FixtureRequest, start_service: Starter) -> Iterator[tuple[str, Service]]:
    yield request.param, start_service(TOCSIN_REQUIRE_SECOND_FACTOR=request.param, **SIGN_IN)


def test_who_lacks_a_required_one_is_led_to_it(strict: tuple[str, Service]) -> None:
    whom, service = strict
    base = f"http://127.0.0.1:{service.port}"
    with service.admin() as admin:
        admin.add_user("second@example.com", False)
        admin.set_password("second@example.com", PASSWORD)
    user = Surfer(base)
    assert user.sign_in("second@example.com").path == ("/" if whom == "admins" else "/account/second-factor")
    surfer = Surfer(base)
    assert surfer.sign_in().path == "/account/second-factor"
    for path in ("/", "/keys", "/users", "/account", "/log"):
        assert surfer.get(path).path == "/account/second-factor", path
    assert (
        surfer.post("/keys", csrf=surfer.token("/account/second-factor"), name="x", scopes="handlers:read").path == "/account/second-factor"
    )
    assert "requires a second factor" in surfer.get("/account/second-factor?done=needed").text
    page = surfer.get("/account/second-factor").text
    sealed = re.search(r'name="sealed" value="([^"]+)"', page)
    assert sealed
    app = App(secret_on(page))
    csrf = surfer.token("/account/second-factor")
    assert surfer.post("/account/second-factor", csrf=csrf, sealed=sealed[1], code=app.code()).status == 200
    assert surfer.get("/keys").path == "/keys"
    off = surfer.post("/account/second-factor/off", csrf=surfer.token(), code=app.code())
    assert off.status == 422 and "so it stays" in off.text


def test_signing_out_needs_none(strict: tuple[str, Service]) -> None:
    _, service = strict
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    surfer.sign_in()
    assert surfer.post("/sign-out", csrf=surfer.token("/account/second-factor")).path == "/sign-in"
