"""What a channel is: a settings struct and a few pure functions. Channels do no I/O; `net` does.

A channel file defines its settings as a struct whose fields carry a `Field`, writes `render` and `classify`, and ends in
`CHANNEL = Channel(...)`. One line in registry.py makes it known to everything else: validation, masking, OpenAPI, forms.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, tzinfo
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast, get_type_hints

import msgspec
from msgspec import Struct

from tocsin.clock import SECOND, Micros
from tocsin.markup.elements import Element
from tocsin.model import Hidden, HttpReply, Later, MailReply, Message, NoReply, Outcome, Reason, Refused, Request, Unknown, Value
from tocsin.partitions import partition_of, root_of
from tocsin.settings import Settings

MIN_EPOCH = 1e9
YEAR_SECONDS = 366 * 86_400.0
_ABOUT_CONTENT = frozenset({400, 422})
_MAX_READ = 1000  # bytes of an answer that people are shown


class Field(Struct, frozen=True):
    """One setting of a channel, as the form, the reference page and the validation need it.

    `check` returns what is wrong with a value, as a sentence that does not repeat the value, or None. `hide` makes a secret value
    showable; None means that the value is not secret. `restore` replaces the masks in a value that holds several secrets with what is
    stored (the second argument); without it only the whole mask keeps the stored value.

    `is_address`: a URL to which requests go, with the settings that `restore` is for.

    An optional setting defaults to "" in its struct and is left out of `settings` until it is set. A multiline one has LF between
    its lines.
    """

    title: str
    help: str
    example: str
    check: Callable[[str], str | None]
    hide: Callable[[str], Hidden] | None = None
    restore: Callable[[str, str], str] | None = None
    is_optional: bool = False
    is_multiline: bool = False
    is_address: bool = False


class HandlerSettings(Struct, frozen=True, omit_defaults=True):
    """Base of every channel's settings: all fields are strings, required unless their `Field` is optional. The repr names no value."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


S = TypeVar("S", bound=HandlerSettings)
R = TypeVar("R", bound=HttpReply | MailReply)
SettingsType: TypeAlias = type[S]  # inside Channel the name `type` is a field


Scope: TypeAlias = Literal["credential", "egress", "service"]


class Pace(Struct, frozen=True):
    """At most `count` starts within any `seconds`, for everything that shares `key`. `key` must hold no secret in the clear.

    `scope`: what shares it. Everything with the same credential, or all that the service sends: then one process sends all of it, so the
    key must be made as `tocsin.partitions` says. Or whatever leaves from the same address: then processes share it out.
    """

    key: str
    count: int
    seconds: float
    scope: Scope = "credential"


class Context(Value, frozen=True):
    """What `render` and `classify` may know about the attempt, so that they need no clock, random numbers or store.

    `key` stays the same over all attempts of a delivery (webhook-id, Message-ID). `meant_for` is set when the delivery is late
    and must say when it was due; times are told in `zone`. `suffix` makes a repeated text differ where the provider refuses repeats.
    `plain` asks for the plainest form, in as many parts: the provider has refused the native one; in `classify` it says that the answer
    is to that form. `unsubscribe`: the address at which the recipient can end it with one click; empty: there is none. `is_official`: the
    request goes to the provider's own host, whose answers are known, and not to a compatible server.
    """

    key: str
    handler_id: int
    now: Micros
    service: Settings
    notification_id: int | None = None
    delivery_id: int | None = None
    attempt: int = 1
    meant_for: Micros | None = None
    may_have_arrived: bool = False
    suffix: str = ""
    plain: bool = False
    signing_secrets: tuple[str, ...] = ()
    zone: tzinfo = UTC
    unsubscribe: str = ""
    is_official: bool = False

    def __repr__(self) -> str:
        return f"Context(delivery_id={self.delivery_id}, attempt={self.attempt})"


class Size(Struct, frozen=True):
    """How much of a provider's limit a request takes. `limit` None: there is none."""

    what: str
    size: int
    limit: int | None
    unit: str


def _never(_: Any) -> bool:
    return False


def unpaced(_settings: Any, _service: Settings) -> tuple[Pace, ...]:
    """No limit is published: nothing waits until the provider throttles."""
    return ()


def _no_budget(_: Settings) -> int | None:
    return None


def classify_no_reply(reply: NoReply) -> Outcome:
    """The same for every provider: never dead from a network, TLS or DNS error; sent without an answer is unknown."""
    if reply.reason is Reason.BLOCKED:
        return Refused(Reason.BLOCKED, reply.detail, ours=True)
    if reply.reason is Reason.SETTINGS:
        return Refused(Reason.SETTINGS, reply.detail)
    if reply.sent:
        return Unknown(reply.reason, reply.detail)
    return Later(reply.reason, detail=reply.detail)


class Channel(Struct, Generic[S, R], frozen=True, kw_only=True):
    """Everything the service knows of a provider type."""

    type: str
    title: str
    about: str
    """Where it leads, in one sentence, for those who choose a type."""
    settings: SettingsType[S]
    target: Callable[[S], str]
    """Where it goes, for people ("#alerts", an address, a host); never a secret."""
    paces: Callable[[S, Settings], tuple[Pace, ...]] = unpaced
    """The first one's key is the credential: a throttle pauses it."""
    root: Callable[[S], str] | None = None
    """The root of all its paces' keys but those of scope egress (`tocsin.partitions`); None: as the first pace's key has it. Needed where
    the service's settings decide whether there is a pace: a handler's partition is kept, so it must not depend on them."""
    render: Callable[[Message, S, Context], Sequence[Request]]
    """The native request(s), in the order in which they must go out."""
    classify: Callable[[R, Context], Outcome]
    """What an answer over its wire means. Total: every status code, every broken body."""
    no_reply: Callable[[NoReply], Outcome] = classify_no_reply
    """What it means that there is no answer."""
    measure: Callable[[Request], Sequence[Size]]
    """How large a request of `render` is, against the provider's limits."""
    quick_marks: int | None = 100
    """How many line breaks and Markdown marks a text may have to be rendered within a millisecond. None: any number, since the text is
    sent as it is; -1: no text is that quick."""
    is_ready: Callable[[], bool] | None = None
    """Whether the first rendering has set up what all others use; until then every text goes to the pool. None: nothing is set up."""
    becomes: Mapping[Element, str]
    """What is shown for Markdown elements that the provider does not have; those not named are shown as its own."""
    mailbox: Callable[[S], str] | None = None
    """The address that its messages are mailed to, whose reader has to agree to that. None: they are no mail."""
    realm: Callable[[S], str] | None = None
    """What a wide throttle (`Later.is_wide`) covers: the provider's host, for one user only, since anybody may run such a host."""
    rest_seconds: Callable[[HttpReply, Micros], float] | None = None
    """Seconds for which the limits named in an answer keep the credential idle, whatever the outcome; 0: none."""
    signs: bool = False
    """Its handlers have a signing secret."""
    in_flight: int = 256
    """The most attempts that one handler may have at the same time; how many it gets depends on its answers."""
    window_seconds: float = 60.0
    """No window of its paces is longer."""
    wire: str = "http"
    """Which of the wires its requests take: "http" or "mail"."""
    unknown_wait_seconds: float = 0.0
    """Minimum wait after an attempt whose answer was lost."""
    max_attempts: int | None = None
    """Maximum number of attempts, if the provider's price or rules allow fewer than the schedule."""
    refuses_repeats: bool = False
    """The provider refuses a text that was sent within 24 h; render then uses `context.suffix`."""
    daily_budget: Callable[[Settings], int | None] = _no_budget
    """Maximum number of deliveries a day for each credential; None: no budget."""
    is_public: Callable[[S], bool] = _never
    """The public can read it, so the owner's private notices do not go there."""
    is_official: Callable[[S], bool] = _never
    """Its requests go to the provider's own host; for channels whose `classify` asks for `context.is_official`."""


AnyChannel = Channel[Any, Any]


def home_of(channel: AnyChannel, settings: HandlerSettings, service: Settings) -> int | None:
    """The partition of handlers with these settings. None: such a handler shares no pace with others, so its id decides."""
    if channel.root is not None:
        return partition_of(channel.root(settings))
    paces = channel.paces(settings, service)
    return partition_of(root_of(paces[0].key)) if paces else None


@functools.cache
def fields_of(settings: type[HandlerSettings]) -> dict[str, Field]:
    """The `Field` of each setting, in order, from `Annotated[str, Field(...)]`."""
    hints = get_type_hints(settings, include_extras=True)
    return {name: next(mark for mark in hints[name].__metadata__ if isinstance(mark, Field)) for name in settings.__struct_fields__}


def settings_of(channel: Channel[S, Any], values: object) -> S:
    """The typed settings of stored values. Raises msgspec.ValidationError where they do not fit."""
    return msgspec.convert(values, channel.settings)


def lost(reply: HttpReply) -> Outcome | None:
    """For a 2xx whose body says what happened to the message: the verdict if part of that body is missing, else None."""
    return Unknown(reply.cut, said(reply)) if reply.cut is not None else None


def is_page(reply: HttpReply) -> bool:
    """The answer is a web page: from a portal, a proxy or another gateway, since the providers' own answers are JSON or words."""
    return reply.body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def unlike(reply: HttpReply) -> Outcome:
    """A 2xx without what the provider itself says of a message: a page means that it never got there, of anything else nobody knows."""
    return lost(reply) or (Later if is_page(reply) else Unknown)(Reason.BAD_ANSWER, detail=said(reply))


def json_body(reply: HttpReply) -> dict[str, Any]:
    """The answer's JSON object, or an empty one: providers, and gateways in front of them, may answer anything."""
    try:
        decoded = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return cast(dict[str, Any], decoded) if isinstance(decoded, dict) else {}


def said(reply: HttpReply, limit: int = 200) -> str:
    """The answer's status and the beginning of its text, for people; not yet scrubbed of secrets.

    Only whole words are kept: scrubbing would not recognize a secret that was cut in the middle.
    """
    words = reply.body[:_MAX_READ].decode("utf-8", "replace").split()
    if len(reply.body) > _MAX_READ or reply.cut is not None:
        words = words[:-1]
    text = " ".join((str(reply.status), *words))
    return text if len(text) <= limit else text[: limit + 1].rpartition(" ")[0]


def wait_of(number: float, now: Micros) -> float | None:
    """Seconds that a number asks for. Above 10^9 it is an epoch; one in the past or over a year away (infinity, too) names no wait."""
    if number <= MIN_EPOCH:
        return number
    wait = number - now / SECOND
    return wait if 0 <= wait <= YEAR_SECONDS else None


def retry_after(reply: HttpReply, now: Micros) -> float | None:
    """Seconds that a Retry-After header asks for, as integer, decimal, HTTP date (RFC 9110 10.2.3) or epoch; None if it cannot be read."""
    value = reply.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return wait_of(float(value), now)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now / SECOND)
    except (ValueError, OverflowError, TypeError):
        return None


def classify_rest(reply: HttpReply, context: Context) -> Outcome:
    """What a status means if the provider's own table does not say: throttles wait, 4xx is a refusal, everything else is tried again.

    An unknown 400 or 422 is most often about how we rendered the message, so the plainest form is tried; if that is refused too,
    it counts against the handler.
    """
    wait = retry_after(reply, context.now)
    if reply.status == 429 or (reply.status == 503 and wait is not None):
        return Later(Reason.THROTTLED, wait, counts=False, detail=said(reply))
    if reply.status in {408, 425} or reply.status >= 500:
        return Later(Reason.SERVER_ERROR, detail=said(reply))
    if 300 <= reply.status < 400:
        return Later(Reason.REDIRECTED, detail=said(reply))
    if reply.status in _ABOUT_CONTENT and not context.plain:
        return Refused(Reason.PAYLOAD, said(reply), ours=True)
    if 400 <= reply.status < 500:
        return Refused(Reason.REJECTED, said(reply))
    return Later(Reason.BAD_ANSWER, detail=said(reply))
