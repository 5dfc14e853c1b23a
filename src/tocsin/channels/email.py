"""E-mail through the operator's mail server."""

import functools
import hashlib
import math
import re
from email import message_from_bytes
from email.header import Header
from email.policy import default
from email.utils import format_datetime, quote
from html import escape
from pathlib import Path
from typing import Annotated, cast

import css_inline
import jinja2
from markupsafe import Markup
from msgspec.structs import replace

from tocsin import zones
from tocsin.channels.chat import KEPT, Look, document_of, fields_of, look
from tocsin.channels.contract import Channel, Context, Field, HandlerSettings, Pace, Size, classify_no_reply
from tocsin.channels.mime import alternative_body, text_body
from tocsin.markup.cut import fit
from tocsin.markup.html import BECOMES, html, remembering
from tocsin.markup.length import clean_line, cut, cut_characters, share, utf8
from tocsin.markup.plain import plain
from tocsin.model import (
    Delivered,
    Gone,
    Later,
    Mail,
    MailReply,
    Message,
    NoReply,
    Outcome,
    Reason,
    Refused,
    Request,
    Severity,
    Unknown,
)
from tocsin.net.addresses import Address, read_address
from tocsin.net.mail import default_sender, sender
from tocsin.settings import Settings

ROOT = "smtp"  # all mail goes through one server, so one process sends it
MAX_HTML_BYTES = 100_000  # Gmail hides what is beyond about 102 KB: https://github.com/hteumeuleu/email-bugs/issues/41
_FIELD_NAME_BYTES = 16_000  # of that, for the names of all fields
_FIELD_VALUE_BYTES = 30_000
_MIN_BODY_BYTES = 1_000
_SUBJECT_FROM_TEXT = 100
_SHOWN_URL = 300
_LAST_LINE_BREAK = 2  # bytes: the part may end in one more
_LONGEST_PLAIN_WORD = 60  # a longer one would get a line of its own, after an empty one
_COLOURS = {Severity.INFO: "#3498db", Severity.SUCCESS: "#2ecc71", Severity.WARNING: "#f1c40f", Severity.CRITICAL: "#e74c3c"}
_LOUD = (Severity.WARNING, Severity.CRITICAL)

# RFC 3463, https://www.iana.org/assignments/smtp-enhanced-status-codes
_NO_SUCH_MAILBOX = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})
_BAD_SENDER = frozenset({"4.1.7", "4.1.8", "5.1.7", "5.1.8"})
_FULL = frozenset({"4.2.2", "5.2.2"})
_TOO_LARGE = frozenset({"5.2.3", "5.3.4"})
# The account, its limits, the sender's domain or the sending address: what only the operator can repair. RFC 5248, 7372, 7505;
# https://learn.microsoft.com/exchange/troubleshoot/email-delivery/ndr/non-delivery-reports-in-exchange-online and
# https://knowledge.workspace.google.com/admin/support/troubleshooting/gmail-smtp-errors-and-codes
_ACCOUNT = frozenset(
    {
        *("5.1.90", "5.2.252", "5.4.5", "5.7.8", "5.7.9", "5.7.10", "5.7.13"),
        *(f"5.7.{detail}" for detail in range(20, 33)),  # DKIM, SPF, reverse DNS, DMARC, null MX, floods, ARC
        *("5.7.40", "5.7.54", "5.7.57", "5.7.60", "5.7.64", "5.7.68", "5.7.232", "5.7.233"),
        *("5.7.501", "5.7.502", "5.7.503", "5.7.506", "5.7.508", "5.7.509", "5.7.511", "5.7.515"),
        *(f"5.7.{detail}" for detail in range(606, 650)),  # banned addresses
        *("5.7.703", "5.7.705", "5.7.708", "5.7.750", "5.7.800"),
    }
)
_SUSPECTED = re.compile(r"4\.7\.(?:[56]\d\d|8[5-9]\d)")  # Microsoft restricts the sending address for now
_BEFORE_MAIL = frozenset({"connect", "hello", "starttls", "auth"})


def _saying(*words: str) -> re.Pattern[str]:
    """One of these in a server's answer, whose lines may be wrapped anywhere."""
    return re.compile("|".join(rf"\b(?:{one})\b" for one in words), re.IGNORECASE | re.DOTALL)


# What is taken out before words are looked for, since it may be made of any of them.
_ADDRESS = re.compile(r"<[^<>]*>|(?<!\S)\S*@\S*[^\s.,;:!?)]")
_NOT_PROSE = re.compile(
    "|".join(
        [
            r"(?i:\b(?:https?://|www\.)\S*[^\s.,;:!?)])",
            r"(?<![\w.=-])(?!(?:reason|status|error)=)[\w.-]+=(?!\w*fail)[^\s;,()]*",  # "spf=pass"
            r"\[[^][\s\d]*\d[^][\s]*\]|\(#5\.1\.[^()]*\)",  # "[mx7-blocked]", "(#5.1.1 - chkuser)"
            r"(?i:(?:\bis )?(?<![\w.:-])(?:\d+(?:\.\d+){2,3}|(?:[\da-f]{1,4}:){2}[\da-f:]*)(?![\w-]))",  # an enhanced code; "is 192.0.2.1"
            r"(?<![\w.-])(?:[\w-]+\.)+(?:[a-z]{2,}|[A-Z]{2,})(?![\w-])",  # a host; "STOREDRV.Submission.Exception" is none
            r"(?i:\bhost \S+ said: 5\d\d|\brcpt to\b)",  # around the answer of another server
            r"(?i:\bsender (?:address )?(?:is |was )?(?:ok|okay|accepted|valid|verified)\b(?: ok)?)",
            r"(?i:\byour ip(?: address)?(?: \S+)? (?:is|was|has been|will be) (?:logged|recorded)\b)",
            # Advice, to the end of its sentence.
            r"(?i:\bif (?:you (?:believe|think|feel|suspect)|this (?:is|was) (?:an |a |in )?(?:error|mistake))\b[^.;!?]*)",
            r"(?i:\bcheck(?:ing)? (?:the |that |its )?(?:recipient(?:'s)? )?(?:e-?mail )?(?:address|spelling|recipient)\b[^.;:!?]*)",
        ]
    )
)
_CLAUSE_END = re.compile(r"[.,;:!?]| -+ |\b(?:because|due to)\b")

# Said to a client that may not send through a server, or not from this address: 5.7.1, 550 and 554 alone are ambiguous.
_NOT_FOR_US = _saying(
    r"relay(?:ing)? (?:is )?(?:access )?(?:denied|disallowed|prohibited|not permitted|not allowed)|unable to relay|to relay through",
    r"sender (?:address |verify |verification )?(?:was |is )?(?:denied|rejected|refused|fail(?:ed|ure)?|invalid|unverified|mismatch)",
    r"sender (?:address )?(?:is |was )?not (?:allowed|authori[sz]ed|permitted|verified|owned|matched)|\w*sendasdenied\w*|not owned by",
    r"verification failed for|to send (?:e-?mails? |messages? )?(?:as|from|on behalf of)|(?:address|domain|identity) is not verified",
    r"from address\b.{0,40}\bnot|mail ?from must|(?:helo|ehlo) (?:name|command|host|argument)|(?:invalid|bad) (?:helo|ehlo)",
    r"auth(?:entication)? (?:is )?required|requires? (?:smtp )?auth(?:entication)?|smtp auth(?:entication)?",
    r"not (?:logged in|authenticated)|(?:must|please|need to) (?:first )?(?:authenticate|log ?in)",
    r"client host|(?:your|this) (?:ip|ip address) (?:is|was|has)|messages from\b.{0,40}\bweren't sent|black ip|reverse dns|rdns|ptr record",
    r"(?:dnsbl|rbl|blocked using|spamhaus)|(?:on|by|in) (?:a |our |an )?(?:block|black) ?list",
    r"(?:daily|hourly|sending|relay|submission|outgoing|outbound)\b.{0,30}\b(?:limit|quota)s?|\w*submissionquota\w*",
    r"exceeded the max(?:imum)? (?:e-?mails|messages|defers)|frequency limited|rate[ -]limit(?:ed)?|too many (?:e-?mails|messages) from",
    r"(?:spf|dkim|dmarc)(?!\W{1,3}(?:check )?(?:is |has |was )?pass(?:e[ds])?\b)|sender policy framework",
    r"(?:is|are) unauthenticated|unauthenticated e-?mail|fail\w*\b.{0,20}\bauthentication",
    r"(?:ip|domain|sender|server)\b.{0,20}\breputation|reputation of the sending|none/bad reputation|banned send(?:er|ing)",
    r"bad outbound sender|unsolicited mail originating from your|not authorized to send e-?mail directly|invalid dns",
    r"(?:mail sending|sending from|outgoing (?:e-?mail|mail|messages?))\b.{0,60}\b(?:denied|disabled|suspended)",
    r"your (?:\w+ )?account|(?:or|and|bad|wrong|incorrect|invalid) password|credentials",
    r"sender\b.{0,40}\b(?:(?:do(?:es)?(?:n't| not)|not) exist|(?:not|cannot be) (?:found|resolved|verified))",
    r"sender (?:address |domain )?unknown|unroutable sender",
)
# The name of a block list, or a link to it, may be the only reason that is given.
_BLOCK_LIST = re.compile(r"\b(?:spamhaus\.org|spamcop\.net|barracudacentral\.org|(?:rbl|dnsbl)\.[\w.-]+)", re.IGNORECASE)
# How a clause about the recipient begins, whatever words of the above follow. But only a sender's mailbox has a limit for sending.
_ABOUT_RECIPIENT = re.compile(
    r"\W*(?:(?:sorry|but|the|this|intended|e-?mail)\b\W*)*(?:recipient|addressee|mail ?box(?! unavailable))\b"
    r"(?!.*\b(?:send|sending|outgoing|relay))",
    re.IGNORECASE,
)
# Said beside such words it is the message, the recipient's own limits and rules, or a wait that every sender gets.
_NOT_ABOUT_US = _saying(
    r"size|too (?:large|big)|(?:message|e-?mail|attachment) exceeds\b.{0,60}\d ?[kmg]i?b|gr[ea]y ?-?list\w*",
    r"contain\w*\b.{0,40}\b(?:urls?|links?|attachments?|content|words?|virus)|(?:bad|malicious|suspicious|listed) (?:url|link|content)s?",
    r"(?:url|link|attachment|content)s? (?:with|whose|has|is|are|in (?:the |your |this )?(?:message|e-?mail))",
    r"(?:user|person|owner|customer) (?:has|have) blocked|blocked by (?:the |this )?(?:recipient|user|owner)\b(?!'s| (?:server|domain))",
    r"(?:limit\w*|quota|too many)\b.{0,30}\b(?:for|to|of) (?:the |this |that )?(?:recipient|mail ?box)",
)
# A recipient's own rules, though they speak of senders and authentication (Exchange).
_RESTRICTED = frozenset({"5.7.124", "5.7.129", "5.7.133", "5.7.134", "5.7.135", "5.7.136"})
# That there is no such mailbox, from servers without enhanced codes. They say 550 to a client that they do not like, too, and RFC 5321
# has "mailbox unavailable" for their policies as well, so it counts only if somebody is missing in plain words.
_SOMEBODY = r"(?:user|recipient|mail ?box|address(?:ee)?|account|alias|person|rcpt)"
_NOBODY = _saying(
    rf"no such (?:\w+ ){{0,2}}{_SOMEBODY}|no (?:mail ?box|user|account) (?:here|by|with)|there is no one at this address",
    rf"(?:{_SOMEBODY}\b.{{0,80}}\b|^)(?:do(?:es)?(?:n't| not)|not) exist",
    r"do(?:es)?(?:n't| not) have an?\b.{0,40}\b(?:account|mailbox)",
    rf"{_SOMEBODY}\b.{{0,40}}\b(?:unknown|not (?:found|known|valid)|no longer valid|terminated)",
    rf"{_SOMEBODY}\b.{{0,40}}\b(?:invalid|disabled|inactive|closed)",
    rf"(?:unknown|invalid|illegal|bad|inactive|non-?existent|unrouteable)\b.{{0,40}}\b{_SOMEBODY}",
    r"not (?:a (?:known|valid)|our) (?:user|customer|recipient|mailbox|address)",
)
# Said beside such words it is rather a policy, about the sender, or a fault that passes.
_DOUBTFUL = _saying(
    r"polic(?:y|ies)|spam\w*|block(?:ed|list\w*)|black ?list\w*|denied|restrict\w*|not (?:allowed|permitted)",
    r"sender|sending(?! to\b)|envelope from|mail from|from address|password|dns|helo|ehlo|syntax",
    r"your (?!ip\b)(?:\w+ )?(?:user|mailbox|address|domain|host|server|network)|(?:your ip|(?:ip|client|remote) address) \w",
    r"domain (?:name )?(?:do(?:es)?(?:n't| not) exist|not found|unknown)",
    r"temporar(?:y|ily)|suspended|currently|at (?:this|the) (?:time|moment)|(?:right|for) now|later|again|soon|shortly|retry|yet|until",
    r"maintenance|quota|full|limit\w*|busy|overload\w*|time[ds]?[ -]?out|gr[ea]y ?-?list\w*|unverified|(?:said|was|host)\W{1,3}4\d\d",
    r"(?:unknown|internal|lookup) (?:error|reason|failure)s?",
    r"(?:service|server|system|directory|database)\b.{0,20}\b(?:unavailable|fail\w*)",
)
_CONFIGURED = frozenset({Reason.MAIL_NOT_CONFIGURED, Reason.MAIL_ACCOUNT})


def _check(value: str) -> str | None:
    try:
        read_address(value)
    except ValueError as error:
        return str(error)
    return None


class EmailSettings(HandlerSettings, frozen=True):
    email: Annotated[
        str,
        Field(
            "E-mail address", "Where the e-mails go. Addresses of your own network, such as root@nas, are fine.", "me@example.com", _check
        ),
    ]


def _paces(_: EmailSettings, service: Settings) -> tuple[Pace, ...]:
    rate = service.smtp_rate
    if rate <= 0:
        return ()
    count = max(1, math.floor(rate))
    return (Pace(ROOT, count, count / rate, "service"),)


# ------------------------------------------------------------------------------------------------------------- rendering


def _render(message: Message, settings: EmailSettings, context: Context) -> list[Mail]:
    origin, recipient = _origin(context.service), read_address(settings.email)
    headers = "".join([f"{name}: {value}\r\n" for name, value in _headers(message, origin, recipient, context)])
    return [Mail(origin.mailbox, recipient.mailbox, headers.encode() + _body(message, look(context)))]


@functools.lru_cache(KEPT)
def _body(message: Message, look: Look) -> bytes:
    """Both parts with their MIME headers, or the text alone."""
    text = _text(message, look)
    if look.is_plain:
        return text_body(text)
    page = _html(message, look)
    # The boundary is derived from the content, so no author can write it; it is the same for every recipient and attempt.
    boundary = "=_" + hashlib.sha256((text + page).encode("utf-8", "replace")).hexdigest()[:32]
    return alternative_body(text, page, boundary)


def _origin(service: Settings) -> Address:
    try:
        return sender(service)
    except ValueError:
        return default_sender()  # the wire sends nothing until TOCSIN_EMAIL_FROM is fixed


def _headers(message: Message, origin: Address, recipient: Address, context: Context) -> list[tuple[str, str]]:
    """We write them ourselves: EmailMessage would decode text in a title that looks like an encoded word."""
    key = re.sub(r"[^A-Za-z0-9._-]", "-", context.key)
    headers = [
        ("From", f"{_phrase(origin.name)} <{origin.mailbox}>" if origin.name else origin.mailbox),
        ("To", recipient.mailbox),
        ("Subject", _encoded("Subject", _subject(message))),
        ("Date", format_datetime(zones.local(message.at or context.now, context.zone))),
        ("Message-ID", f"<{key}@{origin.domain}>"),
        ("List-Id", f"<handler-{context.handler_id}.{origin.domain}>"),
        ("Auto-Submitted", "auto-generated"),
    ]
    if context.unsubscribe:  # https://www.rfc-editor.org/rfc/rfc8058
        headers += [("List-Unsubscribe", f"<{context.unsubscribe}>"), ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")]
    return headers


def _phrase(name: str) -> str:
    name = clean_line(name)
    return f'"{quote(name)}"' if name.isascii() else _encoded("From", name)


def _encoded(header: str, text: str) -> str:
    """One header's value in ASCII, folded. Text that looks like an encoded word is itself encoded (RFC 2047)."""
    is_foldable = all(len(word) <= _LONGEST_PLAIN_WORD for word in text.split(" "))
    charset = "us-ascii" if text.isascii() and "=?" not in text and is_foldable else "utf-8"
    return Header(text, charset, header_name=header).encode(linesep="\r\n")


def _subject(message: Message) -> str:
    title = clean_line(message.title)
    if not title:
        lines = (clean_line(line) for line in plain(document_of(message)).split("\n"))
        title = cut_characters(next(filter(None, lines), "Notification"), _SUBJECT_FROM_TEXT)
    return f"[{_word(message)}] {title}" if message.severity in _LOUD else title


def _word(message: Message) -> str:
    return message.severity.value.capitalize()


def _text(message: Message, look: Look) -> str:
    fields = "\n".join([f"{name}: {value}" if "\n" not in value else f"{name}:\n{value}" for name, value in fields_of(message)])
    heading = f"[{_word(message)}] {clean_line(message.title)}".rstrip()
    parts = [heading, look.late, plain(document_of(message)), fields, clean_line(message.url), "-- \nSent by tocsin\n"]
    return "\n\n".join(filter(None, parts))


def _html(message: Message, look: Look) -> str:
    whole = fields_of(message)
    names = _shared([name for name, _ in whole], _FIELD_NAME_BYTES)
    values = _shared([value for _, value in whole], _FIELD_VALUE_BYTES)
    fields = list(zip(names, values, strict=True))

    def page(body: str, is_cut: bool) -> str:
        return _template().render(
            subject=_subject(message),
            colour=_COLOURS[message.severity],
            severity=_word(message),
            title=clean_line(message.title),
            late=look.late,
            body=Markup(body),  # noqa: S704 - markup.html has escaped it
            fields=fields,
            url=clean_line(message.url),
            shown_url=cut_characters(clean_line(message.url), _SHOWN_URL),
            is_cut=is_cut,
        )

    document = document_of(message)
    body = html(document)
    room = max(_MIN_BODY_BYTES, MAX_HTML_BYTES - _wire_bytes(page("", is_cut=True)) - _LAST_LINE_BREAK)
    if _wire_bytes(body) <= room:
        return page(body, is_cut=fields != whole)
    return page(fit(document, room, remembering(), _wire_bytes, "the HTML part"), is_cut=True)


def _shared(texts: list[str], room: int) -> list[str]:
    """The texts cut so that together they take at most `room` bytes of HTML; long ones give way first."""
    limit = share([_html_bytes(text) for text in texts], room)
    return [cut(text, limit, _html_bytes) for text in texts]


def _html_bytes(text: str) -> int:
    return _wire_bytes(escape(text))


def _wire_bytes(text: str) -> int:
    return utf8(text) + text.count("\n")  # each goes out as CRLF


@functools.cache
def _template() -> jinja2.Template:
    """The page with its rules as style attributes, because many mail programs drop the style element.

    Jinja's statements are inside comments, which every HTML parser leaves in place.
    """
    source = (Path(__file__).parent / "templates" / "email.html").read_text(encoding="utf-8")
    inlined = css_inline.CSSInliner(load_remote_stylesheets=False, keep_at_rules=True).inline(source)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, block_start_string="<!--%", block_end_string="%-->", trim_blocks=True
    )
    return environment.from_string(inlined)


def _has_template() -> bool:
    return _template.cache_info().currsize > 0


def _measure(request: Request) -> tuple[Size, ...]:
    content = request.content if isinstance(request, Mail) else b""
    part = message_from_bytes(content, policy=default).get_body(("html",))
    shown = (Size("HTML part", len(cast(bytes, part.get_payload(decode=True))), MAX_HTML_BYTES, "bytes"),) if part else ()
    return (*shown, Size("mail", len(content), None, "bytes"))


# -------------------------------------------------------------------------------------------------------------- verdicts


def _no_reply(reply: NoReply) -> Outcome:
    """A mail server that does not answer is the operator's concern: the handler is only an address."""
    outcome = classify_no_reply(reply)
    if isinstance(outcome, Later | Unknown) and not (reply.ours or reply.stopped or reply.reason in _CONFIGURED):
        return replace(outcome, reason=Reason.MAIL_SERVER)
    return outcome


def _classify(reply: MailReply, _: Context) -> Outcome:
    """The enhanced code's class first, or the basic code's if there is none (RFC 3463, RFC 5321 4.2.1)."""
    detail = f"{reply.code} {reply.text}".strip()
    if reply.stage == "final" and 200 <= reply.code < 300:
        queued = re.search(r"\bqueued as ([\w.-]{1,100})", reply.text)
        return Delivered(queued[1] if queued else None, detail)
    if not 400 <= reply.code < 600:
        return Later(Reason.MAIL_SERVER, detail=detail)
    if reply.enhanced in _FULL:
        return Later(Reason.MAIL_ACCOUNT if _is_about_us(reply) else Reason.MAILBOX, detail=detail)
    kind = reply.enhanced[:1] if reply.enhanced[:2] in {"4.", "5."} else str(reply.code)[:1]
    if reply.enhanced in _BAD_SENDER or reply.stage == "auth" or (kind == "5" and reply.stage in _BEFORE_MAIL):
        return Later(Reason.MAIL_ACCOUNT, detail=detail)
    return Later(_reason_to_wait(reply), detail=detail) if kind == "4" else _classify_refusal(reply, detail)


def _reason_to_wait(reply: MailReply) -> Reason:
    """Whether the mail server asks to wait because of its own state (load, this session), because of us or because of the recipient."""
    is_about_itself = reply.stage in _BEFORE_MAIL or reply.stage == "mail" or reply.enhanced[:4] in {"4.3.", "4.5."}
    is_full = reply.code == 452 and not reply.enhanced  # "insufficient system storage" (RFC 5321 4.2.3)
    if is_about_itself or is_full or reply.code == 421:
        return Reason.MAIL_SERVER
    return Reason.MAIL_ACCOUNT if _is_about_us(reply) else Reason.SERVER_ERROR


def _classify_refusal(reply: MailReply, detail: str) -> Outcome:
    code, enhanced = reply.code, reply.enhanced
    if enhanced in _TOO_LARGE or (code == 552 and not enhanced and reply.stage != "rcpt"):
        return Refused(Reason.TOO_LARGE, detail, ours=True)
    if code == 552 and not enhanced:
        return Later(Reason.MAILBOX, detail=detail)  # at RCPT it says that the mailbox is full (RFC 5321 4.2.3)
    if reply.stage == "mail" or code in {530, 534, 535, 538}:
        return Later(Reason.MAIL_ACCOUNT, detail=detail)
    if enhanced in _NO_SUCH_MAILBOX:
        return Gone(Reason.MAILBOX, f"The mail server says that there is no such mailbox: {detail}")
    if _is_about_us(reply):
        return Later(Reason.MAIL_ACCOUNT, detail=detail)
    if code == 550 and not enhanced and reply.stage == "rcpt" and _is_nobody(_words(reply)):
        return Gone(Reason.MAILBOX, f"The mail server says that there is no such mailbox: {detail}")
    if enhanced.startswith("5.6."):
        return Refused(Reason.PAYLOAD, detail, ours=True)
    if enhanced.startswith("5.7."):
        return Refused(Reason.POLICY, detail)
    if enhanced.startswith("5.2."):
        return Refused(Reason.MAILBOX, detail)
    return Refused(Reason.REJECTED, detail)


def _is_about_us(reply: MailReply) -> bool:
    """Whether it refuses the account, the sender or this machine, and neither the recipient nor the message."""
    if reply.enhanced in _RESTRICTED or "RESOLVER.RST" in reply.text:
        return False
    code = reply.enhanced.replace("4.7.", "5.7.", 1)  # the same, for now
    if code in _ACCOUNT or _SUSPECTED.fullmatch(reply.enhanced):
        return True
    words = _words(reply)
    if _NOT_ABOUT_US.search(words):
        return False
    clauses = [clause for clause in _CLAUSE_END.split(words) if not _ABOUT_RECIPIENT.match(clause)]
    return _NOT_FOR_US.search(",".join(clauses)) is not None or _BLOCK_LIST.search(_ADDRESS.sub(" ", reply.text)) is not None


def _is_nobody(words: str) -> bool:
    return _NOBODY.search(words) is not None and _DOUBTFUL.search(words) is None


def _words(reply: MailReply) -> str:
    """What it says in prose. It begins with a word, because "<me@example.com>: does not exist" is known by its beginning."""
    prose = _NOT_PROSE.sub(" ", _ADDRESS.sub(" ", reply.text))
    return " ".join(prose.split()).strip(" :;,.-()")


def _target(settings: EmailSettings) -> str:
    return settings.email


CHANNEL = Channel(
    type="email",
    title="E-mail",
    about="To a mailbox, through the operator's mail server.",
    settings=EmailSettings,
    target=_target,
    paces=_paces,
    window_seconds=3600.0,
    root=lambda _: ROOT,
    render=_render,
    quick_marks=20,
    is_ready=_has_template,
    classify=_classify,
    no_reply=_no_reply,
    measure=_measure,
    becomes=BECOMES,
    in_flight=3,  # of the eight connections to the mail server, so that one mailbox never takes them all
    wire="mail",
    mailbox=_target,
    unknown_wait_seconds=300.0,
)
