"""What the pages must never do: leak, believe, or let somebody else act."""

import base64
import json
import re
from html import unescape

import pytest

from e2e.conftest import Starter
from e2e.service import Service, until
from receiver import Receiver
from tocsin.model import MASK
from web.conftest import EMAIL, PASSWORD, Surfer

SECRET = "hookSecretThatNobodyShallSee"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"
PAGES = (
    "/",
    "/handlers/add",
    "/handlers/add/webhook",
    "/log",
    "/send",
    "/keys",
    "/account",
    "/users",
    "/workers",
    "/docs",
    "/ko/docs",
    "/sign-in",
    "/nowhere",
)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_the_headers(shared_surfer: Surfer, path: str) -> None:
    headers = shared_surfer.get(path).headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert (headers["x-frame-options"], headers["x-content-type-options"], headers["cache-control"]) == ("DENY", "nosniff", "no-store")
    assert headers["referrer-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert "require-trusted-types-for 'script'; trusted-types tocsin default" in policy
    assert "cross-origin-opener-policy" not in headers  # over plain http it is ignored, with a warning on the console


def test_no_page_has_anything_inline(surfer: Surfer, served: Service) -> None:
    served.first().add_handler("webhook", webhook="https://example.com/x")
    for path in (*PAGES, "/handlers/1", "/handlers/1/edit", "/handlers/1/delete"):
        text = surfer.get(path).text
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", text), path


def test_cookies_are_out_of_reach_and_secure_behind_tls(start_service: Starter) -> None:
    service = start_service(
        TOCSIN_BOOTSTRAP_EMAIL=EMAIL, TOCSIN_BOOTSTRAP_PASSWORD=PASSWORD, TOCSIN_TRUSTED_PROXIES="127.0.0.0/8", TOCSIN_ALLOW_NETWORKS=""
    )
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    plain = surfer.get("/sign-in").headers.get_all("set-cookie")
    assert plain and all("HttpOnly" in one and "SameSite=lax" in one and "Secure" not in one for one in plain)
    secure = (
        Surfer(surfer.base).get("/sign-in", x_forwarded_proto="https", x_forwarded_host="tocsin.example.com").headers.get_all("set-cookie")
    )
    assert secure and all("Secure" in one for one in secure)
    behind = Surfer(surfer.base).get("/sign-in", x_forwarded_proto="https", x_forwarded_host="tocsin.example.com")
    assert behind.headers["cross-origin-opener-policy"] == "same-origin"


def test_forwarded_headers_of_strangers_are_not_believed(shared_base: str) -> None:
    page = Surfer(shared_base).get("/docs", x_forwarded_host="evil.example.com", x_forwarded_proto="https").text
    assert "evil.example.com" not in page


def test_a_change_needs_the_token_of_its_own_session(shared_surfer: Surfer, shared_base: str) -> None:
    stranger = Surfer(shared_base)
    for csrf in ("", "0" * 64, stranger.token("/sign-in")):
        answer = shared_surfer.post("/keys", csrf=csrf, name="stolen", scopes="handlers:read")
        assert answer.status == 403
    ours = shared_surfer.token()
    for headers in ({"Origin": "https://evil.example.com"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        assert shared_surfer.post("/keys", csrf=ours, headers=headers, name="stolen", scopes="handlers:read").status == 403
    assert "stolen" not in shared_surfer.get("/keys").text
    assert shared_surfer.post("/keys", csrf=ours, headers={"Origin": shared_base}, name="mine", scopes="handlers:read").status == 200


def test_nobody_gets_in_without_signing_in(shared_base: str) -> None:
    stranger = Surfer(shared_base)
    for path in ("/", "/log", "/keys", "/users", "/handlers/1", "/deliveries/1", "/log/export.csv"):
        assert stranger.get(path).path == "/sign-in", path
    assert stranger.post("/keys", csrf=stranger.token("/sign-in"), name="x", scopes="handlers:read").path == "/sign-in"


def test_signing_in_does_not_tell_whether_there_is_such_an_account(shared_base: str) -> None:
    def told(email: str) -> tuple[int, str]:
        answer = Surfer(shared_base).sign_in(email, "wrong password")
        return answer.status, re.sub(r"[0-9a-f]{64}", "", answer.text.replace(email, ""))

    assert told(EMAIL) == told("nobody@example.com")
    assert told(EMAIL)[0] == 422


def test_guessing_is_slowed_down(base: str) -> None:
    statuses = [Surfer(base).sign_in(EMAIL, f"guess {number}").status for number in range(8)]
    assert statuses[:5] == [422] * 5 and 429 in statuses[5:]
    refused = Surfer(base).sign_in()  # even the right one has to wait now
    assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1


def test_a_session_is_new_after_signing_in_and_ends_everywhere(surfer: Surfer, base: str) -> None:
    def session(one: Surfer) -> str:
        return next(cookie.value or "" for cookie in one.cookies if cookie.name == "tocsin_session")

    other = Surfer(base)
    other.sign_in()
    first = session(other)
    other.sign_in()
    second = session(other)
    assert second != first
    other.cookies.clear()
    assert other.get("/", cookie=f"tocsin_session={first}").path == "/sign-in"  # the old one is useless to somebody who has seen it
    assert other.get("/", cookie=f"tocsin_session={second}").path == "/"
    other.sign_in()
    surfer.post("/account/sessions/end-others", csrf=surfer.token())
    assert (surfer.get("/").path, other.get("/").path) == ("/", "/sign-in")


def test_a_new_password_ends_all_other_sessions(surfer: Surfer, base: str) -> None:
    other = Surfer(base)
    other.sign_in()
    wrong = surfer.post("/account/password", csrf=surfer.token(), old="wrong", new="another long password")
    assert wrong.status == 422
    short = surfer.post("/account/password", csrf=surfer.token(), old=PASSWORD, new="short")
    assert short.status == 422
    assert surfer.post("/account/password", csrf=surfer.token(), old=PASSWORD, new="another long password").path == "/account"
    assert surfer.get("/").path == "/" and other.get("/").path == "/sign-in"
    assert Surfer(base).sign_in().status == 422
    assert Surfer(base).sign_in(password="another long password").path == "/"


def test_it_leads_back_to_where_one_wanted_to_go_and_nowhere_else(shared_base: str) -> None:
    def lands(wanted: str) -> str:
        surfer = Surfer(shared_base)
        token = surfer.token("/sign-in")
        return surfer.post(f"/sign-in?to={wanted}", csrf=token, stay=True, email=EMAIL, password=PASSWORD).headers["location"]

    assert lands("/log%3Fstatus=failed") == "/log?status=failed"
    for elsewhere in ("https://evil.example.com", "//evil.example.com", "/%5Cevil.example.com", "javascript:alert(1)"):
        assert lands(elsewhere) == "/"


def test_what_users_and_providers_write_is_text_everywhere(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    client = served.first()
    receiver.answer("/hook", 400, body=HOSTILE.encode())
    handler = client.add_handler("webhook", HOSTILE, webhook=receiver.url("/hook"))
    fields = {"title": HOSTILE, "url": "https://example.com/?<x>", "fields": {HOSTILE: HOSTILE}}
    [delivery] = client.settled(client.send(HOSTILE, handlers=[handler], **fields))
    surfer.post("/keys", csrf=surfer.token(), name=HOSTILE, scopes="handlers:read")
    paths = ["/", f"/handlers/{handler}", f"/handlers/{handler}/edit", f"/handlers/{handler}/delete", "/log", "/send", "/keys"]
    paths += [
        f"/deliveries/{delivery['id']}",
        f"/notifications/{delivery['notification_id']}",
        f"/?search={HOSTILE[:8]}",
        f"/log?search={HOSTILE[:8]}",
    ]
    for path in paths:
        text = surfer.get(path.replace("<", "%3C").replace(">", "%3E")).text
        assert "<script>alert" not in text and "<img src=x" not in text, path
        assert "onerror=alert(2)>{{7*7}}" in unescape(text), path  # as it was written, and not reckoned
    trial = surfer.post(f"/handlers/{handler}/test", csrf=surfer.token()).text
    assert "<script>alert" not in trial and "&lt;script&gt;" in trial


def test_headers_of_a_webhook_reach_it_and_nobody_else(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    """Even where the receiver repeats them: not the log, pages, previews, tests, deliveries, nor the curl line."""
    token, word = "t0ken-of-headers-0123456789", "s3cret-of-basic"
    basic = base64.b64encode(f"somebody:{word}".encode()).decode()
    values = {"Authorization": f"Bearer {token}", "X-Backup": f"Basic {basic}", "X-Odd": "12"}
    headers = "\n".join(map(": ".join, values.items()))
    client = served.first()
    echo = json.dumps({"detail": f"{token} is wrong", "headers": values, "password": word}).encode()
    receiver.answer("/hook", 403, body=echo)
    handler = client.add_handler("webhook", "echo", webhook=receiver.url("/hook"), webhook_headers=headers)
    tested = client.post(f"/api/notification-handlers/{handler}/test").content.decode()
    notification = client.send("about disks", handlers=[handler])
    until(lambda: client.deliveries(notification)[0]["attempt_count"], 10)
    [request, *_] = receiver.requests
    assert {name: request.headers[name.lower()] for name in values} == values
    delivery = client.deliveries(notification)[0]["id"]
    shown = {
        path: surfer.get(path).text
        for path in (
            "/",
            f"/handlers/{handler}",
            f"/handlers/{handler}/edit",
            "/log",
            f"/deliveries/{delivery}",
            f"/notifications/{notification}",
        )
    }
    shown["preview"] = client.post(f"/api/notification-handlers/{handler}/preview", {"message": "x"}).content.decode()
    shown |= {
        "test": tested,
        "delivery": json.dumps(client.delivery(delivery)),
        "log": served.log(),
        "metrics": client.get("/metrics").content.decode(),
    }
    assert "X-Odd" in shown[f"/deliveries/{delivery}"] and "Authorization" in shown["test"]
    for where, text in shown.items():
        for secret in (token, basic, word):
            assert secret not in text, where
        assert "X-Odd: 12" not in text, where
    saved = surfer.post(
        f"/handlers/{handler}/edit", name="echo", webhook="", webhook_headers=f"Authorization: {MASK}\r\nX-Odd: 13\r\n", do="save"
    )
    assert saved.path == f"/handlers/{handler}"
    assert client.handler(handler)["settings"]["webhook_headers"] == f"Authorization: Bearer {token}\nX-Odd: 13"
    surfer.post(f"/handlers/{handler}/edit", name="echo", webhook="", webhook_headers="", do="save")
    assert list(client.handler(handler)["settings"]) == ["webhook"]


def test_stored_secrets_are_in_no_page(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    client = served.first()
    handler = client.add_handler("webhook", webhook=receiver.url(f"/{SECRET}"))
    [delivery] = client.settled(client.send("x", handlers=[handler]))
    token = surfer.token()
    texts = [
        surfer.get(path).text
        for path in ("/", f"/handlers/{handler}", f"/handlers/{handler}/edit", "/log", f"/deliveries/{delivery['id']}")
    ]
    texts += [surfer.post(f"/handlers/{handler}/test", csrf=token).text]
    texts += [surfer.post("/send/preview", csrf=token, message="x", severity="info").text]
    texts += [surfer.post(f"/handlers/{handler}/edit", csrf=token, name="x", do="test").text]
    assert not any(SECRET in text for text in texts)
    assert "••••" in texts[1]
    assert surfer.post(f"/handlers/{handler}/edit", csrf=token, name="renamed", webhook="", do="save").path == f"/handlers/{handler}"
    assert SECRET in client.handler(handler)["settings"]["webhook"]


def test_what_was_typed_comes_back_after_a_fault_or_a_test_and_what_is_stored_does_not(surfer: Surfer, receiver: Receiver) -> None:
    stored = {"x_consumer_key": "storedKey1", "x_consumer_secret": "storedSecret2", "x_access_token": "1-stored3"}
    typed = {"x_consumer_key": "typedKey1", "x_consumer_secret": "typedSecret2", "x_access_token": "1-typed3"}
    path = "/handlers/add/x"
    for form in ({"name": ""}, {"name": "x", "do": "test"}):
        answer = surfer.post(path, **form, **typed, x_access_token_secret="typedSecret4")
        assert all(f'value="{value}"' in answer.text for value in (*typed.values(), "typedSecret4")), form
        assert answer.headers["cache-control"] == "no-store" and not any(value in surfer.get(path).text for value in typed.values())
    assert surfer.post(path, name="x", do="save", **stored, x_access_token_secret="storedSecret4").path == "/handlers/1"
    for form in ({"name": ""}, {"name": "x", "do": "test"}):
        answer = surfer.post("/handlers/1/edit", **form, x_access_token="1-typed3")
        assert 'value="1-typed3"' in answer.text and not any(value in answer.text for value in (*stored.values(), "storedSecret4"))


def test_two_users_cannot_see_each_other(surfer: Surfer, served: Service, base: str, receiver: Receiver) -> None:
    client = served.first()
    handler = client.add_handler("webhook", "Mine alone", webhook=receiver.url("/hook"))
    [delivery] = client.settled(client.send("my secret plan", handlers=[handler]))
    invited = surfer.post("/users", csrf=surfer.token("/users"), email="second@example.com")
    link = re.search(r"http://[^<\s]+/sign-in/[\w-]+", unescape(invited.text))
    assert link
    other = Surfer(base)
    path = link[0].removeprefix(base)
    assert other.post(path).path == "/account"
    assert Surfer(base).post(path).status == 422  # it works once
    token = other.token()
    for seen in ("/", "/log", "/keys", "/send"):
        text = other.get(seen).text
        assert "Mine alone" not in text and "my secret plan" not in text, seen
    for gone in (
        f"/handlers/{handler}",
        f"/handlers/{handler}/edit",
        f"/deliveries/{delivery['id']}",
        f"/notifications/{delivery['notification_id']}",
        "/users",
        "/workers",
    ):
        assert other.get(gone).status == 404, gone
    for gone in (
        f"/handlers/{handler}/delete",
        f"/handlers/{handler}/test",
        f"/deliveries/{delivery['id']}/retry",
        "/keys/1/revoke",
        "/users",
    ):
        assert other.post(gone, csrf=token, email="x@example.com").status == 404, gone
    users = re.findall(r'action="/users/(\d+)/disable"', surfer.get("/users").text)
    surfer.post(f"/users/{users[0]}/disable", csrf=surfer.token())
    assert other.get("/").path == "/sign-in"
    assert client.get(f"/api/notification-handlers/{handler}").status == 200


def test_a_key_is_shown_once_and_can_do_what_it_may(surfer: Surfer, served: Service) -> None:
    shown = surfer.post("/keys", csrf=surfer.token(), name="deploy script", scopes="handlers:read")
    [key] = set(re.findall(r"tk_\w{43}", shown.text))
    assert key not in surfer.get("/keys").text
    client = served.first()
    client.key = key
    assert client.get("/api/notification-handlers").status == 200
    assert client.post("/api/notifications", {"message": "x"}).status == 403
    [key_id] = re.findall(r'href="/keys/(\d+)/revoke"', surfer.get("/keys").text)[:1]
    surfer.post(f"/keys/{key_id}/revoke", csrf=surfer.token())
    assert client.get("/api/notification-handlers").status == 401


def test_not_everything_is_sent_again_for_want_of_a_filter(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    client = served.first()
    receiver.answer("/hook", 410)
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    client.settled(client.send("x", handlers=[handler]))
    token = surfer.token()
    for query in ("", "status=nonsense", "status=failed&from=yesterday", "handler=x"):
        assert surfer.post(f"/log/replay?{query}", csrf=token).status == 422, query
        assert "Send again" not in surfer.get(f"/log/replay?{query}").text
    assert surfer.post("/log/replay?status=failed", csrf=token).path == "/log"


def test_the_link_of_the_command_line_signs_in_once(served: Service, base: str) -> None:
    added = served.run("tocsin", "users", "add", "new@example.com")
    [path] = re.findall(r"http://[^/]+(/sign-in/[\w-]+)", added.stdout)
    other = Surfer(base)
    assert other.get(path).path == path  # looking at it does not use it up
    assert other.post(path).path == "/account"
    assert Surfer(base).post(path).status == 422


def test_a_link_for_somebody_with_a_password_leads_to_the_pages(served: Service, base: str) -> None:
    """Nothing is to be set: the link of the demo is one."""
    with served.admin() as admin:
        token = admin.sign_in_token(EMAIL)
    assert Surfer(base).post(f"/sign-in/{token}").path == "/"


def test_an_export_holds_no_formula(surfer: Surfer, served: Service, receiver: Receiver) -> None:
    client = served.first()
    handler = client.add_handler("webhook", "=cmd()", webhook=receiver.url("/hook"))
    client.settled(client.send("x", title="=HYPERLINK(1)", handlers=[handler]))
    lines = surfer.get("/log/export.csv").text.splitlines()
    assert len(lines) == 2 and "'=HYPERLINK(1)" in lines[1] and "'=cmd()" in lines[1]
    [row] = [json.loads(line) for line in surfer.get("/log/export.jsonl?status=delivered").text.splitlines()]
    assert (row["title"], row["status"], row["handler"]) == ("=HYPERLINK(1)", "delivered", "=cmd()")
    assert surfer.get("/log/export.xml").status == 404


def test_nonsense_in_a_query_string_is_no_fault_of_ours(shared_surfer: Surfer) -> None:
    for query in (
        "before=-1",
        "before=x",
        "before=999999999999999999",
        "handler=x",
        "status=x",
        "reason=x",
        "severity=x",
        "from=x",
        "to=9999-99-99",
        "lang=x",
        "search=%00",
    ):
        assert shared_surfer.get(f"/log?{query}").status == 200, query
    assert shared_surfer.get("/?page=0&search=%FF").status == 200
    assert shared_surfer.get("/deliveries/99999999999999999999999").status == 404
    assert shared_surfer.get("/handlers/add/pigeon").status == 404


def test_a_form_that_is_too_large_or_nonsense_is_refused(shared_surfer: Surfer, shared_base: str) -> None:
    stranger = Surfer(shared_base)
    assert stranger.post("/sign-in", csrf="x", email="x" * 2_000_000).status == 413
    assert stranger.post("/sign-in", csrf="x", email=["x"] * 3000).status == 413
    assert stranger.post("/sign-in", csrf="é한\0\ud800".encode("utf-8", "surrogatepass"), email="x").status == 403
    made = shared_surfer.post("/handlers/add/email", name="a\0b\nc", email="hey@example.com", do="save")
    assert made.status == 200 and "ab c" in made.text
    assert shared_surfer.post("/send", message="", csrf=shared_surfer.token()).status == 422
    assert shared_surfer.post("/send", message="x", severity="loud", csrf=shared_surfer.token()).status == 422
