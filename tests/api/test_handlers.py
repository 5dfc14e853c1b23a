"""Handlers beyond the reference document: rules, masks, filters, paging, tests and secrets."""

import re
import urllib.parse
from typing import Any

import pytest

from receiver import Receiver
from tocsin.model import MASK

PATH = "/api/notification-handlers"
SLACK = "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"
TOKEN = "123456:" + "A" * 35
X = {"x_consumer_key": "ck1", "x_consumer_secret": "cs1", "x_access_token": "at1", "x_access_token_secret": "ats1"}


def email(name: str = "Mail", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "email", "email": "hey@example.com", **more}


def add(client: Any, fields: dict[str, Any]) -> int:
    answer = client.post(PATH, fields)
    assert answer.status == 201, answer.content
    return answer.data["id"]


# ------------------------------------------------------------------------------------------------------------------ rules


def test_all_faults_at_once(client: Any) -> None:
    answer = client.post(PATH, {"type": "telegram", "telegram": "no token", "slack": SLACK, "colour": "red", "is_enabled": "maybe"})
    assert answer.status == 422
    assert sorted(answer.faults(), key=str) == sorted(
        [
            *[("required", "name"), ("unknown", "colour"), ("invalid", "is_enabled")],
            *[("wrong_type", "slack"), ("invalid", "telegram"), ("required", "telegram_chat_id")],
        ],
        key=str,
    )


def test_nothing_given(client: Any) -> None:
    for answer in (client.post(PATH, {}), client("POST", PATH), client("POST", PATH, b"", {"Content-Type": "text/plain"})):
        assert (answer.status, answer.faults()) == (422, [("required", "name"), ("required", "type")])


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"name": "   "}, ("required", "name")),
        ({"name": ""}, ("required", "name")),
        ({"name": None}, ("required", "name")),
        ({"name": "n" * 257}, ("too_long", "name")),
        ({"name": 5}, ("invalid", "name")),
        ({"name": "a\0b"}, ("unusable_text", "name")),
        ({"name": "a\ud800"}, ("unusable_text", "name")),
        ({"type": "carrier_pigeon"}, ("invalid_choice", "type")),
        ({"type": ["email"]}, ("invalid", "type")),
        ({"email": "no address"}, ("invalid", "email")),
        ({"email": ""}, ("required", "email")),
        ({"email": ["a@b.c"]}, ("invalid", "email")),
        ({"webhook": "https://example.com"}, ("wrong_type", "webhook")),
        ({"is_enabled": ""}, ("invalid", "is_enabled")),
        ({"is_enabled": 2}, ("invalid", "is_enabled")),
        ({"id": 5}, ("unknown", "id")),
        ({"\ud800": 5}, ("unknown", "\\ud800")),
        ({"x" * 500: 5}, ("unknown", "x" * 80 + "…")),
    ],
)
def test_one_fault(client: Any, more: dict[str, Any], fault: tuple[str, str]) -> None:
    answer = client.post(PATH, email(**more))
    assert (answer.status, answer.faults()) == (422, [fault])
    assert client.get(PATH).json["meta"]["total"] == 0


def test_what_is_accepted(client: Any) -> None:
    row = client.get(f"{PATH}/{add(client, email('  ' + 'n' * 256 + ' ', webhook='', is_enabled='OFF'))}").data
    assert (row["name"], row["is_enabled"]) == ("n" * 256, False)
    row = client.get(f"{PATH}/{add(client, email(chr(7) + 'bell', is_enabled=None))}").data
    assert (row["name"], row["is_enabled"]) == ("\x07bell", True)
    spaced = {"name": "T", "type": "telegram", "telegram": f" {TOKEN}\n", "telegram_chat_id": "\t42 "}
    assert client.get(f"{PATH}/{add(client, spaced)}").data["settings"] == {"telegram": TOKEN, "telegram_chat_id": "42"}
    assert client.get(f"{PATH}/{add(client, email(email=' a@b.de '))}").data["settings"] == {"email": "a@b.de"}
    chat = add(client, {"name": "T", "type": "telegram", "telegram": TOKEN, "telegram_chat_id": -100123})
    assert client.get(f"{PATH}/{chat}").data["settings"]["telegram_chat_id"] == "-100123"


def test_repeated_and_files(client: Any) -> None:
    assert client(
        "POST", PATH, '{"name":"a","name":"b","type":"email","email":"a@b.de"}', {"Content-Type": "application/json"}
    ).faults() == [("repeated", "name")]
    assert client.form(PATH, ("name", "a"), ("name", "b"), ("type", "email"), ("email", "a@b.de")).faults() == [("repeated", "name")]
    body = b'--b\r\nContent-Disposition: form-data; name="name"; filename="x"\r\n\r\nx\r\n--b--\r\n'
    answer = client("POST", PATH, body, {"Content-Type": "multipart/form-data; boundary=b"})
    assert ("file", "name") in answer.faults()


def test_changing_type(client: Any) -> None:
    handler_id = add(client, email())
    answer = client.post(f"{PATH}/{handler_id}", {"type": "telegram", "telegram": TOKEN})
    assert (answer.status, answer.faults()) == (422, [("required", "telegram_chat_id")])
    assert client.post(f"{PATH}/{handler_id}", {"type": "slack", "slack": SLACK}).status == 200
    row = client.get(f"{PATH}/{handler_id}").data
    assert (row["type"], row["name"], row["settings"]) == ("slack", "Mail", {"slack": SLACK})
    assert client.post(f"{PATH}/{handler_id}", {"email": "a@b.de"}).faults() == [("wrong_type", "email")]
    assert client.post(f"{PATH}/{handler_id}", {}).status == 200
    assert client("POST", f"{PATH}/{handler_id}").data == {"id": handler_id}


def test_ids_are_never_used_twice(client: Any) -> None:
    first = add(client, email())
    assert client.delete(f"{PATH}/{first}").status == 200
    assert add(client, email()) > first


# ------------------------------------------------------------------------------------------------------------------ masks


def test_masks(server: Any, client: Any) -> None:
    reader = server.narrowed(client, "handlers:read", "handlers:write")
    ids = [
        add(client, {"name": "S", "type": "slack", "slack": SLACK}),
        add(client, {"name": "T", "type": "telegram", "telegram": TOKEN, "telegram_chat_id": "@chan"}),
        add(client, {"name": "X", "type": "x", **X}),
        add(client, {"name": "W", "type": "webhook", "webhook": "https://user:pw@example.com/secret?token=1"}),
        add(client, email()),
    ]
    shown = [client.get(f"{PATH}/{one}").data["settings"] for one in ids]
    masked = [reader.get(f"{PATH}/{one}").data["settings"] for one in ids]
    assert shown[0] == {"slack": SLACK} and shown[2] == X
    assert masked[1] == {"telegram": f"123456:{MASK}", "telegram_chat_id": "@chan"}
    assert masked[2] == dict.fromkeys(X, MASK)
    assert masked[3] == {"webhook": f"https://example.com/{MASK}"}
    assert masked[4] == {"email": "hey@example.com"}
    assert (
        masked[0]["slack"].endswith(MASK) and masked[0]["slack"].startswith("https://hooks.slack.com/") and "XXXX" not in masked[0]["slack"]
    )
    assert [row["settings"] for row in reader.get(PATH).json["data"]] == masked

    for one, settings in zip(ids, masked, strict=True):
        assert reader.post(f"{PATH}/{one}", {**settings, "name": "renamed"}).status == 200
    assert [client.get(f"{PATH}/{one}").data["settings"] for one in ids] == shown
    assert client.post(f"{PATH}/{ids[1]}", {"telegram": f"999:{MASK}"}).faults() == [("masked", "telegram")]
    assert client.post(f"{PATH}/{ids[2]}", {"x_consumer_key": "a••"}).faults() == [("masked", "x_consumer_key")]
    assert client.post(PATH, {"name": "S", "type": "slack", "slack": masked[0]["slack"]}).faults() == [("masked", "slack")]


def test_an_optional_setting_is_there_only_once_set(client: Any) -> None:
    """A client of the reference document sees what it saw."""
    one = add(client, {"name": "T", "type": "telegram", "telegram": TOKEN, "telegram_chat_id": "-100123"})
    plain = {"telegram": TOKEN, "telegram_chat_id": "-100123"}
    path = f"{PATH}/{one}"
    assert client.get(path).data["settings"] == plain
    assert client.post(path, {"telegram_message_thread_id": 45}).status == 200
    assert list(client.get(path).data["settings"].items()) == [*plain.items(), ("telegram_message_thread_id", "45")]
    assert client.form(path, ("name", "renamed")).status == 200
    assert client.form(path, ("telegram_chat_id", "-100124")).status == 200
    assert client.get(path).data["settings"] == {**plain, "telegram_chat_id": "-100124", "telegram_message_thread_id": "45"}
    for empty in ((("telegram_message_thread_id", ""),), (("telegram_message_thread_id", ""), ("name", "again"))):
        assert client.form(path, *empty).status == 200
        assert client.get(path).data["settings"] == {**plain, "telegram_chat_id": "-100124"}
    given = {"name": "T", "type": "telegram", **plain, "telegram_message_thread_id": ""}
    assert client.get(f"{PATH}/{add(client, given)}").data["settings"] == plain
    assert client.post(path, {"telegram_message_thread_id": "0"}).faults() == [("invalid", "telegram_message_thread_id")]
    assert client.post(path, {"telegram_chat_id": "-100123:45"}).faults() == [("invalid", "telegram_chat_id")]
    assert client.post(PATH, email(telegram_message_thread_id="45")).faults() == [("wrong_type", "telegram_message_thread_id")]


def test_headers_are_masked_line_by_line(server: Any, client: Any) -> None:
    headers = "Authorization: Bearer t0ken-of-mine\nX-Tenant: 12"
    one = add(client, {"name": "W", "type": "webhook", "webhook": "https://example.com/x", "webhook_headers": headers})
    path, reader = f"{PATH}/{one}", server.narrowed(client, "handlers:read", "handlers:write")
    shown = {"webhook": f"https://example.com/{MASK}", "webhook_headers": f"Authorization: {MASK}\nX-Tenant: {MASK}"}
    assert reader.get(path).data["settings"] == shown
    for kept in (shown["webhook_headers"], f"authorization: {MASK}\r\nX-Tenant: 12\r\n"):
        assert reader.post(path, {"webhook_headers": kept}).status == 200
        assert client.get(path).data["settings"]["webhook_headers"].lower() == headers.lower()
    assert reader.post(path, {"webhook_headers": f"X-Tenant: {MASK}\nX-New: 1"}).status == 200
    assert client.get(path).data["settings"]["webhook_headers"] == "X-Tenant: 12\nX-New: 1"
    for wrong in (f"X-Other: {MASK}", f"X-Tenant: a{MASK}", MASK):
        assert reader.post(path, {"webhook_headers": wrong}).faults() == [("masked", "webhook_headers")]
    assert reader.post(path, {"webhook_headers": "Host: example.com"}).faults() == [("invalid", "webhook_headers")]
    assert reader.post(path, {"webhook_headers": ""}).status == 200
    assert client.get(path).data["settings"] == {"webhook": "https://example.com/x"}
    new = {"name": "W", "type": "webhook", "webhook": "https://example.com/x", "webhook_headers": shown["webhook_headers"]}
    assert client.post(PATH, new).faults() == [("masked", "webhook_headers")]


@pytest.mark.parametrize(
    ("scopes", "method", "path", "lacks"),
    [
        (["handlers:write"], "GET", PATH, "handlers:read"),
        (["handlers:read"], "POST", PATH, "handlers:write"),
        (["handlers:read"], "DELETE", f"{PATH}/1", "handlers:write"),
        (["handlers:read"], "POST", f"{PATH}/1/test", "handlers:write"),
        (["handlers:read"], "POST", f"{PATH}/test", "handlers:write"),
        (["handlers:read", "handlers:write"], "GET", f"{PATH}/1/secret", "deliveries:read"),
        (["handlers:read", "handlers:write"], "POST", f"{PATH}/1/secret", "notifications:send"),
        (["handlers:read"], "POST", "/api/notifications", "notifications:send"),
        (["handlers:read"], "POST", "/api/notifications/batch", "notifications:send"),
        (["notifications:send"], "GET", "/api/notifications", "deliveries:read"),
        (["deliveries:read"], "DELETE", "/api/notifications/1", "deliveries:write"),
        (["deliveries:write"], "GET", "/api/deliveries/1", "deliveries:read"),
        (["deliveries:read"], "POST", "/api/deliveries/1/retry", "deliveries:write"),
        (["deliveries:read"], "POST", "/api/deliveries/retry", "deliveries:write"),
    ],
)
def test_scopes(server: Any, scopes: list[str], method: str, path: str, lacks: str) -> None:
    answer = server.client(*scopes)(method, path)
    assert (answer.status, answer.faults()) == (403, [("forbidden", None)])
    assert lacks in answer.json["errors"][0]["detail"]


def test_a_key_without_named_scopes_has_all(server: Any) -> None:
    client = server.client()
    assert client.get(f"{PATH}/{add(client, {'name': 'S', 'type': 'slack', 'slack': SLACK})}").data["settings"] == {"slack": SLACK}


# --------------------------------------------------------------------------------------------------- another user's things


@pytest.mark.parametrize(
    ("method", "end"), [("GET", ""), ("POST", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/secret"), ("POST", "/secret")]
)
def test_anothers_is_as_missing(server: Any, client: Any, method: str, end: str) -> None:
    theirs = add(server.client(), {"name": "W", "type": "webhook", "webhook": "https://example.com/"})
    answers = [client(method, f"{PATH}/{one}{end}") for one in (theirs, 2**62, 2**63, 10**30, 0, -1)]
    assert {answer.status for answer in answers} == {404}
    assert {answer.content for answer in answers} == {answers[0].content}
    assert answers[0].faults() == [("not_found", None)]
    assert client.get(PATH).json["data"] == []


@pytest.mark.parametrize("text", ["abc", "1.0", "%31x", "１", "1%20", "+1", "0x1", "{id}", "%00", "%ed%a0%80", "x" * 300])
def test_an_id_that_is_no_number(client: Any, text: str) -> None:
    answer = client.get(f"{PATH}/{urllib.parse.quote(text, safe='%+')}")
    assert (answer.status, answer.faults()) == (400, [("invalid_id", "id")])


def test_leading_zeros_are_a_number(client: Any) -> None:
    handler_id = add(client, email())
    assert client.get(f"{PATH}/000{handler_id}").data["id"] == handler_id


# ---------------------------------------------------------------------------------------------------------------- filters


@pytest.fixture
def many(client: Any) -> list[int]:
    ids = [add(client, email(f"Mail {letter}", is_enabled=letter != "b")) for letter in "cab"]
    return [*ids, add(client, {"name": "100% Slack_", "type": "slack", "slack": SLACK})]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", [0, 1, 2, 3]),
        ("order_by=name", [3, 1, 2, 0]),
        ("order_by=name&order_type=DESC", [0, 2, 1, 3]),
        ("order_by=notification_handler_id&order_type=DESC", [3, 2, 1, 0]),
        ("order_by=datetime", [0, 1, 2, 3]),
        ("is_enabled=0", [2]),
        ("is_enabled=TRUE", [0, 1, 3]),
        ("type=slack", [3]),
        ("type=webhook", []),
        ("search=mAiL", [0, 1, 2]),
        ("search=mail+a&search_by=name", [1]),
        ("search=%25", [3]),
        ("search=_", [3]),
        ("search=", [0, 1, 2, 3]),
        ("search=nothing", []),
        ("datetime_start=2000-01-01+00:00:00", [0, 1, 2, 3]),
        ("datetime_end=2000-01-01+00:00:00", []),
        ("datetime_start=2000-01-01T00:00:00Z&datetime_field=last_datetime", []),
        ("type=email&is_enabled=yes&order_by=name", [1, 0]),
    ],
)
def test_filters(client: Any, many: list[int], query: str, wanted: list[int]) -> None:
    answer = client.get(f"{PATH}?{query}")
    assert answer.status == 200, answer.content
    assert [row["id"] for row in answer.json["data"]] == [many[index] for index in wanted]
    assert answer.json["meta"]["total"] == len(wanted)


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("colour=red", ("unknown", "colour")),
        ("page=1&page=1", ("repeated", "page")),
        ("page=", ("empty", "page")),
        ("page", ("empty", "page")),
        ("page=0", ("invalid", "page")),
        ("page=-1", ("invalid", "page")),
        ("page=one", ("invalid", "page")),
        ("page=1.0", ("invalid", "page")),
        ("page=1000000001", ("invalid", "page")),
        ("results_per_page=11", ("invalid_choice", "results_per_page")),
        ("results_per_page=2000", ("invalid_choice", "results_per_page")),
        ("is_enabled=maybe", ("invalid", "is_enabled")),
        ("is_enabled=", ("empty", "is_enabled")),
        ("type=fax", ("invalid_choice", "type")),
        ("search_by=settings", ("invalid_choice", "search_by")),
        ("search=a%00b", ("unusable_text", "search")),
        ("search=" + "a" * 1025, ("too_long", "search")),
        ("search=%ff", ("unreadable", None)),
        ("datetime_start=yesterday", ("invalid", "datetime_start")),
        ("datetime_end=2026-11-23", ("invalid", "datetime_end")),
        ("datetime_field=id", ("invalid_choice", "datetime_field")),
        ("order_by=settings", ("invalid_choice", "order_by")),
        ("order_type=asc", ("invalid_choice", "order_type")),
    ],
)
def test_bad_queries(client: Any, query: str, fault: tuple[str, str]) -> None:
    answer = client.get(f"{PATH}?{query}")
    assert (answer.status, answer.faults()) == (400, [fault])
    assert all(one["status"] == "400" for one in answer.json["errors"])


def test_all_query_faults_at_once(client: Any) -> None:
    faults = client.get(f"{PATH}?page=x&colour=red&type=fax&search=a&search=b").faults()
    assert sorted(faults) == [("invalid", "page"), ("invalid_choice", "type"), ("repeated", "search"), ("unknown", "colour")]
    assert client.get(f"{PATH}/abc?x=1").faults() == [("unknown", "x"), ("invalid_id", "id")]
    assert client.post(f"{PATH}?x=1", {"type": "email", "email": "a@b.de"}).faults() == [("unknown", "x"), ("required", "name")]


# ----------------------------------------------------------------------------------------------------------------- paging


def links(answer: Any) -> dict[str, Any]:
    assert list(answer.json) == ["data", "meta", "links"]
    assert list(answer.json["meta"]) == ["page", "results_per_page", "total", "total_pages"]
    assert list(answer.json["links"]) == ["first", "last", "next", "prev", "self"]
    return answer.json["links"]


def test_paging(server: Any, client: Any) -> None:
    ids = [add(client, email(f"Mail {number:02}")) for number in range(23)]
    base = f"{server.base}{PATH}?results_per_page=10&page="
    seen: list[int] = []
    for page, wanted in ((1, (None, 2)), (2, (1, 3)), (3, (2, None))):
        answer = client.get(f"{PATH}/?page={page}&results_per_page=10")
        prev, following = (one and f"{base}{one}" for one in wanted)
        assert links(answer) == {"first": f"{base}1", "last": f"{base}3", "next": following, "prev": prev, "self": f"{base}{page}"}
        assert answer.json["meta"] == {"page": page, "results_per_page": 10, "total": 23, "total_pages": 3}
        seen += [row["id"] for row in answer.json["data"]]
    assert seen == ids
    past = client.get(f"{PATH}?results_per_page=10&page=1000000000")
    assert past.json["data"] == [] and past.json["meta"] == {"page": 10**9, "results_per_page": 10, "total": 23, "total_pages": 3}
    assert links(past)["next"] is None and links(past)["prev"] == f"{base}3" and links(past)["self"] == f"{base}1000000000"


def test_nothing_at_all(server: Any, client: Any) -> None:
    answer = client.get(PATH)
    link = f"{server.base}{PATH}?&page=1"
    assert answer.json["meta"] == {"page": 1, "results_per_page": 25, "total": 0, "total_pages": 0}
    assert links(answer) == {"first": link, "last": link, "next": None, "prev": None, "self": link}


def test_links_keep_the_other_parameters_in_their_order(server: Any, client: Any) -> None:
    answer = client.get(f"{PATH}?type=email&page=1&search=a%20%26+%C3%B6&order_type=DESC")
    assert links(answer)["self"] == f"{server.base}{PATH}?type=email&search=a+%26+%C3%B6&order_type=DESC&page=1"
    assert client.get(links(answer)["self"].removeprefix(server.base)).status == 200
    assert client.get(f"{PATH}?&page=1").status == 200


def test_base_of_links(serve_with: Any) -> None:
    server = serve_with(TOCSIN_BASE_URL="https://tocsin.example.com/", TOCSIN_TRUSTED_PROXIES="127.0.0.1")
    assert server.client().get(PATH).json["links"]["self"] == f"https://tocsin.example.com{PATH}?&page=1"
    server = serve_with(TOCSIN_TRUSTED_PROXIES="127.9.0.0/16")
    client = server.client()
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "alarm.example.com"}
    assert client("GET", PATH, None, forwarded).json["links"]["self"] == f"https://alarm.example.com{PATH}?&page=1"
    client.address = "127.8.0.1"
    assert client("GET", PATH, None, forwarded).json["links"]["self"].startswith(server.base)
    assert client("GET", PATH, None, {"Host": "other.example:81"}).json["links"]["self"].startswith("http://other.example:81/api")
    assert client("GET", PATH, None, {"Host": 'bad"><host'}).json["links"]["self"].startswith(server.base)


# ------------------------------------------------------------------------------------------------- test sends and secrets


def test_test_sends(client: Any, receiver: Receiver) -> None:
    hook = {"name": "W", "type": "webhook", "webhook": receiver.url("/test-hook?token=hush")}
    keys = ["status", "reason", "duration_ms", "request", "response", "hint"]
    before = len(receiver.requests)
    draft = client.post(f"{PATH}/test", hook)
    assert draft.status == 200 and list(draft.data) == keys
    assert (draft.data["status"], draft.data["reason"]) == ("delivered", "ok")
    assert client.get(PATH).json["meta"]["total"] == 0
    handler_id = add(client, hook)
    saved = client("POST", f"{PATH}/{handler_id}/test/")
    assert list(saved.data) == keys and saved.data["status"] == "delivered"
    assert len(receiver.requests) == before + 2
    assert b"hush" not in draft.content + saved.content
    assert client.get(f"{PATH}/{handler_id}").data["last_datetime"] is None
    assert client.get("/api/deliveries").json["meta"]["total"] == 0
    receiver.answer("/gone-hook", 410)
    gone = client.post(f"{PATH}/test", {**hook, "webhook": receiver.url("/gone-hook")})
    assert (gone.data["status"], gone.data["reason"]) == ("failed", "gone")
    assert client.post(f"{PATH}/test", {"type": "webhook"}).faults() == [("required", "name"), ("required", "webhook")]
    assert client.post(f"{PATH}/{handler_id}/test", {"name": "x"}).faults() == [("unknown", "name")]
    assert client("POST", f"{PATH}/{handler_id}/test", "{}", {"Content-Type": "application/json"}).status == 200


def test_secrets(client: Any) -> None:
    handler_id = add(client, {"name": "W", "type": "webhook", "webhook": "https://example.com/"})
    first = client.get(f"{PATH}/{handler_id}/secret")
    secret = first.data["secret"]
    assert secret.startswith("whsec_")
    assert first.content.decode() == f'{{"data":{{"secret":"{secret}","previous":null,"previous_until":null}}}}'
    rotated = client("POST", f"{PATH}/{handler_id}/secret").data
    assert rotated["previous"] == secret != rotated["secret"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", rotated["previous_until"])
    assert client.get(f"{PATH}/{handler_id}/secret/").data == rotated
    for answer in (client.get(f"{PATH}/{add(client, email())}/secret"), client("POST", f"{PATH}/{add(client, email())}/secret")):
        assert (answer.status, answer.faults()) == (404, [("not_found", None)])


# -------------------------------------------------------------------------------------------------------------- preview


def test_a_preview_is_masked_for_everybody_and_leaves_nothing(server: Any, client: Any) -> None:
    secret = "XXXXXXXXXXXXXXXXXXXXXXXX"
    url = f"https://hooks.slack.com/services/T000/B000/{secret}"
    handler = add(client, {"name": "Ops", "type": "slack", "slack": url})
    path = f"{PATH}/{handler}/preview"
    for reader in (client, server.narrowed(client, "handlers:read")):
        reply = reader.post(path, {"message": f"![load](https://example.com/x.png) {secret}", "title": "Disk"})
        assert reply.status == 200
        assert list(reply.data) == ["type", "parts", "changes"]
        assert secret not in reply.content.decode()
        assert reply.data["changes"] == ["Image becomes a link."]
        [part] = reply.data["parts"]
        assert part["request"].startswith("POST https://hooks.slack.com/services/T000/B000/••••\n")
        assert part["sizes"][1] == {"what": "blocks", "size": 2, "limit": 50, "unit": "blocks"}
    assert client.get("/api/notifications").json["meta"]["total"] == 0
    assert server.narrowed(client, "handlers:write").post(path, {"message": "x"}).status == 403
    assert server.client().post(path, {"message": "x"}).status == 404


def test_a_preview_says_what_is_left_out(client: Any) -> None:
    handler = add(client, {"name": "Ops", "type": "x", **X})
    reply = client.post(f"{PATH}/{handler}/preview", {"message": "word " * 100})
    assert reply.data["changes"] == ["225 characters are left out of “word word word word word word …”."]
    [part] = reply.data["parts"]
    assert part["sizes"] == [{"what": "text", "size": 276, "limit": 280, "unit": "weighted characters"}]
    assert "authorization: ••••" in part["request"]


def test_a_preview_checks_the_notification(client: Any) -> None:
    handler = add(client, email())
    reply = client.post(f"{PATH}/{handler}/preview", {"title": "T", "severity": "loud", "send_at": "2999-01-01 00:00:00"})
    assert reply.status == 422
    assert {parameter for _, parameter in reply.faults()} == {"message", "severity", "send_at"}


def test_a_key_that_reads_no_secrets_sends_none_elsewhere(server, client):
    stored = {"webhook": "http://127.0.0.1:9/a", "webhook_headers": "Authorization: Bearer abcdefgh"}
    path = f"{PATH}/{client.post(PATH, {'name': 'W', 'type': 'webhook', **stored}).data['id']}"
    writer = server.narrowed(client, "handlers:write")
    elsewhere = {"webhook": "http://127.0.0.1:9/b"}
    for kept in ({}, {"webhook_headers": "Authorization: ••••"}, {"webhook_headers": "X-A: b\nauthorization: ••••"}):
        refused = writer.post(path, elsewhere | kept)
        assert (refused.status, refused.faults()) == (422, [("masked", "webhook_headers")])
    assert client.get(path).data["settings"] == stored
    for same in ({"webhook": stored["webhook"]}, {"webhook": "http://127.0.0.1:9/••••", "webhook_headers": "Authorization: ••••"}):
        assert writer.post(path, same).status == 200
    assert writer.post(path, elsewhere | {"webhook_headers": "Authorization: Bearer abcdefgh"}).status == 200
    assert writer.post(path, {"webhook": "http://127.0.0.1:9/c", "webhook_headers": ""}).status == 200
    assert client.get(path).data["settings"] == {"webhook": "http://127.0.0.1:9/c"}
    assert client.post(path, stored).status == 200
    assert client.post(path, elsewhere).status == 200
    assert client.get(path).data["settings"] == stored | elsewhere
