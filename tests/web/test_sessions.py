"""Sessions: where one is signed in, what their cookies are called, and who somebody is before what outlives them."""

import re
from html import unescape
from pathlib import Path

import pytest

from e2e.conftest import Starter
from e2e.service import Service
from tocsin.admin import AdminError
from tocsin.api.proxies import SHARED
from tocsin.flow.people.access import SCOPES
from tocsin.flow.people.tries import SHARED_ADDRESS
from web.conftest import EMAIL, PASSWORD, SIGN_IN, Answer, Surfer, an_hour_later, sql

TLS = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "alerts.example"}


def set_cookies(answer: Answer) -> dict[str, str]:
    """Name and attributes of what an answer sets."""
    return {one.partition("=")[0]: one for one in answer.headers.get_all("set-cookie") or []}


def is_asked(answer: Answer) -> bool:
    return 'name="confirm_password"' in answer.text


# ------------------------------------------------------------------------------------------------------------- the list


def test_the_account_page_lists_sessions_and_ends_one_or_all_others(surfer: Surfer, base: str) -> None:
    others = [Surfer(base) for _ in range(3)]
    for other in others:
        other.sign_in()
    page = surfer.get("/account").text
    assert page.count("Python-urllib") >= 4 and page.count("this session") == 1
    ids = re.findall(r'name="session" value="(\w+)"', page)
    assert len(ids) == len(set(ids)) == 3
    assert surfer.post("/account/sessions/end", csrf=surfer.token(), session="nonsense").status == 404
    assert surfer.post("/account/sessions/end", csrf=surfer.token(), session=ids[0]).path == "/account"
    assert [other.get("/").path for other in others].count("/sign-in") == 1
    surfer.post("/account/sessions/end-others", csrf=surfer.token())
    assert {other.get("/").path for other in others} == {"/sign-in"} and surfer.get("/").path == "/"
    assert "End all other sessions" not in surfer.get("/account").text


def test_nobody_ends_anothers_session(surfer: Surfer, served: Service, base: str) -> None:
    with served.admin() as admin:
        _, token = admin.add_user("second@example.com", False)
    second = Surfer(base)
    second.post(f"/sign-in/{token}")
    Surfer(base).sign_in()
    ids = re.findall(r'name="session" value="(\w+)"', surfer.get("/account").text)
    assert len(ids) == 1 and not re.findall(r'name="session" value="(\w+)"', second.get("/account").text)
    assert second.post("/account/sessions/end", csrf=second.token(), session=ids[0]).status == 404
    second.post("/account/sessions/end-others", csrf=second.token())
    assert len(re.findall(r'name="session" value="(\w+)"', surfer.get("/account").text)) == 1


def test_a_session_ends_a_number_of_days_after_signing_in(start_service: Starter) -> None:
    served = start_service(TOCSIN_SESSION_DAYS="3", **SIGN_IN)
    surfer = Surfer(f"http://127.0.0.1:{served.port}")
    assert f"Max-Age={3 * 86_400}" in set_cookies(surfer.post("/sign-in", stay=True, email=EMAIL, password=PASSWORD))["tocsin_session"]
    sql(served, "UPDATE sessions SET created_at = created_at - 86400000000 * 3 + 60000000")
    assert surfer.get("/").path == "/"
    sql(served, "UPDATE sessions SET created_at = created_at - 60000000")
    assert surfer.get("/").path == "/sign-in"


# ---------------------------------------------------------------------------------------------------------- the cookies


class Remembering(Surfer):
    """Sends cookies by hand, as a browser behind a TLS proxy would: the client here sees plain http."""

    def __init__(self, base: str, headers: dict[str, str]) -> None:
        super().__init__(base)
        self.held: dict[str, str] = {}
        self.headers = headers

    def take(self, answer: Answer) -> Answer:
        for one in answer.headers.get_all("set-cookie") or []:
            name, _, value = one.partition(";")[0].partition("=")
            if "Max-Age=0" in one:
                self.held.pop(name, None)
            else:
                self.held[name] = value
        self.cookies.clear()
        return answer

    def sent(self) -> dict[str, str]:
        return {**self.headers, "Cookie": "; ".join(f"{name}={value}" for name, value in self.held.items())}

    def see(self, path: str) -> Answer:
        return self.take(self.get(path, stay=True, **self.sent()))

    def send(self, path: str, **form: object) -> Answer:
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.see(path).text)
        assert found
        return self.take(self.post(path, csrf=found[1], stay=True, headers=self.sent(), **form))


@pytest.fixture
def proxied(start_service: Starter) -> Service:
    return start_service(TOCSIN_TRUSTED_PROXIES="127.0.0.0/8", **SIGN_IN)


@pytest.mark.parametrize(
    ("headers", "beginning", "path"),
    [({}, "", "/"), (TLS, "__Host-", "/"), ({**TLS, "X-Forwarded-Prefix": "/t"}, "__Secure-", "/t")],
    ids=["plain", "tls", "sub-path"],
)
def test_cookies_have_names_that_nobody_else_can_set(proxied: Service, headers: dict[str, str], beginning: str, path: str) -> None:
    surfer = Remembering(f"http://127.0.0.1:{proxied.port}", headers)
    before = set_cookies(surfer.see("/sign-in"))
    signed_in = set_cookies(surfer.send("/sign-in", email=EMAIL, password=PASSWORD))
    assert set(before) == {f"{beginning}tocsin_before"}
    assert set(signed_in) == {f"{beginning}tocsin_session", f"{beginning}tocsin_device"}
    for cookie in (*before.values(), *signed_in.values()):
        assert f"Path={path};" in cookie and "HttpOnly" in cookie and "Domain" not in cookie
        assert ("; Secure" in cookie) is bool(beginning)
    assert surfer.see("/").status == 200
    ended = surfer.take(surfer.post("/sign-out", csrf=_csrf(surfer), stay=True, headers=surfer.sent()))
    assert ended.status == 303 and f"{beginning}tocsin_session" not in surfer.held
    assert surfer.see("/").status == 303 and f"{beginning}tocsin_device" in surfer.held


def _csrf(surfer: Remembering) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', surfer.see("/account").text)
    assert found
    return found[1]


def test_a_session_under_a_plain_name_counts_over_tls_only_if_an_older_version_made_it(proxied: Service) -> None:
    base = f"http://127.0.0.1:{proxied.port}"
    plain = Remembering(base, {})
    plain.send("/sign-in", email=EMAIL, password=PASSWORD)
    session = plain.held["tocsin_session"]
    planted = Remembering(base, TLS)
    planted.held = {"tocsin_session": session}
    assert planted.see("/").status == 303
    sql(proxied, 'UPDATE sessions SET "by" = NULL, device = NULL, address = NULL, confirmed_at = NULL')
    planted.held = {"tocsin_session": session}
    assert planted.see("/").status == 200
    assert planted.held.keys() >= {"__Host-tocsin_session"} and "tocsin_session" not in planted.held
    assert planted.see("/").status == 200
    assert planted.see("/account").text.count("unknown") >= 2


def test_a_signed_in_browser_gets_in_whatever_others_guess(proxied: Service) -> None:
    base = f"http://127.0.0.1:{proxied.port}"
    owner = Remembering(base, {"X-Forwarded-For": "81.2.69.1"})
    owner.send("/sign-in", email=EMAIL, password=PASSWORD)
    attacker = Surfer(base)
    statuses = [
        attacker.post("/sign-in", headers={"X-Forwarded-For": "81.2.70.1"}, email=EMAIL, password=f"guess {number}").status
        for number in range(8)
    ]
    assert statuses[-1] == 429
    owner.headers = {"X-Forwarded-For": "81.2.71.9"}
    owner.held.pop("tocsin_session")
    assert owner.send("/sign-in", email=EMAIL, password=PASSWORD).status == 303
    for address, status in (("81.2.69.1", 303), ("81.2.72.1", 429)):
        anew = Remembering(base, {"X-Forwarded-For": address})
        assert anew.send("/sign-in", email=EMAIL, password=PASSWORD).status == status
    assert f"address {SHARED}" == SHARED_ADDRESS


# ------------------------------------------------------------------------------------------------------------- confirming


def test_what_outlives_a_session_asks_who_it_is_and_goes_on_with_what_was_typed(surfer: Surfer, served: Service) -> None:
    assert len(set(re.findall(r"tk_\w{43}", surfer.post("/keys", csrf=surfer.token(), name="first", scopes=SCOPES).text))) == 1
    an_hour_later(served)
    narrow = surfer.post("/keys", csrf=surfer.token(), name="narrow", scopes=SCOPES[:4])
    assert narrow.status == 200 and not is_asked(narrow)
    asked = surfer.post("/keys", csrf=surfer.token(), name="a <b> & c", scopes=SCOPES)
    assert asked.status == 403 and is_asked(asked) and not re.search(r"tk_\w{43}", asked.text)
    action = re.search(r'<form method="post" action="([^"]+)" class="card">', asked.text)
    hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', asked.text)
    assert action and action[1] == "/keys"
    carried = {name: [unescape(value) for one, value in hidden if one == name] for name in ("name", "scopes")}
    assert carried == {"name": ["a <b> & c"], "scopes": list(SCOPES)}
    wrong = surfer.post("/keys", csrf=surfer.token(), confirm_password="not this one", **carried)
    assert wrong.status == 422 and is_asked(wrong) and "not this one" not in wrong.text
    made = surfer.post("/keys", csrf=surfer.token(), confirm_password=PASSWORD, **carried)
    assert made.status == 200 and len(set(re.findall(r"tk_\w{43}", made.text))) == 1 and "a &lt;b&gt; &amp; c" in made.text
    assert surfer.post("/users", csrf=surfer.token(), email="boss@example.com", is_admin="1").status == 200  # confirmed for some minutes
    said = served.log()
    assert "confirm.failed" in said and "not this one" not in said and PASSWORD not in said


def test_each_act_that_outlives_a_session_is_behind_the_question(surfer: Surfer, served: Service) -> None:
    handler = served.first().add_handler("webhook", webhook="https://example.com/x")
    surfer.post("/users", csrf=surfer.token(), email="plain@example.com")
    an_hour_later(served)
    secret = surfer.get(f"/handlers/{handler}/secret")
    assert secret.status == 403 and is_asked(secret) and "whsec_" not in secret.text
    token = surfer.token()
    for path, form in (
        ("/keys", {"name": "x", "scopes": SCOPES}),
        ("/users", {"email": "boss@example.com", "is_admin": "1"}),
        ("/users/2/role", {"is_admin": "1"}),
        (f"/handlers/{handler}/secret", {}),
    ):
        answer = surfer.post(path, csrf=token, stay=True, **form)
        assert answer.status == 403 and is_asked(answer), path
    listed = served.run("tocsin", "users", "list").stdout
    assert "boss@" not in listed and listed.count("admin ") == 1
    answered = surfer.post(f"/confirm?to=/handlers/{handler}/secret", csrf=token, confirm_password=PASSWORD)
    assert answered.path == f"/handlers/{handler}/secret" and "whsec_" in answered.text
    assert surfer.get("/confirm?to=//evil.example.com", stay=True).headers["location"] == "/"


def test_a_fragment_leads_to_the_question_and_back(surfer: Surfer, served: Service, base: str) -> None:
    an_hour_later(served)
    headers = {"HX-Request": "true", "HX-Current-URL": f"{base}/docs?x=1"}
    answer = surfer.post("/keys", csrf=surfer.token(), headers=headers, stay=True, name="docs", scopes=SCOPES, **{"for": "docs"})
    assert (answer.status, answer.headers["hx-redirect"]) == (204, "/confirm?to=/docs")
    assert is_asked(surfer.get("/confirm?to=/docs"))
    assert surfer.post("/confirm?to=/docs", csrf=surfer.token(), confirm_password=PASSWORD).path == "/docs"


def test_guesses_at_the_question_have_to_wait_and_lock_out_nobody_else(surfer: Surfer, served: Service, base: str) -> None:
    an_hour_later(served)
    token = surfer.token()
    statuses = [surfer.post("/confirm?to=/keys", csrf=token, confirm_password=f"guess {number}").status for number in range(8)]
    assert statuses == [422] * 6 + [429] * 2
    assert surfer.post("/account/password", csrf=token, old=PASSWORD, new="another long one").status == 429
    assert Surfer(base).sign_in().path == "/"


def test_who_has_no_password_confirms_with_a_new_link_and_nobody_else_sets_their_first(surfer: Surfer, served: Service, base: str) -> None:
    def link() -> str:
        found = re.search(r"(/sign-in/[\w-]+)", surfer.post("/users", csrf=surfer.token(), email="new@example.com").text)
        assert found
        return found[1]

    new = Surfer(base)
    assert new.post(link()).path == "/account"
    an_hour_later(served)
    refused = new.post("/account/password", csrf=new.token(), new="somebody else's one")
    assert refused.status == 403 and "new link" in refused.text and not is_asked(refused)
    assert new.post(link()).path == "/account"
    assert new.post("/account/password", csrf=new.token(), new="a password of my own").path == "/account"


# ------------------------------------------------------------------------------------------------------------ passwords


def test_the_rule_for_passwords_is_the_same_on_the_page_the_command_line_and_at_the_first_start(
    surfer: Surfer, served: Service, tmp_path: Path
) -> None:
    for password, said in (
        ("x", "10 to 1,024 characters, and this one has 1."),
        ("y1z" * 342, "10 to 1,024 characters, and this one has 1,026."),
        (EMAIL.upper(), "cannot be the password"),
        ("aaaaaaaaaa", "too common"),
        ("Password123", "too common"),
        ("1111111111", "too common"),
    ):
        page = surfer.post("/account/password", csrf=surfer.token(), old=PASSWORD, new=password)
        assert page.status == 422 and said in page.text, password
        with served.admin() as admin, pytest.raises(AdminError, match=re.escape(said)):
            admin.set_password(EMAIL.upper(), password)
        first = Service(tmp_path / f"{len(password)}", TOCSIN_BOOTSTRAP_EMAIL=EMAIL, TOCSIN_BOOTSTRAP_PASSWORD=password)
        refused = first.refused()
        assert refused.startswith("tocsin: TOCSIN_BOOTSTRAP_PASSWORD cannot be used: ") and said in refused and password not in refused
        assert said in first.run("tocsin", "check").stdout
    assert "too common" not in served.run("tocsin", "check", TOCSIN_BOOTSTRAP_PASSWORD="1111111111").stdout
    page = surfer.post("/account/password", csrf=surfer.token(), old=PASSWORD, new="y" + "é1" * 511 + "z")
    assert page.path == "/account" and surfer.sign_in(password="y" + "é1" * 511 + "z").path == "/"
    assert "API key" in surfer.get("/account").text
