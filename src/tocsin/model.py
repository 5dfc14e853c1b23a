"""The nouns and verdicts of the service, as frozen structs."""

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import TypeAlias

from msgspec import Struct

from tocsin.clock import Micros

MASK = "••••"
MAX_MESSAGE_BYTES = 65_536  # of a notification's message, in UTF-8
FORMATS = ("markdown", "text")  # of a message
LINK_KIND = "handler.confirm"  # of the message that asks whether an address agrees to be mailed

# ---------------------------------------------------------------------------------------------------------------- enums


class Severity(StrEnum):
    """How urgent a notification is."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    CRITICAL = "critical"


class Status(IntEnum):
    """The status of a delivery. The store keeps the integer; `word` is what people and the API see."""

    PENDING = 0
    DELIVERED = 1
    FAILED = 2
    EXPIRED = 3
    CANCELLED = 4
    SKIPPED = 5

    @property
    def word(self) -> str:
        return self.name.lower()


REPLAYABLE = (Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.SKIPPED)  # settled, and did not arrive


class Reason(StrEnum):
    """Why an attempt or a delivery ended as it did: a closed list, at once metric label, log field and filter."""

    OK = "ok"
    PLAIN = "plain"
    # The wire: nothing came back, or nothing usable.
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    CUT = "cut"
    BAD_ANSWER = "bad_answer"
    ANSWER_TOO_LARGE = "answer_too_large"
    BLOCKED = "blocked"
    # The provider's word.
    THROTTLED = "throttled"
    THROTTLED_TOO_LONG = "throttled_too_long"
    SERVER_ERROR = "server_error"
    REJECTED = "rejected"
    REDIRECTED = "redirected"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    GONE = "gone"
    MOVED = "moved"
    PAYLOAD = "payload"
    TOO_LARGE = "too_large"
    DUPLICATE = "duplicate"
    NO_CREDITS = "no_credits"
    MAILBOX = "mailbox"
    POLICY = "policy"
    # Ours.
    BUDGET = "budget"
    MAIL_NOT_CONFIGURED = "mail_not_configured"
    MAIL_ACCOUNT = "mail_account"
    MAIL_SERVER = "mail_server"
    PROXY = "proxy"
    UNCONFIRMED = "unconfirmed"
    QUOTA = "quota"
    HANDLER_DISABLED = "handler_disabled"
    HANDLER_PAUSED = "handler_paused"
    HANDLER_DELETED = "handler_deleted"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    SETTINGS = "settings"
    INTERNAL = "internal"


# -------------------------------------------------------------------------------------------------- what is sent, to whom


class Value(Struct, frozen=True, gc=False):
    """A noun or a verdict. They never contain themselves, so the garbage collector can skip them, which saves 2.5 % of all the work."""


class SwitchedOff(Value, frozen=True):
    """A handler that a notice reports."""

    id: int
    name: str
    type: str
    reason: Reason


class Message(Value, frozen=True):
    """Channel-neutral content. `text` is Markdown as sent, or plain text with `is_text`; `kind` is `notification` or one of the service's
    own. `handlers`: those that a notice reports, for receivers that are programs."""

    text: str
    title: str = ""
    severity: Severity = Severity.INFO
    url: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    at: Micros = 0
    kind: str = "notification"
    handlers: tuple[SwitchedOff, ...] = ()
    is_text: bool = False

    @property
    def format(self) -> str:
        """One of `FORMATS`, as the API and webhooks say it."""
        return FORMATS[self.is_text]


class Notification(Value, frozen=True):
    """An accepted request. `send_at` and `expires_at` are None if not given."""

    id: int
    user_id: int
    message: Message
    send_at: Micros | None = None
    expires_at: Micros | None = None


class Draft(Value, frozen=True):
    """A notification that was checked but not yet accepted. `handlers`: ids, each once; None means all enabled ones of the user."""

    message: Message
    handlers: tuple[int, ...] | None = None
    send_at: Micros | None = None
    expires_at: Micros | None = None


class SigningSecret(Value, frozen=True):
    """The secrets that sign a handler's webhooks; `previous` signs too until `previous_until`."""

    current: str
    previous: str | None = None
    previous_until: Micros | None = None

    def __repr__(self) -> str:
        return "SigningSecret(...)"


class Handler(Value, frozen=True):
    """What a user registered. `settings` are in the clear: never log or format them; the repr leaves them out. `is_sealed`: no key of the
    service opens them, so there are none, and no secret."""

    id: int
    user_id: int
    type: str
    name: str
    settings: Mapping[str, str]
    is_enabled: bool
    created_at: Micros
    last_delivered_at: Micros | None = None
    disabled_reason: str | None = None
    version: int = 1
    secret: SigningSecret | None = None
    is_sealed: bool = False

    def __repr__(self) -> str:
        return f"Handler(id={self.id}, type={self.type!r}, version={self.version})"


class Delivery(Value, frozen=True):
    """One notification to one handler: the durable row.

    `step`: how many steps of the retry schedule are used up. `throttles`: throttle answers in a row. `late` is None until the first
    attempt decides it. `due_at`: the time it ended, if it ended without an attempt.
    `may_have_arrived`: the last attempt's answer was lost. `part`: parts that have arrived. `replays`: how often
    it was sent again by hand. `partition`: its handler's.
    """

    id: int
    notification_id: int
    handler_id: int
    user_id: int
    status: Status
    due_at: Micros
    first_due_at: Micros
    created_at: Micros
    attempt_count: int = 0
    step: int = 0
    throttles: int = 0
    last_attempt_at: Micros | None = None
    late: bool | None = None
    may_have_arrived: bool = False
    part: int = 0
    replays: int = 0
    last_reason: Reason | None = None
    last_error: str | None = None
    partition: int = 0


def adds_to(detail: str, response: str | None) -> str:
    """What a verdict in words says beside the answer that is shown with it: nothing where it only repeats how that begins."""
    words = detail.split()
    if words and len(words[0]) == 3 and words[0].isdecimal():  # the status, which is shown by itself
        words = words[1:]
    return "" if " ".join(words) in " ".join((response or "").split()) else detail


class Replay(Value, frozen=True):
    """A delivery was sent again by hand: when, and how it had ended until then, after how many attempts."""

    at: Micros
    attempt_count: int
    status: Status
    reason: Reason | None
    ended_at: Micros


class Attempt(Value, frozen=True):
    """One try of a delivery, as it is stored. `response`: the provider's answer, capped and scrubbed of secrets, like the provider's own
    id for the message and `detail`, the verdict in words."""

    delivery_id: int
    number: int
    at: Micros
    duration_us: int
    outcome: str
    reason: Reason
    status_code: int | None = None
    response: str | None = None
    next_at: Micros | None = None
    provider_id: str | None = None
    detail: str | None = None


class Hidden(Value, frozen=True):
    """A secret value as people may see it, and the parts of it that must appear nowhere."""

    shown: str
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Hidden({self.shown!r})"


# ------------------------------------------------------------------------------------------------------- what goes out


class HttpRequest(Value, frozen=True):
    """One HTTP request to a provider. `shown_url` is what people may see of it.

    `guarded`: the address came from a user, so it must pass the egress guard. `timeout_seconds` is for the whole exchange.
    `body_seconds`: minimum wait for the rest of an answer once its head is there; None: as long as for the head.
    `repeats`: it may be sent once more if a kept connection ended without a byte of an answer, although the first may have arrived.
    """

    url: str
    shown_url: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"
    guarded: bool = True
    timeout_seconds: float = 15.0
    body_seconds: float | None = None
    repeats: bool = True

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {self.shown_url}, {len(self.body)} bytes)"


class Mail(Value, frozen=True):
    """One e-mail: the envelope's two addresses and the whole message in wire form (CRLF)."""

    sender: str
    recipient: str
    content: bytes

    def __repr__(self) -> str:
        return f"Mail(to {self.recipient}, {len(self.content)} bytes)"


class HttpReply(Value, frozen=True):
    """A provider's HTTP answer; header names in lower case, the last of a repeated one; `body` capped by net.

    `cut`: why the rest of the body is missing, if it is.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: Reason | None = None


class MailReply(Value, frozen=True):
    """The SMTP server's decisive answer. `stage`: connect, hello, starttls, auth, mail, rcpt, data or final.

    `enhanced` is the X.Y.Z code of RFC 3463 if the server gave one, else empty.
    """

    code: int
    text: str
    stage: str
    enhanced: str = ""


class NoReply(Value, frozen=True):
    """The exchange ended without an answer. `sent`: the provider may have taken the message all the same.

    `stopped`: our own stop ended it. `ours`: this process lacked a descriptor, memory or a thread, so nothing went out.
    """

    reason: Reason
    sent: bool
    detail: str = ""
    stopped: bool = False
    ours: bool = False


Request: TypeAlias = HttpRequest | Mail
Reply: TypeAlias = HttpReply | MailReply | NoReply

# ------------------------------------------------------------------------------------------------- a channel's verdicts


class Delivered(Value, frozen=True):
    """The provider said yes. `provider_id`: its id for the message, if it gave one. `plain`: accepted only in the plainest form."""

    provider_id: str | None = None
    detail: str = ""
    plain: bool = False


class Later(Value, frozen=True):
    """Not now. `wait_seconds`: the provider's own wait, if it named one. `counts` False: a throttle, uses up no step.

    `is_wide`: the limit that was hit is not only the credential's, but the provider's for everything we send.
    """

    reason: Reason
    wait_seconds: float | None = None
    counts: bool = True
    detail: str = ""
    is_wide: bool = False


class Refused(Value, frozen=True):
    """This message will never be accepted; the handler is fine. `ours`: the fault is on our side and never counts against the handler."""

    reason: Reason
    detail: str = ""
    ours: bool = False


class Gone(Value, frozen=True):
    """The handler is dead: webhook deleted, token revoked, bot thrown out. `detail` says so in plain words."""

    reason: Reason
    detail: str = ""


class Moved(Value, frozen=True):
    """The target has a new address: these settings replace the old ones of the same names, then try again at once."""

    settings: Mapping[str, str]
    detail: str = ""

    def __repr__(self) -> str:
        return f"Moved({', '.join(self.settings)})"


class Unknown(Value, frozen=True):
    """The request went out and the answer was lost: it may have arrived."""

    reason: Reason
    detail: str = ""


Outcome: TypeAlias = Delivered | Later | Refused | Gone | Moved | Unknown

# ---------------------------------------------------------------------------------------------------------------- faults


class Sentence(Value, frozen=True):
    """A sentence for people: `template` with `values` in its braces, so that it can be translated."""

    template: str
    values: dict[str, str] = {}

    @property
    def text(self) -> str:
        return self.template.format(**self.values) if self.values else self.template


class Fault(Value, frozen=True):
    """One thing wrong with a request, as the API reports it; `parameter` names the field or query parameter."""

    code: str
    title: str
    template: str
    parameter: str | None = None
    status: int = 422
    values: dict[str, str] = {}

    @property
    def sentence(self) -> Sentence:
        return Sentence(self.template, self.values)

    @property
    def detail(self) -> str:
        return self.sentence.text


def all_faults(found: Sequence[Fault], more: Iterable[Fault]) -> list[Fault]:
    """Both; what `more` says of a parameter that has a fault already, or of something inside it, is left out."""
    known = {one.parameter for one in found}
    return [*found, *(one for one in more if one.parameter is None or known.isdisjoint((one.parameter, one.parameter.rpartition(".")[0])))]


class Invalid(Exception):
    """The request is not usable; carries every fault at once."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(fault.detail for fault in faults))
        self.faults = faults


class Missing(Exception):
    """No such thing, or another user's: the two look the same."""


class InFlight(Exception):
    """A request with this idempotency key is still being answered."""


class OverQuota(Exception):
    """More than this user may do in that time; ask again in `retry_after` seconds."""

    def __init__(self, fault: Fault, retry_after: int) -> None:
        super().__init__(fault.detail)
        self.fault = fault
        self.retry_after = retry_after


class Busy(Exception):
    """The service cannot take this now; ask again in `retry_after` seconds."""

    def __init__(self, why: str, retry_after: int = 1) -> None:
        super().__init__(why)
        self.retry_after = retry_after
