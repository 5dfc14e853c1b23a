"""E-mail: the mail itself read back by the standard library, hostile input, verdicts, and the whole way to a real server."""

import asyncio
import email
import email.policy
import re
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailserver import MailServer
from tocsin import settings
from tocsin.channels.contract import Context, Pace, classify_no_reply, fields_of
from tocsin.channels.email import CHANNEL, MAX_HTML_BYTES, EmailSettings
from tocsin.markup.unseen import is_blank
from tocsin.model import Delivered, Gone, Later, Mail, MailReply, Message, NoReply, Reason, Refused, Severity, Unknown
from tocsin.net.mail import MailWire

SAMPLES = [{"email": "hey@example.com"}, {"email": "root@nas"}]
AT = 1_795_514_400_123_456  # 2026-11-24 10:00:00.123456 UTC
HANDLER = EmailSettings("me@example.com")
MESSAGE = Message(
    "**db-1** is full, see [the runbook](https://example.com/run?a=1&b=2)\n\n- one\n- two",
    "Disk full",
    Severity.CRITICAL,
    "https://example.com/a?b=c&d=e",
    (("host", "db-1"), ("가", "나")),
    AT,
)
HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "List-Id", "Auto-Submitted", "MIME-Version", "Content-Type"]
BEFORE_RECIPIENT = ("connect", "hello", "starttls", "auth", "mail")
OURS = {Reason.MAIL_ACCOUNT, Reason.MAIL_SERVER, Reason.TOO_LARGE}
STAGES = ("connect", "hello", "starttls", "auth", "mail", "rcpt", "data", "final")


def fits(request: Mail) -> None:
    assert max(map(len, request.content.split(b"\r\n"))) <= 998


def message_of(request: Mail) -> str:
    """The HTML that stands for the message, without its styles and directions."""
    page = email.message_from_bytes(request.content, policy=email.policy.default).get_body(("html",)).get_content()
    page = re.sub(r' (?:style|dir|cellpadding|cellspacing)="[^"]*"', "", page)
    return page[page.index("</h1>") + 5 : page.index('<p class="foot">')].rpartition("</div>")[0].strip()


def service(**options: str) -> settings.Settings:
    return settings.load({"TOCSIN_EMAIL_FROM": "tocsin <alarm@example.org>"} | options, Path("/nonexistent"))


def context(**changes: object) -> Context:
    given = {"key": "msg_9", "handler_id": 3, "now": time.time_ns() // 1000, "service": service()}
    return Context(**(given | {"notification_id": 7, "delivery_id": 9} | changes))


def rendered(message: Message, handler: EmailSettings = HANDLER, **changes: object) -> Mail:
    (mail,) = CHANNEL.render(message, handler, context(**changes))
    assert isinstance(mail, Mail)
    return mail


def read(mail: Mail) -> EmailMessage:
    parsed = email.message_from_bytes(mail.content, policy=email.policy.SMTP)
    assert isinstance(parsed, EmailMessage)
    assert parsed.keys() == HEADERS
    assert not parsed.defects
    for part in parsed.walk():
        assert not part.defects
    return parsed


def parts(mail: Mail) -> tuple[str, str]:
    parsed = read(mail)
    assert [part.get_content_type() for part in parsed.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    plain, html = parsed.iter_parts()
    return plain.get_content().replace("\r\n", "\n"), html.get_content().replace("\r\n", "\n")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False

    def handle_data(self, data: str) -> None:
        if not self.in_style:
            self.words.append(data)


def page(html: str) -> _Page:
    reader = _Page()
    reader.feed(html)
    return reader


# ------------------------------------------------------------------------------------------------------------- the mail


def test_headers_and_envelope():
    mail = rendered(MESSAGE)
    assert (mail.sender, mail.recipient) == ("alarm@example.org", "me@example.com")
    parsed = read(mail)
    assert parsed["From"] == "tocsin <alarm@example.org>"
    assert parsed["To"] == "me@example.com"
    assert parsed["Subject"] == "[Critical] Disk full"
    assert parsed["Message-ID"] == "<msg_9@example.org>"
    assert parsed["List-Id"] == "<handler-3.example.org>"
    assert parsed["Auto-Submitted"] == "auto-generated"
    assert parsed["Date"].datetime == datetime(2026, 11, 24, 10, 0, 0, tzinfo=UTC)


def test_both_parts_say_everything():
    plain, html = parts(rendered(MESSAGE, meant_for=AT))
    assert plain.startswith("[Critical] Disk full\n\nLate: this was meant for 2026-11-24 10:00:00 UTC\n\n")
    assert plain.endswith("\n\nhost: db-1\n가: 나\n\nhttps://example.com/a?b=c&d=e\n\n-- \nSent by tocsin\n")
    assert "the runbook (https://example.com/run?a=1&b=2)" in plain
    reader = page(html)
    words = " ".join(" ".join(reader.words).split())
    for expected in (
        "Critical",
        "Disk full",
        "2026-11-24 10:00:00 UTC",
        "db-1",
        "가",
        "나",
        "Sent by tocsin",
        "https://example.com/a?b=c&d=e",
    ):
        assert expected in words
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert links == ["https://example.com/run?a=1&b=2", "https://example.com/a?b=c&d=e"]
    assert "#e74c3c" in html


@pytest.mark.parametrize(
    ("severity", "subject", "colour"),
    [
        (Severity.INFO, "t", "#3498db"),
        (Severity.SUCCESS, "t", "#2ecc71"),
        (Severity.WARNING, "[Warning] t", "#f1c40f"),
        (Severity.CRITICAL, "[Critical] t", "#e74c3c"),
    ],
)
def test_severity_shows(severity: Severity, subject: str, colour: str):
    mail = rendered(Message("m", "t", severity, at=AT))
    plain, html = parts(mail)
    assert read(mail)["Subject"] == subject
    assert plain.startswith(f"[{severity.capitalize()}] t\n")
    assert colour in html
    assert severity.capitalize() in page(html).words


def test_without_a_title_the_first_line_is_the_subject():
    assert read(rendered(Message("\n\n# Backup **failed**\n\nmore")))["Subject"] == "Backup failed"
    subject = str(read(rendered(Message("word " * 100)))["Subject"])
    assert len(subject) <= 100
    assert subject.endswith("…")
    assert read(rendered(Message("\x07")))["Subject"]


def test_every_attempt_sends_the_same_bytes():
    first = rendered(MESSAGE, now=1, attempt=1)
    second = rendered(MESSAGE, now=2, attempt=2, may_have_arrived=True)
    assert first == second
    another = rendered(MESSAGE, key="msg_10")
    assert another.content != first.content


def test_the_page_loads_nothing_and_styles_itself():
    _, html = parts(
        rendered(
            Message(
                "![x](https://example.com/x.png) `code`\n\n> quote\n\n```\npre\n```\n\n|a|b|\n|-|-|\n|c|d|", "t", url="https://e.example"
            )
        )
    )
    reader = page(html)
    assert not {tag for tag, _ in reader.tags} & {"img", "link", "script", "iframe", "object", "video", "form"}
    assert "url(" not in html
    assert "@import" not in html
    for tag, attributes in reader.tags:
        assert "src" not in attributes
        if tag in {"body", "div", "p", "pre", "blockquote", "th", "td", "h1"}:
            assert attributes.get("style"), tag
    assert '<meta name="color-scheme" content="light dark">' in html
    assert "@media (prefers-color-scheme: dark)" in html
    assert "{{" not in html
    assert "%-->" not in html


# -------------------------------------------------------------------------------------------------------- hostile input

HOSTILE = [
    "x\r\nBcc: a@b.example",
    "x\nBcc: a@b.example",
    "x\rBcc: a@b.example",
    "x\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029Bcc: a@b.example",
    "=?utf-8?q?x=0D=0ABcc:_a@b.example?=",
    "=?utf-8?b?eA0KQmNjOiBhQGIuZXhhbXBsZQ==?= and more",
    "</title><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "{{ 7*7 }} <!--% for x in y %-->",
    "한글 제목입니다 " * 20,
    "👨‍👩‍👧‍👦🇰🇷" * 20,
    "long" * 64,
    "한" * 256,
    "\ufeffa\x00b\x07c\x7f",
    ', ; : < > @ ( ) \\ "',
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str):
    mail = rendered(Message(text, text, url="https://example.com/", fields=((text, text),), at=AT))
    parsed = read(mail)
    assert (mail.sender, mail.recipient) == ("alarm@example.org", "me@example.com")
    dropped = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]", "", text)
    shown = " ".join(dropped.split())
    assert parsed["Subject"] == shown
    _, html = parts(mail)
    reader = page(html)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert shown in " ".join(" ".join(reader.words).split())
    check_wire_form(mail)


def check_wire_form(mail: Mail) -> None:
    assert mail.content.isascii()
    assert b"\x00" not in mail.content
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", mail.content)
    assert all(len(line) <= 998 for line in mail.content.split(b"\r\n"))
    assert mail.content.endswith(b"\r\n")


@given(
    st.text(max_size=300),
    st.text(min_size=1, max_size=2000),
    st.lists(st.tuples(st.text(max_size=60), st.text(max_size=200)), max_size=5),
    st.sampled_from(Severity),
)
def test_any_text_makes_a_sound_mail(title: str, text: str, fields: list[tuple[str, str]], severity: Severity):
    mail = rendered(Message(text, title, severity, "https://example.com/?q=<>", tuple(fields), AT))
    check_wire_form(mail)
    _, html = parts(mail)
    known = "html head meta title style body div p h1 h2 h3 h4 h5 h6 a table tbody tr th td pre code blockquote ul ol li strong em s hr br"
    assert {tag for tag, _ in page(html).tags} <= set(known.split())


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=256))
@example("\u115f")  # a letter without ink: nobody would see a subject, so the message says what it is about
def test_a_title_comes_back_as_it_was(title: str):
    expected = " ".join(title.replace("\ufeff", "").split())
    parsed = read(rendered(Message("m", title or "x", at=AT)))
    assert parsed["Subject"] == (("m" if title else "x") if is_blank(expected) else expected)


@pytest.mark.parametrize(
    "text", ["한글 메시지 " * 8000, "&" * 65536, "x" * 65536, "> " * 2000 + "deep", "* a\n" * 16384, "`&` " * 16384, "👍" * 16384]
)
def test_the_html_stays_under_gmail_s_limit_and_the_text_is_whole(text: str):
    fields = tuple((f"{index}" + "&" * 250, "<" * 1024) for index in range(25))
    for message in (
        Message(text, "t", url="https://example.com/", at=AT),
        Message(text, "&" * 256, url="https://example.com/?" + "&" * 2000, fields=fields),
    ):
        mail = rendered(message)
        plain, html = parts(mail)
        assert len(html.replace("\n", "\r\n").encode()) <= MAX_HTML_BYTES
        check_wire_form(mail)
        if "more characters" in html:
            assert "shortened" in html
            assert "more characters" not in plain
    assert "<" * 1024 in plain
    assert "shortened" in html  # the fields alone are too much


def test_nothing_is_called_shortened_that_is_whole():
    assert "shortened" not in parts(rendered(MESSAGE))[1]


# --------------------------------------------------------------------------------------------------------------- senders


def test_the_default_sender_and_names_outside_ascii():
    mail = rendered(MESSAGE, service=settings.load({}, Path("/nonexistent")))
    assert re.fullmatch(r"tocsin@[a-z0-9.-]+", mail.sender)
    assert read(mail)["From"] == f"tocsin <{mail.sender}>"
    parsed = read(rendered(MESSAGE, service=service(TOCSIN_EMAIL_FROM="알림 서비스 <alarm@example.org>")))
    assert parsed["From"].addresses[0].display_name == "알림 서비스"
    parsed = read(rendered(MESSAGE, service=service(TOCSIN_EMAIL_FROM='"Ops, \\"night\\"" <alarm@example.org>')))
    assert parsed["From"].addresses[0].display_name == 'Ops, "night"'


def test_recipients_outside_ascii():
    mail = rendered(MESSAGE, EmailSettings("root@한국.kr"))
    assert mail.recipient == "root@xn--3e0b707e.kr"
    assert read(mail)["To"] == mail.recipient
    mail = rendered(MESSAGE, EmailSettings("받는이@example.com"))
    assert mail.recipient == "받는이@example.com"
    assert "To: 받는이@example.com\r\n".encode() in mail.content


# -------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "value",
    [
        "hey@example.com",
        "root@nas",
        "root@localhost",
        "a+b.c@x.local",
        "me@nas.home.arpa",
        "o'brien=x?@e.example",
        "받는이@한국.kr",
        f"{'a' * 64}@example.com",
    ],
)
def test_good_addresses(value: str):
    assert fields_of(EmailSettings)["email"].check(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nobody",
        "@example.com",
        "a@",
        "a@b@c",
        "a b@example.com",
        " a@example.com",
        "a@example.com ",
        "a@example.com\r\nBcc: b@example.com",
        "a@example.com\n",
        "Me <me@example.com>",
        "<me@example.com>",
        "a@exa_mple..com",
        "a,b@example.com",
        '"a b"@example.com',
        f"{'a' * 65}@example.com",
        f"{'가' * 22}@example.com",
        f"a@{'b.' * 130}com",
        "a\x00@example.com",
    ],
)
def test_bad_addresses(value: str):
    complaint = fields_of(EmailSettings)["email"].check(value)
    assert complaint
    assert len(value) < 5 or value not in complaint


def test_pacing_is_the_operator_s():
    assert CHANNEL.paces(HANDLER, service()) == ()
    assert CHANNEL.paces(HANDLER, service(TOCSIN_SMTP_RATE="5")) == (Pace("smtp", 5, 1.0, "service"),)
    assert CHANNEL.paces(HANDLER, service(TOCSIN_SMTP_RATE="0.1")) == (Pace("smtp", 1, 10.0, "service"),)
    assert CHANNEL.paces(HANDLER, service(TOCSIN_SMTP_RATE="2.5")) == (Pace("smtp", 2, 0.8, "service"),)


def test_what_the_engine_reads():
    assert CHANNEL.target(HANDLER) == "me@example.com"
    assert (CHANNEL.in_flight, CHANNEL.unknown_wait_seconds, CHANNEL.signs) == (3, 300, False)
    assert fields_of(EmailSettings)["email"].hide is None


# -------------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("code", "enhanced", "stage", "outcome", "reason"),
    [
        (421, "", "final", Later, Reason.MAIL_SERVER),
        (421, "4.7.0", "rcpt", Later, Reason.MAIL_SERVER),
        (421, "", "connect", Later, Reason.MAIL_SERVER),
        (450, "", "hello", Later, Reason.MAIL_SERVER),
        (451, "4.3.0", "mail", Later, Reason.MAIL_SERVER),
        (451, "4.7.1", "mail", Later, Reason.MAIL_SERVER),
        (451, "4.3.5", "rcpt", Later, Reason.MAIL_SERVER),
        (451, "4.3.0", "data", Later, Reason.MAIL_SERVER),
        (452, "4.3.1", "final", Later, Reason.MAIL_SERVER),
        (452, "4.5.3", "rcpt", Later, Reason.MAIL_SERVER),
        (452, "", "final", Later, Reason.MAIL_SERVER),
        (451, "", "rcpt", Later, Reason.SERVER_ERROR),
        (450, "4.1.8", "rcpt", Later, Reason.MAIL_ACCOUNT),
        (450, "4.1.8", "mail", Later, Reason.MAIL_ACCOUNT),
        (450, "4.2.0", "rcpt", Later, Reason.SERVER_ERROR),
        (451, "4.7.1", "rcpt", Later, Reason.SERVER_ERROR),
        (452, "4.2.2", "rcpt", Later, Reason.MAILBOX),
        (452, "", "mail", Later, Reason.MAIL_SERVER),
        (550, "5.1.1", "rcpt", Gone, Reason.MAILBOX),
        (551, "5.1.6", "rcpt", Gone, Reason.MAILBOX),
        (553, "5.1.3", "rcpt", Gone, Reason.MAILBOX),
        (554, "5.1.10", "final", Gone, Reason.MAILBOX),
        (550, "5.1.2", "final", Gone, Reason.MAILBOX),
        (550, "", "rcpt", Refused, Reason.REJECTED),
        (550, "", "data", Refused, Reason.REJECTED),
        (554, "", "rcpt", Refused, Reason.REJECTED),
        (550, "5.2.1", "rcpt", Refused, Reason.MAILBOX),
        (552, "5.2.2", "rcpt", Later, Reason.MAILBOX),
        (552, "", "rcpt", Later, Reason.MAILBOX),
        (552, "", "final", Refused, Reason.TOO_LARGE),
        (552, "5.3.4", "mail", Refused, Reason.TOO_LARGE),
        (554, "5.6.1", "final", Refused, Reason.PAYLOAD),
        (553, "5.6.7", "rcpt", Refused, Reason.PAYLOAD),
        (554, "5.7.1", "rcpt", Refused, Reason.POLICY),
        (550, "5.7.507", "rcpt", Refused, Reason.POLICY),
        (550, "5.7.26", "final", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.20", "final", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.23", "rcpt", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.27", "final", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.30", "final", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.40", "final", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.68", "rcpt", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.233", "final", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.501", "final", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.509", "final", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.511", "rcpt", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.515", "final", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.606", "rcpt", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.649", "rcpt", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.650", "rcpt", Refused, Reason.POLICY),
        (550, "5.1.90", "rcpt", Later, Reason.MAIL_ACCOUNT),
        (550, "5.4.5", "final", Later, Reason.MAIL_ACCOUNT),
        (450, "4.7.26", "final", Later, Reason.MAIL_ACCOUNT),
        (451, "4.7.651", "rcpt", Later, Reason.MAIL_ACCOUNT),
        (550, "4.7.1", "final", Later, Reason.SERVER_ERROR),
        (550, "5.1.1", "mail", Later, Reason.MAIL_ACCOUNT),
        (553, "5.1.8", "rcpt", Later, Reason.MAIL_ACCOUNT),
        (530, "5.7.0", "mail", Later, Reason.MAIL_ACCOUNT),
        (530, "5.7.0", "rcpt", Later, Reason.MAIL_ACCOUNT),
        (535, "5.7.8", "auth", Later, Reason.MAIL_ACCOUNT),
        (454, "4.7.0", "auth", Later, Reason.MAIL_ACCOUNT),
        (554, "5.7.1", "connect", Later, Reason.MAIL_ACCOUNT),
        (550, "5.7.1", "hello", Later, Reason.MAIL_ACCOUNT),
        (454, "", "starttls", Later, Reason.MAIL_SERVER),
        (501, "5.5.4", "starttls", Later, Reason.MAIL_ACCOUNT),
        (354, "", "final", Later, Reason.MAIL_SERVER),
        (250, "", "rcpt", Later, Reason.MAIL_SERVER),
    ],
)
def test_verdicts(code: int, enhanced: str, stage: str, outcome: type, reason: Reason):
    verdict = CHANNEL.classify(MailReply(code, f"{enhanced} said so".strip(), stage, enhanced), context())
    assert isinstance(verdict, outcome)
    assert verdict.reason is reason
    assert str(code) in verdict.detail
    assert getattr(verdict, "counts", True)
    assert getattr(verdict, "ours", False) == (reason in {Reason.TOO_LARGE, Reason.PAYLOAD})


def test_yes():
    verdict = CHANNEL.classify(MailReply(250, "2.0.0 Ok: queued as 4F2A1", "final", "2.0.0"), context())
    assert isinstance(verdict, Delivered)
    assert verdict.provider_id == "4F2A1"
    assert CHANNEL.classify(MailReply(250, "OK", "final"), context()) == Delivered(None, "250 OK")


@pytest.mark.parametrize(
    ("code", "enhanced", "text"),
    [
        (554, "5.7.1", "5.7.1 <me@example.com>: Relay access denied"),  # Postfix
        (550, "", "relay not permitted"),  # Exim
        (550, "5.7.1", "5.7.1 <me@example.com>... Relaying denied"),  # sendmail
        (550, "5.7.54", "5.7.54 SMTP; Unable to relay recipient in non-accepted domain"),  # Exchange
        (553, "", "Relaying disallowed as me@example.com"),
        (550, "", "<me@example.com> is not permitted to relay through this server without authentication"),
        (550, "", "Verification failed for <tocsin@nas>\nNo Such User Here\nSender verify failed"),  # Exim
        (550, "", "Verification failed for <tocsin@nas>"),
        (550, "", "Access denied - Invalid HELO name (See RFC2821 4.1.1.1)"),
        (550, "", "authentication required"),
        (550, "", "Please turn on SMTP Authentication in your mail client."),
        (550, "", "Mail from must equal authorized user"),
        (550, "", "black ip"),
        (550, "", "Blocked: your IP is listed by an RBL"),
        (554, "5.7.1", "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.example.org"),
        (550, "5.7.25", "5.7.25 The address has no reverse name"),
        (553, "5.7.1", "5.7.1 <a@example.com>: Sender address rejected: not owned by user b@example.com"),  # Postfix
        (554, "5.2.252", "5.2.252 SendAsDenied; a@example.com not allowed to send as b@example.com"),
        (554, "5.2.0", "5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied"),
        (550, "5.7.60", "5.7.60 SMTP; Client does not have permissions to send as this sender"),
        (550, "", "The from address does not match a verified Sender Identity."),
        (554, "", "Message rejected: Email address is not verified."),
        (550, "5.7.1", "5.7.1 Daily SMTP relay limit exceeded for customer."),  # Gmail
        (550, "5.7.1", "5.7.1 You have exceeded your sending quota"),
        (550, "", "Domain example.org has exceeded the max emails per hour (200/200 (100%)) allowed. Message discarded."),  # cPanel
        (451, "", "Domain example.org has exceeded the max emails per hour (201/200) allowed. Message will be reattempted later"),
        (554, "5.2.0", "5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message"),
        (554, "5.2.2", "5.2.2 Submission quota exceeded"),
        (550, "", "Sender frequency limited"),  # QQ
        (550, "5.7.1", "5.7.1 Unauthenticated email from example.org is not accepted due to domain's DMARC policy."),
        (550, "", "SPF check failed"),
        (550, "5.7.1", "5.7.1 Our system has detected an unusual rate of unsolicited mail originating from your IP address."),
        (550, "5.7.1", "5.7.1 This message is likely suspicious due to the very low reputation of the sending domain."),
        (550, "5.7.1", "5.7.1 The IP you're using to send mail is not authorized to send email directly to our servers."),
        (554, "", "IP=192.0.2.1 - None/bad reputation. Ask your postmaster for help"),  # T-Online
        (550, "", "This IP has sent too many messages this hour. IB504"),  # GoDaddy
        (550, "", "SC-004 (COL0-MC1-F1) Unfortunately, messages from 192.0.2.1 weren't sent."),  # Outlook
        (550, "5.7.0", "5.7.0 Mail Sending denied."),
        (550, "", 'Outgoing mail from "a@example.org" has been suspended.'),
        (550, "", "Sending from this account has been disabled"),
        (550, "", "Your account has been disabled"),
        (550, "", "Unknown user or bad password"),
        (550, "", "Domain of sender does not exist"),
        (550, "", "Envelope sender does not exist"),
        (550, "", "Unroutable sender address"),
        (550, "", "Requested action not taken: mailbox unavailable\ninvalid DNS MX or A/AAAA resource record"),  # GMX
        (552, "5.2.2", "5.2.2 Your outgoing e-mail quota exceeded"),
        (451, "", "Rate limit exceeded"),
        (451, "", "Sender rate limit exceeded"),
        (550, "", "You have exceeded your daily recipient limit"),
        (550, "", "Your mailbox has reached its sending limit"),
        (550, "", "Number of messages exceeds the daily limit"),
        (550, "5.7.1", "5.7.1 Message rejected (spf=fail; dkim=none)"),
        (550, "5.7.1", "5.7.1 Message rejected: DKIM passed, SPF did not pass"),
        (550, "5.7.1", "5.7.1 Your sending domain has a bad reputation"),
        (550, "5.7.1", "5.7.1 Your account has been blocked"),
        (550, "", "Your message was blocked by the recipient's server: your IP has no reverse DNS"),
        (550, "", "Rejected by the recipient server: DMARC check failed"),
        (450, "4.7.1", "4.7.1 Client host rejected: cannot find your hostname, [192.0.2.1]"),
        (550, "", "Recipient address rejected: Relay access denied"),
        (550, "", "Recipient rejected - Client host blocked using bl.example.org"),
        (550, "", "Authentication required to send mail to the recipient"),
        (550, "", "Invalid recipient. Your IP 192.0.2.1 is blocked"),
        (550, "", "Your IP is on our block list"),
        (550, "", "Client host blocked, use the link in our FAQ"),
        (550, "", "Sender not found, recipient ok"),
        (550, "", "User unknown; too many messages from your account"),
        (550, "", "host mx1.example.com said: 550 Sender rejected (in reply to MAIL FROM command)"),
        (550, "5.7.1", "5.7.1 Rejected, see https://www.spamhaus.org/query/ip/192.0.2.1"),
        (550, "", "Message rejected. See https://rbl.example.net/lookup"),
    ],
)
@pytest.mark.parametrize("stage", ["rcpt", "data", "final"])
def test_a_server_that_does_not_send_for_us_is_no_fault_of_the_address(stage: str, code: int, enhanced: str, text: str):
    verdict = CHANNEL.classify(MailReply(code, text, stage, enhanced), context())
    assert verdict == Later(Reason.MAIL_ACCOUNT, detail=f"{code} {text}")


@pytest.mark.parametrize(
    ("enhanced", "text"),
    [
        ("5.1.1", "5.1.1 User unknown in relay recipient table"),
        ("", "No such user here"),
        ("", "<me@example.com>: Recipient address rejected: User unknown in local recipient table"),
        ("", "Requested action not taken: no such user here"),
        ("", "<me@example.com>... User unknown"),
        ("", "Recipient address rejected: User unknown in virtual mailbox table"),
        ("", "User unknown in relay recipient table"),
        ("", "Unrouteable address"),
        ("", "Unknown user me@example.com"),
        ("", "User (me@example.com) unknown."),
        ("", "Mailbox not found. http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000728"),
        ("", "User not found: me@example.com"),
        ("", "Message was not accepted -- invalid mailbox.  Local mailbox me@example.com is unavailable: user not found"),  # mail.ru
        ("", "The email account that you tried to reach does not exist. Please try double-checking the recipient's email address"),
        ("", "<me@example.com> does not exist"),
        ("", "RCPT <me@example.com> does not exist"),
        ("", "me@example.com: account does not exist at the organization"),
        ("", "No such person at this address"),
        ("", "There is no one at this address"),
        ("", "This mailbox is disabled"),
        ("", "This user doesn't have a example.com account (me@example.com)"),
        ("", "sorry, no mailbox here by that name"),
        ("", "Invalid recipient"),
        ("", "me@example.com is not a valid mailbox"),
        ("", "The email account that you tried to reach is disabled"),
        ("", "User unknown (mx.example.com)"),
        ("", "User unknown (spam-filter.example.com)"),
        ("", "<me@example.com>: User unknown [blocked7]"),
        ("", "No such user; ip=192.0.2.1 helo=<spam.example.org> id=sender-17"),
        ("", "host mx1.example.com said: 550 User unknown (in reply to RCPT TO command)"),
        ("", "host mx1.example.com[192.0.2.7] said: 550 5.1.1 <me@example.com>: User unknown (in reply to RCPT TO command)"),
        ("", "User unknown - https://mail.example.com/spam"),
        ("", "User unknown, see www.example.com/rbl/blocked"),
        ("", "User unknown (#5.1.1 - chkuser), sender accepted"),
        ("", "Sender ok, recipient not found"),
        ("", "No such user. Your IP 192.0.2.1"),
        ("", "No such user (your IP is 192.0.2.1)"),
        ("", "No such user. Your IP address: [192.0.2.1]"),
        ("", "No such user. Your IP is 2001:db8::7"),
        ("", "No such user. Your IP has been logged."),
        ("", "No such recipient... If you believe your account should exist, contact support."),
        ("", "No such recipient here. If this is an error, ask the administrator of your domain"),
        ("", "User unknown. Please check the recipient's e-mail address and try again"),
        ("", "The user you are sending to does not exist"),
    ],
)
def test_a_mailbox_that_does_not_exist_is_gone(enhanced: str, text: str):
    assert isinstance(CHANNEL.classify(MailReply(550, text, "rcpt", enhanced), context()), Gone)


@pytest.mark.parametrize(
    ("enhanced", "stage", "text", "outcome"),
    [
        ("", "rcpt", "<ptr@example.com>: Recipient address rejected: User unknown in virtual mailbox table", Gone),
        ("", "rcpt", "helo@example.com: no such user", Gone),
        ("5.7.1", "final", "5.7.1 prohibited content, contact your network administrator", Refused),
        ("5.7.1", "final", "5.7.1 Your server-status report was classified as spam", Refused),
        ("5.2.1", "rcpt", "5.2.1 The mailbox is disabled, sender: alarm@example.org is not on the allow list", Refused),
        ("5.7.1", "rcpt", "5.7.1 RESOLVER.RST.AuthRequired; authentication required", Refused),
        ("5.7.133", "final", "5.7.133 SenderNotAuthenticatedForGroup; authentication required", Refused),
        ("", "rcpt", "<unknown-user@example.com> is not welcome", Refused),
        ("", "final", "Message contains a URL with bad reputation", Refused),
        ("", "rcpt", "Unauthenticated senders not allowed", Refused),
        ("5.7.1", "rcpt", "5.7.1 No such user!", Refused),  # Yandex
        ("5.7.1", "final", "5.7.1 Spam message rejected (score=15.2; spf=pass; dkim=pass)", Refused),
        ("5.7.1", "final", "5.7.1 Spam message rejected, SPF passed, DKIM: pass", Refused),
        ("5.7.1", "final", "5.7.1 Your message contains a URL whose domain has a bad reputation", Refused),
        ("5.7.1", "final", "5.7.1 Your message contains links to a domain, whose IP reputation is bad", Refused),
        ("5.7.1", "final", "5.7.1 Your message contains a URL listed at https://www.spamhaus.org/query/domain/x.example", Refused),
        ("5.7.1", "rcpt", "5.7.1 Recipient has blocked your account", Refused),
        ("5.7.1", "rcpt", "5.7.1 This user has blocked your account", Refused),
        ("5.7.1", "rcpt", "5.7.1 Your account was blocked by the recipient", Refused),
        ("4.2.2", "rcpt", "4.2.2 The email account that you tried to reach is over quota", Later),
        ("", "rcpt", "sender-verify.failed@relay-denied.example is not a known user here", Gone),
    ],
)
def test_what_is_about_the_recipient_or_the_message_is_not_the_account_s(enhanced: str, stage: str, text: str, outcome: type):
    assert isinstance(CHANNEL.classify(MailReply(550, text, stage, enhanced), context()), outcome)


@pytest.mark.parametrize(
    ("code", "enhanced", "text", "reason"),
    [
        (552, "5.2.2", "5.2.2 Email quota exceeded", Reason.MAILBOX),
        (552, "5.2.2", "5.2.2 Mailbox full: email quota exceeded", Reason.MAILBOX),
        (452, "4.2.2", "4.2.2 The recipient's mailbox is over its daily limit", Reason.MAILBOX),
        (451, "", "Recipient rate limit exceeded", Reason.SERVER_ERROR),
        (451, "4.7.1", "4.7.1 Rate limit exceeded for this recipient", Reason.SERVER_ERROR),
        (451, "", "Too many messages from you to this recipient, rate limited", Reason.SERVER_ERROR),
        (450, "4.7.1", "4.7.1 <c[192.0.2.1]>: Client host rejected: Greylisted", Reason.SERVER_ERROR),
        (450, "4.7.1", "4.7.1 Client host rejected: grey-listing is active", Reason.SERVER_ERROR),
        (450, "4.7.1", "4.7.1 Recipient address rejected: Greylisted, see https://www.example.com/rbl.html", Reason.SERVER_ERROR),
    ],
)
def test_a_wait_for_the_recipient_is_not_the_account_s(code: int, enhanced: str, text: str, reason: Reason):
    assert CHANNEL.classify(MailReply(code, text, "rcpt", enhanced), context()) == Later(reason, detail=f"{code} {text}")


@pytest.mark.parametrize(
    "text",
    [
        *("", "Access denied", "rejected", "RP:RDN", "High probability of spam", "拒收"),
        "Requested action not taken: mailbox unavailable",  # of policies too (RFC 5321 4.2.3)
        "Requested action not taken: mailbox unavailable\nReject due to policy restrictions.",  # GMX
        "Mailbox unavailable or access denied",  # QQ: the recipient gets too many mails
        "Mail is rejected by recipients",
        "#5.1.0 Address rejected.",
        "Recipient address rejected: Access denied",
        "This account has been temporarily suspended",
        "Unknown user, rejected by a policy",
        "Domain does not exist",
        "No such domain",
        "Invalid command address syntax",
        "Mailbox is currently not available, try again later",
        "Mailbox not available",
        "Mailbox closed for maintenance",
        "inactive mailbox over quota",
        "Mailbox disabled: full",
        "Account closed for now",
        "This account has been suspended",
        "User not found, please retry",
        "User not found: lookup timed out",
        "Recipient not found: directory server unavailable",
        "Recipient address rejected: unknown error",
        "Recipient address rejected: unverified address: unknown user",
        "host mx1.example.com[192.0.2.7] said: 450 4.2.0 User unknown (in reply to RCPT TO command)",
        "host mx1.example.com said: 550 User unknown (in reply to MAIL FROM command)",
        "User unknown. Please check the sender address",
        "Mailbox disabled. If this is new to you, try again later",
        "Email quota exceeded",
        "Your message exceeds the sending size limit of 20 MB",
        "Your message exceeds the outgoing limit of 20 MB",
        "Message is too large for the outgoing limit",
        "The URL is on our block list",
        "Links in your message: bad domain reputation",
    ],
)
def test_a_refusal_for_a_reason_that_is_not_said_does_not_switch_the_handler_off(text: str):
    assert CHANNEL.classify(MailReply(550, text, "rcpt"), context()) == Refused(Reason.REJECTED, f"550 {text}".strip())


@pytest.mark.parametrize("reason", [Reason.DNS, Reason.CONNECT, Reason.TLS, Reason.TIMEOUT, Reason.CUT, Reason.BAD_ANSWER])
def test_a_mail_server_that_does_not_answer_is_the_operator_s(reason: Reason):
    assert CHANNEL.no_reply(NoReply(reason, False, "x")) == Later(Reason.MAIL_SERVER, detail="x")
    assert CHANNEL.no_reply(NoReply(reason, True, "x")) == Unknown(Reason.MAIL_SERVER, "x")


def test_no_answer_for_other_reasons():
    assert CHANNEL.no_reply(NoReply(Reason.MAIL_NOT_CONFIGURED, False)) == Later(Reason.MAIL_NOT_CONFIGURED)
    assert CHANNEL.no_reply(NoReply(Reason.MAIL_ACCOUNT, False)) == Later(Reason.MAIL_ACCOUNT)
    assert CHANNEL.no_reply(NoReply(Reason.CUT, True, stopped=True)) == Unknown(Reason.CUT)
    lacking = NoReply(Reason.CONNECT, False, "too many open files", ours=True)
    assert CHANNEL.no_reply(lacking) == classify_no_reply(lacking)


def test_every_answer_has_a_verdict():
    codes = ["", *(f"{a}.{b}.{c}" for a in (2, 4, 5, 9) for b in range(10) for c in range(12)), "x", "5.", "5.1.999"]
    for stage in (*STAGES, "", "odd"):
        for code in range(-1, 1000):
            verdict = CHANNEL.classify(MailReply(code, "text", stage), context())
            if stage in BEFORE_RECIPIENT:
                assert verdict.reason in OURS, (stage, code)
            assert isinstance(verdict, Delivered) == (stage == "final" and 200 <= code < 300)
            if isinstance(verdict, Gone):
                assert (stage, code) == ("rcpt", 550)
        for code in (250, 421, 450, 550, 552, 554):
            for enhanced in codes:
                verdict = CHANNEL.classify(MailReply(code, "text", stage, enhanced), context())
                if enhanced.startswith("4.3.") and code >= 400:
                    assert verdict.reason in OURS, (stage, code, enhanced)
                if isinstance(verdict, Gone | Refused) and verdict.reason is not Reason.TOO_LARGE:
                    assert stage not in BEFORE_RECIPIENT


# --------------------------------------------------------------------------------------------------------- the whole way


def test_to_a_real_server_and_back():
    async def run(url: str) -> object:
        given = service(TOCSIN_SMTP_URL=url)
        wire = MailWire(given)
        (mail,) = CHANNEL.render(MESSAGE, HANDLER, context(service=given))
        assert isinstance(mail, Mail)
        reply = await wire.send(mail)
        await wire.close()
        return CHANNEL.classify(reply, context())

    with MailServer() as server:
        verdict = asyncio.run(run(server.url()))
        assert isinstance(verdict, Delivered)
        [received] = server.mails
        assert (received.sender, received.recipients) == ("alarm@example.org", ["me@example.com"])
        assert received.content == rendered(MESSAGE).content
        server.answer("rcpt", "550 5.1.1 <me@example.com>: no such user")
        assert isinstance(asyncio.run(run(server.url())), Gone)


def test_each_paragraph_cell_and_title_has_the_direction_of_its_words():
    text = "שלום עולם\n\n- مرحبا\n\n> ציטוט\n\n| א | b |\n|---|---|\n| 1 | ב |\n\n# כותרת"
    page = read(rendered(Message(text, "مرحبا بالعالم", fields=(("שם", "ערך"),)))).get_body(("html",)).get_content()
    for tag in ("p", "li", "ul", "blockquote", "table", "th", "td", "h1"):
        found = re.findall(rf"<{tag}[ >][^>]*", page[page.index("<body") :])
        ours = [one for one in found if 'class="word"' not in one and 'class="foot"' not in one]
        assert ours and all('dir="auto"' in one for one in ours), tag
    assert "text-align: left" not in page and "text-align:left" not in page
