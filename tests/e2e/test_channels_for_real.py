"""Every type, from the form of its registration to what its provider received, each read by something that is not ours.

Then the same secrets are looked for wherever they must not be.
"""

import email
import email.policy
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from oauthlib.oauth1 import RequestValidator, SignatureOnlyEndpoint
from slack_sdk.models.blocks import Block, HeaderBlock, RichTextBlock
from slack_sdk.models.blocks.blocks import SectionBlock
from standardwebhooks import Webhook, WebhookVerificationError

from e2e.service import FIRST_KEY, OwnedClient, Service, until
from mailserver import MailServer
from receiver import Received, Receiver

TITLE = "Disk of db-1 <b>91 %</b> full 디스크"
URL = "https://example.com/db-1?tab=disks&since=1h"
MESSAGE = """\
Disk of **db-1** is *nearly* full, see `df -h <x> & y` and [the runbook](https://example.com/run?a=1&b=2).

- first
- second <b>raw</b> <script>alert(1)</script>

```sh
df -h | grep "/var" && echo '<done>'
```

한국어 알림입니다 🚨 @everyone <!channel> <@U123> @here
"""
FIELDS = {"host": "db-1", "여유": "9 % <!here> *left*"}
NOTIFICATION = {"title": TITLE, "message": MESSAGE, "severity": "critical", "url": URL, "fields": FIELDS}

SLACK, DISCORD, TEAMS = (
    "/services/T0000/B0000/s3cretSlackToken0000000",
    "/api/webhooks/123456789012345678/s3cretDiscordToken",
    "/s3cretFlow",
)
HOOK, BROKEN = "/hooks/s3cretHookPath", "/broken/s3cretBrokenPath"
BOT, BROKEN_BOT = "4711:s3cretTelegramTokenAAAAAAAAAAAAAAAAAA", "4712:s3cretBrokenTelegramTokenAAAAAAAAAA"
TWEETS = "/2/tweets"
X = {
    "x_consumer_key": "s3cretConsumerKey",
    "x_consumer_secret": "s3cret/Consumer&Secret",
    "x_access_token": "99-s3cretAccessToken",
    "x_access_token_secret": "s3cret+Access=Token",
}
BROKEN_X = {name: value.replace("s3cret", "s3cretBroken") for name, value in X.items()}
MAIL_PASSWORD = "s3cret:Mail@Password"
METRICS_TOKEN = "s3cretMetricsToken"
USER_INFO = "s3cretUser:s3cretPassword"


class Sent:
    """The service after it has sent one notification to a handler of each type, and one to a broken handler of some."""

    def __init__(self, service: Service, client: OwnedClient, receiver: Receiver, mails: MailServer) -> None:
        self.service = service
        self.client = client
        self.receiver = receiver
        self.mails = mails
        self.handlers: dict[str, int] = {}
        self.broken: list[int] = []
        self.settings: dict[int, dict[str, str]] = {}
        self.notification = 0

    def add(self, type: str, **settings: str) -> int:
        handler = self.client.add_handler(type, f"My {type}", **settings)
        self.settings[handler] = settings
        return handler

    def received(self, path: str) -> Received:
        """The only request there."""
        [request] = [one for one in self.receiver.requests if one.path == path and b"91 %" in one.body]
        return request

    def mail(self) -> tuple[Any, EmailMessage]:
        [received] = [one for one in self.mails.mails if b"handler" in one.content]
        message = email.message_from_bytes(received.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return received, message


def echo(*secrets: str) -> bytes:
    """An answer that gives secrets away in every way of writing them."""
    return " ".join([one for secret in secrets for one in (secret, quote(secret, safe=""), json.dumps({"it": secret}))]).encode()


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    folder = tmp_path_factory.mktemp("channels")
    with Receiver() as receiver, MailServer(starttls=True, user="post master", password=MAIL_PASSWORD) as mails:
        assert mails.authority
        mails.authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        service = Service(
            folder,
            from_scratch=True,
            TOCSIN_RETRY_SCHEDULE="1h",
            TOCSIN_TELEGRAM_API_URL=receiver.url(""),
            TOCSIN_X_API_URL=receiver.url(""),
            TOCSIN_SMTP_URL=mails.url(),
            TOCSIN_EMAIL_FROM="Alarm 알람 <alarm@example.com>",
            TOCSIN_LOG_LEVEL="debug",
            TOCSIN_METRICS_TOKEN=METRICS_TOKEN,
            SSL_CERT_FILE=str(folder / "authority.pem"),
        )
        try:
            service.start()
            sent = Sent(service, service.client(), receiver, mails)
            _send_to_all(sent)
            _send_to_broken(sent)
            yield sent
        finally:
            service.kill()


def _send_to_all(sent: Sent) -> None:
    receiver = sent.receiver
    receiver.answer(DISCORD, 200, body=b'{"id": "1330000000000000000"}')
    receiver.answer(f"/bot{BOT}/sendMessage", 200, body=b'{"ok":true,"result":{"message_id":5}}')
    receiver.answer(TEAMS, 202, body=b"")
    receiver.answer(TWEETS, 201, body=b'{"data":{"id":"1445880548472328192","text":"t"}}')
    sent.handlers = {
        "email": sent.add("email", email="root@nas"),
        "webhook": sent.add("webhook", webhook=receiver.url(f"{HOOK}?key=s3cretHookQuery").replace("//", f"//{USER_INFO}@")),
        "slack": sent.add("slack", slack=receiver.url(SLACK)),
        "discord": sent.add("discord", discord=receiver.url(f"{DISCORD}?thread_id=123456789012345679")),
        "telegram": sent.add("telegram", telegram=BOT, telegram_chat_id="-1001234567890"),
        "microsoft_teams": sent.add("microsoft_teams", microsoft_teams=receiver.url(f"{TEAMS}?sv=1.0&sig=s3cretTeamsSignature")),
        "x": sent.add("x", **X),
    }
    sent.notification = sent.client.post("/api/notifications", NOTIFICATION).data["id"]
    sent.client.settled(sent.notification)


def _send_to_broken(sent: Sent) -> None:
    """Handlers whose providers fail and repeat the credential in their answer."""
    receiver = sent.receiver
    receiver.answer(BROKEN, 500, body=echo(f"{BROKEN}?key=s3cretBrokenQuery", BROKEN, BROKEN.rpartition("/")[2], "s3cretBrokenQuery"))
    telegram = {"ok": False, "error_code": 400, "description": f"Bad Request: {BROKEN_BOT} is bad, chat not found"}
    receiver.answer(f"/bot{BROKEN_BOT}/sendMessage", 400, body=json.dumps(telegram).encode())
    receiver.forget(TWEETS)
    receiver.answer(TWEETS, 400, body=echo(*BROKEN_X.values()))
    kinds = ("webhook", "slack", "discord", "microsoft_teams")
    sent.broken = [sent.add(kind, **{kind: receiver.url(f"{BROKEN}?key=s3cretBrokenQuery")}) for kind in kinds]
    sent.broken += [sent.add("telegram", telegram=BROKEN_BOT, telegram_chat_id="8"), sent.add("x", **BROKEN_X)]
    sent.broken.append(sent.add("webhook", webhook="https://s3cretNobody@127.0.0.1:1/s3cretNowhere"))
    notification = sent.client.send("this fails", handlers=sent.broken)

    def all_tried() -> bool:
        return all(one["attempt_count"] for one in sent.client.deliveries(notification))

    until(all_tried)


def test_every_type_was_delivered_with_one_request(sent: Sent) -> None:
    deliveries = {one["notification_handler_id"]: one for one in sent.client.settled(sent.notification)}
    assert set(deliveries) == set(sent.handlers.values())
    for type, handler in sent.handlers.items():
        assert (deliveries[handler]["status"], deliveries[handler]["attempt_count"]) == ("delivered", 1), (type, deliveries[handler])
        assert sent.client.handler(handler)["last_datetime"] is not None
    assert sent.client.get(f"/api/notifications/{sent.notification}").data["deliveries"]["delivered"] == 7


def test_settings_come_back_in_the_clear_for_a_key_with_every_scope(sent: Sent) -> None:
    for handler, settings in sent.settings.items():
        assert sent.client.handler(handler)["settings"] == settings


# -------------------------------------------------------------------------------------------------------- the receivers


def test_webhook_verifies_by_the_standards_own_library(sent: Sent) -> None:
    request = sent.received(HOOK)
    secret = sent.client.get(f"/api/notification-handlers/{sent.handlers['webhook']}/secret").data["secret"]
    body = Webhook(secret).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(request.body.replace(b"91", b"19"), request.headers)

    assert request.query == "key=s3cretHookQuery"
    assert request.headers["content-type"] == "application/json"
    assert body["type"] == "notification"
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    data = body["data"]
    assert list(data) == ["id", "title", "message", "format", "severity", "url", "fields", "datetime", "handler_id", "delivery_id"]
    assert {name: data[name] for name in NOTIFICATION} == NOTIFICATION
    assert (data["id"], data["handler_id"]) == (sent.notification, sent.handlers["webhook"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", data["datetime"])


def test_both_secrets_sign_while_one_is_rotated(sent: Sent) -> None:
    handler = sent.handlers["webhook"]
    old = sent.client.get(f"/api/notification-handlers/{handler}/secret").data["secret"]
    rotated = sent.client.post(f"/api/notification-handlers/{handler}/secret").data
    assert rotated["previous"] == old != rotated["secret"]
    sent.client.settled(sent.client.send("after the rotation", handlers=[handler]))
    request = next(one for one in sent.receiver.requests if b"after the rotation" in one.body)
    for secret in (old, rotated["secret"]):
        Webhook(secret).verify(request.body, request.headers)


class XsSide(RequestValidator):
    """What X knows of the app and the account."""

    enforce_ssl = False
    nonce_length = 8, 64
    client_key_length = 8, 64

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def check_client_key(self, client_key: str) -> bool:
        return client_key == X["x_consumer_key"]

    def check_access_token(self, request_token: str) -> bool:
        return request_token == X["x_access_token"]

    def validate_client_key(self, client_key: str, request: object) -> bool:
        return client_key == X["x_consumer_key"]

    def validate_timestamp_and_nonce(self, client_key: str, timestamp: str, nonce: str, *_: object, **__: object) -> bool:
        self.seen.append((timestamp, nonce))
        return abs(int(timestamp) - datetime.now(UTC).timestamp()) < 300

    def get_client_secret(self, client_key: str, request: object) -> str:
        return X["x_consumer_secret"]

    def get_access_token_secret(self, client_key: str, token: str, request: object) -> str:
        assert token == X["x_access_token"]
        return X["x_access_token_secret"]


def test_x_verifies_by_an_oauth_server(sent: Sent) -> None:
    [request] = [one for one in sent.receiver.requests if one.path == TWEETS and b"91 %" in one.body]
    side = XsSide()
    headers = {"Authorization": request.headers["authorization"], "Content-Type": request.headers["content-type"]}
    valid, _ = SignatureOnlyEndpoint(side).validate_request(sent.receiver.url(TWEETS), "POST", request.body.decode(), headers)
    assert valid and side.seen
    forged = {**headers, "Authorization": headers["Authorization"].replace("oauth_nonce=", "oauth_nonce=x")}
    assert not SignatureOnlyEndpoint(side).validate_request(sent.receiver.url(TWEETS), "POST", request.body.decode(), forged)[0]

    [(name, text)] = request.json().items()
    assert name == "text"
    assert TITLE in text and "db-1" in text and text.endswith(f" {URL}")
    assert len(text) - len(URL) <= 280 - 23


def test_slack_gets_blocks_that_slacks_own_library_takes(sent: Sent) -> None:
    request = sent.received(SLACK)
    body = request.json()
    assert set(body) <= {"text", "blocks", "attachments"}
    assert 1 <= len(body["blocks"]) <= 50
    parsed = Block.parse_all(body["blocks"])
    assert [one.to_dict() for one in parsed] == body["blocks"]  # to_dict checks the lengths
    kinds = {type(one) for one in parsed}
    assert {HeaderBlock, RichTextBlock, SectionBlock} == kinds

    shown = list(_texts(body["blocks"]))
    assert any(TITLE in one["text"] for one in shown)
    assert any(one.get("style", {}).get("bold") and one["text"] == "db-1" for one in shown)
    assert any(one.get("style", {}).get("italic") and one["text"] == "nearly" for one in shown)
    assert any(one.get("style", {}).get("code") and one["text"] == "df -h <x> & y" for one in shown)
    assert any(one["type"] == "link" and one["url"] == "https://example.com/run?a=1&b=2" for one in shown)
    assert any(one["type"] == "link" and (one["url"], one["text"]) == (URL, "Open") for one in shown)
    assert not {one["type"] for one in shown} & {"broadcast", "user", "usergroup", "mrkdwn"}
    assert any("<!channel>" in one["text"] and "한국어" in one["text"] for one in shown)

    # The text alone is what compatible servers show: everything is in it, as Markdown, and nothing in it calls anybody.
    for word in (
        "**db-1**",
        "_nearly_",
        "(https://example.com/run?a=1&b=2)",
        "`df -h <x> & y`",
        "first",
        "script",
        "한국어",
        "여유",
        "left",
    ):
        assert word in body["text"], word
    assert not re.search(r"<[!@#]", body["text"])


def _texts(value: Any) -> Iterator[Any]:
    """Every object with a text in it, wherever it is."""
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            yield value
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def test_discord_keeps_its_limits_and_calls_nobody(sent: Sent) -> None:
    request = sent.received(DISCORD)
    assert parse_qs(request.query) == {"thread_id": ["123456789012345679"], "wait": ["true"]}
    body = request.json()
    assert body["allowed_mentions"] == {"parse": []}
    [embed] = body["embeds"]
    fields = embed["fields"]
    assert _utf16(embed["title"]) <= 256 and _utf16(embed["description"]) <= 4096 and len(fields) <= 25
    assert all(0 < _utf16(one["name"]) <= 256 and 0 < _utf16(one["value"]) <= 1024 for one in fields)
    whole = [embed["title"], embed["description"], *(one[key] for one in fields for key in ("name", "value"))]
    assert sum(map(_utf16, whole)) <= 6000
    assert embed["url"] == URL
    assert embed["color"] == 0xE74C3C
    for piece in ("**db", "(https://example.com/run?a=1&b=2)", "```sh\n", "한국어"):
        assert piece in embed["description"], piece
    assert [one["name"] for one in fields] == ["host", "여유"]


def _utf16(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


class Tags(HTMLParser):
    """Fails on a tag that is not allowed, not closed, or closed in the wrong order. `text`: what is outside of tags."""

    VOID = frozenset({"br", "hr", "img", "meta"})

    def __init__(self, allowed: frozenset[str] | None = None) -> None:
        super().__init__(convert_charrefs=True)
        self.allowed = allowed
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert self.allowed is None or tag in self.allowed, tag
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        self.text += data

    @classmethod
    def of(cls, text: str, allowed: frozenset[str] | None = None) -> "Tags":
        tags = cls(allowed)
        tags.feed(text)
        tags.close()
        assert not tags.open, tags.open
        return tags


# https://core.telegram.org/bots/api#html-style
TELEGRAMS = frozenset({"b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "a", "code", "pre", "blockquote", "tg-spoiler", "span"})


def test_telegram_gets_balanced_tags_of_its_own_list(sent: Sent) -> None:
    body = sent.received(f"/bot{BOT}/sendMessage").json()
    assert (body["chat_id"], body["parse_mode"]) == (-1001234567890, "HTML")
    tags = Tags.of(body["text"], TELEGRAMS)
    assert 0 < _utf16(tags.text) <= 4096
    assert {"b", "i", "code", "pre", "a"} <= {tag for tag, _ in tags.seen}
    links = [attributes.get("href") for tag, attributes in tags.seen if tag == "a"]
    assert links == ["https://example.com/run?a=1&b=2", URL]
    for piece in (TITLE, "df -h <x> & y", "<script>alert(1)</script>", "echo '<done>'", "한국어", "@\u2060everyone <!channel>", "여유"):
        assert piece in tags.text, piece


def test_teams_gets_an_adaptive_card_in_its_envelope(sent: Sent) -> None:
    request = sent.received(TEAMS)
    assert len(request.body) <= 25_000
    assert request.headers["content-type"].startswith("application/json")
    assert parse_qs(request.query) == {"sv": ["1.0"], "sig": ["s3cretTeamsSignature"]}
    body = request.json()
    assert body["type"] == "message"
    [attachment] = body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert card["actions"] == [{"type": "Action.OpenUrl", "title": "Open", "url": URL}]
    of_1_4 = {"TextBlock", "RichTextBlock", "TextRun", "FactSet", "Container", "ColumnSet", "Column", "Action.OpenUrl"}
    assert {one["type"] for one in _elements(card["body"])} <= of_1_4
    shown = json.dumps(card["body"], ensure_ascii=False)
    for piece in ("한국어", "db-1", "nearly", "여유", "https://example.com/run?a=1&b=2"):
        assert piece in shown, piece


def _elements(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        if "type" in value:
            yield value
        for inner in value.values():
            yield from _elements(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _elements(inner)


def test_mail_reads_in_any_mail_program(sent: Sent) -> None:
    received, message = sent.mail()
    assert (received.sender, received.recipients) == ("alarm@example.com", ["root@nas"])
    assert received.has_tls and received.user == "post master"
    assert not message.defects
    assert all(len(line) <= 998 for line in received.content.split(b"\r\n"))

    [sender] = message["From"].addresses
    assert (sender.display_name, sender.addr_spec) == ("Alarm 알람", "alarm@example.com")
    assert [one.addr_spec for one in message["To"].addresses] == ["root@nas"]
    assert message["Subject"] == f"[Critical] {TITLE}"
    assert message["Auto-Submitted"] == "auto-generated"
    assert re.fullmatch(r"<[\w.-]+@example\.com>", message["Message-ID"])
    assert abs((parsedate_to_datetime(message["Date"]) - datetime.now(UTC)).total_seconds()) < 600

    assert message.get_content_type() == "multipart/alternative"
    plain, html = message.iter_parts()
    assert (plain.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    text, tags = plain.get_content(), Tags.of(html.get_content())
    for piece in ("df -h <x> & y", "<script>alert(1)</script>", "echo '<done>'", "한국어", "@everyone <!channel>", "여유", TITLE):
        assert piece in text, piece
        assert piece in tags.text, piece
    assert URL in text and "https://example.com/run?a=1&b=2" in text
    assert {"strong", "em", "code", "pre", "li"} <= {tag for tag, _ in tags.seen}
    assert not {"script", "img", "iframe", "link"} & {tag for tag, _ in tags.seen}
    assert {URL, "https://example.com/run?a=1&b=2"} <= {given.get("href") for tag, given in tags.seen if tag == "a"}


# ----------------------------------------------------------------------------------------------------------- secrecy


def _secrets(sent: Sent) -> list[str]:
    whsec = [sent.client.get(f"/api/notification-handlers/{sent.handlers['webhook']}/secret").data]
    signing = [one[name].removeprefix("whsec_") for one in whsec for name in ("secret", "previous") if one[name]]
    return ["s3cret", FIRST_KEY, sent.client.key or "", *signing, (sent.service.data / "secret.key").read_text().strip()]


def _gives_away(text: str, secrets: list[str]) -> list[str]:
    """What of the secrets stands in a text, with what stands around it."""
    return [match[0] for secret in secrets for match in re.finditer(f".{{0,40}}{re.escape(secret)}.{{0,30}}", text, re.DOTALL)]


def _reads(client: OwnedClient) -> dict[str, str]:
    """Every answer to a GET of every thing of this user."""
    lists = ["/api/notification-handlers?results_per_page=100", "/api/notifications", "/api/deliveries?results_per_page=100"]
    answers = {path: client.get(path) for path in lists}
    for path in lists:
        for one in answers[path].data:
            each = f"{path.partition('?')[0]}/{one['id']}"
            answers[each] = client.get(each)
    assert {one.status for one in answers.values()} == {200} and len(answers) > 30
    return {path: reply.content.decode() for path, reply in answers.items()}


def test_no_secret_in_any_answer_to_a_narrow_key(sent: Sent) -> None:
    secrets = _secrets(sent)
    narrow = sent.service.narrowed(sent.client, "handlers:read", "deliveries:read")
    for path, content in _reads(narrow).items():
        assert not _gives_away(content, secrets), path
    refused = narrow.get(f"/api/notification-handlers/{sent.handlers['webhook']}/secret")
    assert refused.status == 403


def test_no_secret_in_previews_of_what_went_wrong_for_anybody(sent: Sent) -> None:
    secrets = _secrets(sent)
    for path, content in _reads(sent.client).items():
        if not path.startswith("/api/notification-handlers"):
            assert not _gives_away(content, secrets), path
    for handler in (*sent.handlers.values(), *sent.broken):
        sent.receiver.forget(TWEETS)
        sent.receiver.answer(TWEETS, 400, body=echo(*sent.settings[handler].values()))
        trial = sent.client.post(f"/api/notification-handlers/{handler}/test")
        assert trial.status == 200, trial.content
        assert not _gives_away(trial.content.decode(), secrets), handler


def test_the_failures_are_told_all_the_same(sent: Sent) -> None:
    failed = [one for one in sent.client.get("/api/deliveries?results_per_page=100").data if one["notification_handler_id"] in sent.broken]
    assert len(failed) == len(sent.broken)
    for one in failed:
        assert one["last_error"]
        [attempt] = sent.client.delivery(one["id"])["attempts"]
        if attempt["status_code"] is not None:
            assert "••••" in attempt["response"]


def _with_its_use_logged(sent: Sent) -> str:
    """Broken requests, too, before the log is read."""
    stranger = OwnedClient(sent.service.port, "tk_s3cretButWrongKey0123456789", "")
    assert stranger.get("/api/notification-handlers").status == 401
    client = sent.client
    wrong = {"name": "Wrong", "type": "telegram", "telegram": "s3cretButWrongToken", "telegram_chat_id": "7"}
    assert client("POST", "/api/notification-handlers", form=wrong).status == 422
    assert client.get("/api/notification-handlers?search=s3cretSearch&nonsense=s3cretNonsense").status == 400
    return sent.service.log()


def test_no_secret_in_the_log(sent: Sent) -> None:
    log = _with_its_use_logged(sent)
    assert '"event":"attempt"' in log
    assert not _gives_away(log, _secrets(sent))
    assert "127.0.0.1:1" not in log and urlsplit(sent.receiver.url("/")).netloc not in log  # no URL at all


def test_no_secret_and_no_name_in_the_metrics(sent: Sent) -> None:
    client = OwnedClient(sent.service.port, None, "")
    assert client.get("/metrics").status == 401
    client.key = METRICS_TOKEN
    metrics = client.get("/metrics").content.decode()
    assert 'tocsin_deliveries_delivered_total{type="x"} 1.0' in metrics
    assert not _gives_away(metrics, _secrets(sent))
    labels = set(re.findall(r'(\w+)="', metrics))
    assert labels <= {"version", "type", "reason", "outcome", "le"}
    assert "My " not in metrics and "example.com" not in metrics


def test_no_secret_on_standard_output_or_the_command_line(sent: Sent) -> None:
    assert [line for line in sent.service.printed if "tk_" in line or "s3cret" in line] == []
    assert sent.service.process is not None
    with open(f"/proc/{sent.service.process.pid}/cmdline", encoding="utf-8") as line:
        assert "tk_" not in line.read()


def test_nothing_in_the_store_reads_in_the_clear(sent: Sent) -> None:
    files = [one for one in sent.service.data.iterdir() if one.name != "secret.key"]
    content = b"".join(one.read_bytes() for one in files).decode("latin-1")
    assert "My telegram" in content
    assert not _gives_away(content, _secrets(sent))
