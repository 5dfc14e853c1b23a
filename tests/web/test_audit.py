"""The audit log as people see it: on the pages, from the command line, and for programs that block addresses."""

import importlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import Starter
from e2e.service import Service, until
from tocsin.channels.registry import CHANNELS
from tocsin.flow.people.access import SCOPES
from web.conftest import EMAIL, PASSWORD, SIGN_IN, Surfer
from wild import SECRET_TOKEN

PROXIES = Path(__file__).parents[2] / "docs" / "proxies.md"


class Cells(HTMLParser):
    """The text of each row of the table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[str] = []
        self.is_in_body = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.is_in_body = self.is_in_body or tag == "tbody"
        if tag == "tr" and self.is_in_body:
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1] += f" {data.strip()}"


def lines_of(surfer: Surfer, query: str = "", path: str = "/audit/export.jsonl") -> list[dict[str, Any]]:
    answer = surfer.get(f"{path}?{query}")
    assert answer.status == 200 and answer.headers["content-type"] == "application/jsonl"
    return [json.loads(line) for line in answer.text.splitlines()]


def said_by(served: Service, *words: str) -> list[dict[str, Any]]:
    done = served.run("tocsin", "audit", "--json", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# ------------------------------------------------------------------------------------------------------------- the pages


def test_administrators_see_all_of_it_and_others_their_own(served: Service, surfer: Surfer, base: str) -> None:
    with served.admin() as admin:
        for email in ("one@example.com", "two@example.com"):
            admin.add_user(email, is_admin=False)
            admin.set_password(email, PASSWORD)
    surfers = [Surfer(base) for _ in range(2)]
    for name, other in zip(("one", "two"), surfers, strict=True):
        assert other.sign_in(f"{name}@example.com").path == "/"
        other.post("/keys", csrf=other.token(), name=f"key of {name}", scopes=["handlers:read"])
    assert [other.get("/audit").status for other in (*surfers, Surfer(base))] == [404, 404, 200]  # the last one is asked to sign in
    assert surfers[0].get("/audit/export.jsonl").status == 404
    everything = Cells(surfer.get("/audit").text).rows
    assert any("key of one" in row for row in everything) and any("key of two" in row for row in everything)
    own = surfers[0].get("/account/audit").text
    assert "key of one" in own and "two" not in own
    assert {one["whose"] for one in lines_of(surfers[0], path="/account/audit/export.jsonl")} == {"one@example.com"}
    assert 'href="/account/audit"' in surfers[0].get("/account").text


def test_it_is_filtered_and_paged_on_the_page(served: Service, surfer: Surfer) -> None:
    with served.admin() as admin:
        for number in range(60):
            admin.add_key(EMAIL, f"number {number}", ())
    first = surfer.get("/audit?act=key.added&via=command")
    assert len(Cells(first.text).rows) == 50 and "number 59" in first.text and "number 9 " not in first.text
    [older] = re.findall(r'href="(/audit\?[^"]*before=\d+)"', first.text)
    rest = surfer.get(older.replace("&amp;", "&")).text
    assert len(Cells(rest).rows) == 10 and "number 9 " in rest
    assert Cells(surfer.get("/audit?act=key.added&via=page").text).rows == []
    assert Cells(surfer.get("/audit?user=nobody").text).rows == []
    assert len(Cells(surfer.get("/audit?act=nonsense&from=soon&before=x").text).rows) == 50
    assert Cells(surfer.get("/audit?to=2001-01-01T00:00").text).rows == []
    assert len(lines_of(surfer, "act=key.added&via=command")) == 60


def test_what_is_done_on_the_pages_is_there_with_its_address(surfer: Surfer) -> None:
    surfer.post("/account/password", csrf=surfer.token(), old="a wrong one", new="something longer")
    surfer.post("/users", csrf=surfer.token(), email="new@example.com")
    found = lines_of(surfer)
    assert [one["act"] for one in found][:4] == ["user.link_made", "user.added", "confirm.failed", "sign_in"]
    assert {(one["who"], one["via"], one["address"]) for one in found[:4]} == {(EMAIL, "page", "127.0.0.1")}
    assert "a wrong one" not in json.dumps(found)


def test_ones_own_sign_outs_second_factor_and_secrets(surfer: Surfer, base: str) -> None:
    other = Surfer(base)
    other.sign_in()
    surfer.post("/account/sessions/end-others", csrf=surfer.token())
    surfer.post("/handlers/add/webhook", name="hook", webhook="https://hooks.example/a", is_enabled="1")
    surfer.get("/handlers/1/secret")
    surfer.post("/handlers/1/secret", csrf=surfer.token())
    surfer.post("/handlers/1/state", csrf=surfer.token())
    surfer.post("/handlers/1/delete")
    surfer.post("/sign-out", csrf=surfer.token())
    surfer.sign_in()
    expected = (
        "sign_in session.ended handler.deleted handler.paused secret.read secret.rotated secret.read handler.added session.others_ended"
    )
    assert [one["act"] for one in lines_of(surfer, path="/account/audit/export.jsonl") if one["act"] != "confirm"][:9] == expected.split()


# ------------------------------------------------------------------------------------------------- the API, the command line


def test_the_api_is_named_with_its_key(served: Service, surfer: Surfer) -> None:
    client = served.first()
    handler = client.add_handler("webhook", name="hook", webhook="https://hooks.example/a")
    client.change(handler, name="renamed", webhook="https://hooks.example/b")
    client.change(handler, name="renamed", webhook="https://hooks.example/b")
    client.handler(handler)
    client.get("/api/notification-handlers")
    client.get(f"/api/notification-handlers/{handler}/secret")
    assert client.delete(f"/api/notification-handlers/{handler}").status == 200
    found = [one for one in lines_of(surfer) if one["via"] == "api"]
    assert [one["act"] for one in found] == [
        "handler.deleted",
        "secret.read",
        "handler.settings_read",
        "handler.changed",
        "handler.added",
    ]
    assert {(one["who"], one["key_id"], one["address"]) for one in found} == {(EMAIL, 1, "127.0.0.1")}
    assert found[3]["detail"] == {"type": "webhook", "fields": ["name", "webhook"]}


def test_a_narrow_key_reads_nothing_in_the_clear_and_so_leaves_no_entry(served: Service, surfer: Surfer) -> None:
    client = served.client("handlers:read", "handlers:write")
    handler = client.add_handler("webhook", webhook="https://hooks.example/a")
    client.handler(handler)
    assert [one["act"] for one in lines_of(surfer) if one["via"] == "api"] == ["handler.added"]


def test_the_command_line_is_marked_as_such_and_lists_them(served: Service, surfer: Surfer) -> None:
    for words in (["users", "add", "new@example.com"], ["keys", "add", "cron", "--user", EMAIL], ["keys", "revoke", "cron"]):
        assert served.run("tocsin", *words).returncode == 0
    assert served.run("tocsin", "backup", str(served.folder / "copy.db")).returncode == 0
    found = said_by(served, "--via", "command", "--limit", "0")
    assert [one["act"] for one in found] == ["store.backed_up", "key.revoked", "key.added", "user.link_made", "user.added"]
    assert all(one["who"] for one in found)
    assert said_by(served, "--act", "key", "--limit", "1") == found[1:2]
    assert said_by(served, "--user", "new@", "--act", "user.added", "--since", "2020-01-01", "--until", "2100-01-01 00:00:00") == found[4:]
    assert said_by(served, "--until", "2020-01-01") == []
    table = served.run("tocsin", "audit").stdout
    assert "TIME (UTC)" in table and "cron" in table and "scopes: all" in table
    wrong = served.run("tocsin", "audit", "--since", "2020-13-01")
    assert wrong.returncode == 2 and "no such day" in wrong.stderr
    assert {one["id"] for one in found} <= {one["id"] for one in lines_of(surfer)}


def test_options_that_differ_from_the_last_start_are_named_without_their_values(start_service: Starter) -> None:
    service = start_service(**SIGN_IN, TOCSIN_METRICS_TOKEN="the-first-secret-value")
    assert said_by(service, "--act", "service") == []
    for token, days in (("the-first-secret-value", "30"), ("the-second-secret-value", "31"), ("the-second-secret-value", "31")):
        service.kill()
        service.environ |= {"TOCSIN_METRICS_TOKEN": token, "TOCSIN_RETENTION_DAYS": days}
        service.start()
    assert [one["detail"] for one in said_by(service, "--act", "service")] == [
        {"options": ["TOCSIN_METRICS_TOKEN", "TOCSIN_RETENTION_DAYS"]}
    ]
    assert service.run("tocsin", "secrets", "rotate").returncode == 0
    service.kill()
    service.environ["TOCSIN_RETENTION_DAYS"] = "32"
    service.start()
    assert [one["detail"] for one in said_by(service, "--act", "service", "--limit", "1")] == [{"options": ["TOCSIN_RETENTION_DAYS"]}]
    assert b"-secret-value" not in (service.data / "tocsin.db").read_bytes()


# ------------------------------------------------------------------------------------------------------ nothing secret


@pytest.fixture(scope="module")
def everything_done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service with a handler of every type, through whose settings all was done that is written down."""
    service = Service(tmp_path_factory.mktemp("audited"), **SIGN_IN).start()
    try:
        client = service.first()
        surfer = Surfer(f"http://127.0.0.1:{service.port}")
        surfer.sign_in()
        for kind in CHANNELS:
            samples = importlib.import_module(f"channels.test_{kind}").SAMPLES
            for settings in samples:
                handler = client.add_handler(kind, name=f"a {kind}", **settings)
            for settings in samples:
                client.change(handler, **settings)
            client.handler(handler)
            client.post(f"/api/notification-handlers/{handler}/secret")
            surfer.get(f"/handlers/{handler}/secret")
            surfer.post(f"/handlers/{handler}/edit", name=f"edited {kind}", **samples[0])
            client.post(f"/api/notification-handlers/{handler}/test")
            client.delete(f"/api/notification-handlers/{handler}")
        yield service, surfer
    finally:
        service.kill()


@pytest.mark.parametrize("kind", CHANNELS)
def test_nothing_of_a_handlers_settings_is_in_it(everything_done: tuple[Service, Surfer], kind: str) -> None:
    _, surfer = everything_done
    found = [one for one in lines_of(surfer) if kind in (one["detail"].get("type"), one["name"])]
    assert {one["act"] for one in found} >= {"handler.added", "handler.deleted"}
    said = json.dumps(found, ensure_ascii=False)
    samples = importlib.import_module(f"channels.test_{kind}").SAMPLES
    assert SECRET_TOKEN not in said
    assert [value for settings in samples for value in settings.values() if value in said] == []
    assert any(set(one["detail"].get("fields", ())) & set(samples[0]) for one in found)


def test_no_password_key_link_or_signing_secret_is_in_it(everything_done: tuple[Service, Surfer]) -> None:
    service, surfer = everything_done
    key = re.findall(r"tk_\w{20,}", surfer.post("/keys", csrf=surfer.token(), name="new", scopes=[*SCOPES]).text)[0]
    link = re.findall(r"/sign-in/([\w-]{20,})", surfer.post("/users", csrf=surfer.token(), email="invited@example.com").text)[0]
    Surfer(surfer.base).post("/sign-in", email="nobody@example.com", password="a typed password")
    Surfer(surfer.base).post("/sign-in", email="a password in the wrong field", password="x")
    said = surfer.get("/audit/export.jsonl").text + surfer.get("/audit").text
    assert "sign_in.failed" in said and "invited@example.com" in said
    for secret in (PASSWORD, key, link, "a typed password", "a password in the wrong field", "nobody@example.com", "whsec_"):
        assert secret not in said
    [rows] = service.rows("SELECT group_concat(detail || name || who || whose || address) FROM audit")
    assert not [secret for secret in (SECRET_TOKEN, PASSWORD, key, link, "a typed password", "whsec_") if secret in str(rows)]


# ---------------------------------------------------------------------------------------------------------- fail2ban


def failregex() -> re.Pattern[str]:
    """As fail2ban reads it: `<HOST>` is an address."""
    [written] = re.findall(r"^failregex = (.*)$", PROXIES.read_text(encoding="utf-8"), re.MULTILINE)
    return re.compile(written.replace("<HOST>", r"(?P<host>[0-9A-Fa-f:.]+)"))


def test_the_documented_filter_finds_each_failure_by_its_address(start_service: Starter) -> None:
    service = start_service(TOCSIN_TRUSTED_PROXIES="127.0.0.0/8", TOCSIN_LOG_FORMAT="json", **SIGN_IN)
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    surfer.post("/sign-in", headers={"X-Forwarded-For": "203.0.113.9:4001"}, email=EMAIL, password="a wrong secret")
    surfer.post("/sign-in", headers={"X-Forwarded-For": "2001:db8::7"}, email="nobody@example.com", password="a wrong secret")
    surfer.post("/sign-in/nonsense", headers={"X-Forwarded-For": "203.0.113.10"}, csrf=surfer.token("/sign-in/nonsense"))
    surfer.get("/api/notifications", authorization="Bearer tk_wrong", x_forwarded_for="198.51.100.7")
    fooling = "/api/%22,%22address%22:%22198.51.100.99%22,%22event%22:%22sign_in.failed%22"
    surfer.get(f"/api/notifications{fooling}", x_forwarded_for="198.51.100.8")
    surfer.get(f"{fooling}?address=198.51.100.99", authorization="Bearer tk_wrong", x_forwarded_for="198.51.100.8")
    surfer.get("/api/notifications", x_forwarded_for="198.51.100.9")
    until(lambda: '"198.51.100.9"' in service.log())
    found = [match["host"] for line in service.log().splitlines() if (match := failregex().search(line))]
    assert found == ["203.0.113.9", "2001:db8::7", "203.0.113.10", "198.51.100.7", "198.51.100.9"]
    rows = service.rows("SELECT act, address, owner_id FROM audit WHERE user_id IS NULL AND via IN ('page', 'api') ORDER BY id")
    assert rows == [
        ("sign_in.failed", "203.0.113.9", 1),
        ("sign_in.failed", "2001:db8::7", None),
        ("sign_in.failed", "203.0.113.10", None),
        ("key.refused", "198.51.100.7", None),
    ]
