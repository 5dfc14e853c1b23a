"""Reasons, hints and events in plain words."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tocsin import clock
from tocsin.channels.contract import Pace
from tocsin.clock import SECOND, Micros
from tocsin.model import Attempt, Delivery, Notification, Reason, Replay, Status
from tocsin.ports.handlers import HandlerEvent

_SENTENCES: dict[Reason, str] = {
    Reason.OK: "It arrived.",
    Reason.PLAIN: "It arrived as plain text: the provider refused its native form.",
    Reason.DNS: "The host name could not be resolved.",
    Reason.CONNECT: "No connection could be made.",
    Reason.TLS: "No secure connection could be made.",
    Reason.TIMEOUT: "The provider did not answer in time.",
    Reason.CUT: "The connection ended before the answer.",
    Reason.BAD_ANSWER: "The answer could not be understood.",
    Reason.ANSWER_TOO_LARGE: "The answer was too large.",
    Reason.BLOCKED: "The address may not be reached from here.",
    Reason.THROTTLED: "The provider asked to wait.",
    Reason.THROTTLED_TOO_LONG: "The provider asked to wait for more than a day.",
    Reason.SERVER_ERROR: "The provider had an error of its own.",
    Reason.REJECTED: "The provider refused the request.",
    Reason.REDIRECTED: "The provider answered with a redirect, which is not followed.",
    Reason.UNAUTHORIZED: "The provider did not accept the credential.",
    Reason.FORBIDDEN: "The provider does not allow this.",
    Reason.NOT_FOUND: "The target was not found.",
    Reason.GONE: "The target is gone.",
    Reason.MOVED: "The target has moved.",
    Reason.PAYLOAD: "The provider refused the content.",
    Reason.TOO_LARGE: "The message was too large for the provider.",
    Reason.DUPLICATE: "The provider refused a repeated text.",
    Reason.NO_CREDITS: "The provider's account has no credits left.",
    Reason.MAILBOX: "The mailbox does not accept this mail.",
    Reason.POLICY: "The mail was refused as unwanted.",
    Reason.BUDGET: "The daily budget is used up.",
    Reason.MAIL_NOT_CONFIGURED: "E-mail is not set up.",
    Reason.MAIL_ACCOUNT: "The mail server refused this service.",
    Reason.MAIL_SERVER: "The operator's mail server failed.",
    Reason.PROXY: "The operator's proxy did not let the request through.",
    Reason.UNCONFIRMED: "The address has not been confirmed.",
    Reason.QUOTA: "The quota of mails is used up.",
    Reason.HANDLER_DISABLED: "The handler was switched off.",
    Reason.HANDLER_PAUSED: "The handler is paused.",
    Reason.HANDLER_DELETED: "The handler was deleted.",
    Reason.EXPIRED: "It was not delivered before it expired.",
    Reason.CANCELLED: "It was cancelled.",
    Reason.UNKNOWN: "It may have arrived: the answer was lost.",
    Reason.SETTINGS: "The handler's stored settings cannot be used.",
    Reason.INTERNAL: "The service had an internal error.",
}

_HINTS: dict[Reason, str] = {
    Reason.OK: "All is well.",
    Reason.PLAIN: "The refusal is a fault of the service: report it with the provider's answer.",
    Reason.DNS: "Check the host name in the URL, and the resolver of the machine that the service runs on.",
    Reason.CONNECT: "Check the host and port, and whether a firewall allows outgoing connections.",
    Reason.TLS: "Check the certificate of the host: it must be valid for its name and from a known authority.",
    Reason.TIMEOUT: "Check whether the provider is slow or down.",
    Reason.THROTTLED: "Wait for as long as the provider asks; the service paces itself.",
    Reason.REJECTED: "Read the answer: it says what was refused.",
    Reason.SERVER_ERROR: "Look at the answer and at the log of the receiving side.",
    Reason.REDIRECTED: "Enter the address that the redirect leads to.",
    Reason.UNAUTHORIZED: "Make a new credential at the provider and enter it here.",
    Reason.FORBIDDEN: "Check the permissions of the credential at the provider.",
    Reason.NOT_FOUND: "Check the target in the settings: it may be misspelled, deleted, or not open to this credential.",
    Reason.GONE: "Make a new webhook at the provider and enter it here.",
    Reason.NO_CREDITS: "Buy credits at the provider, then enable the handler again.",
    Reason.MAILBOX: "Check the address.",
    Reason.BUDGET: "Wait a day, or ask the operator to raise TOCSIN_X_DAILY_LIMIT.",
    Reason.MAIL_NOT_CONFIGURED: "The operator has to set TOCSIN_SMTP_URL to the mail server, and TOCSIN_EMAIL_FROM to an address.",
    Reason.MAIL_ACCOUNT: "The operator has to check user and password in TOCSIN_SMTP_URL, the sender in TOCSIN_EMAIL_FROM, "
    "that domain's SPF, DKIM and DMARC records, and how much the account may send.",
    Reason.MAIL_SERVER: "The handler is not at fault. The operator has to check the mail server that TOCSIN_SMTP_URL names.",
    Reason.PROXY: "The handler is not at fault. The operator has to check the proxy that TOCSIN_PROXY names.",
    Reason.UNCONFIRMED: "The person who reads mail at that address has to open the link that was sent there. A test sends it again.",
    Reason.QUOTA: "Wait until the day is over, or ask the operator to raise the quota; then retry the delivery.",
    Reason.HANDLER_DISABLED: "Fix the handler and enable it again, then retry the delivery.",
    Reason.HANDLER_PAUSED: "Enable the handler, then retry the delivery.",
    Reason.SETTINGS: "Enter the handler's settings again.",
}


def sentence(reason: Reason) -> str:
    """What happened."""
    return _SENTENCES[reason]


_SAID_AGAIN = {  # how details begin that are also shown alone
    Reason.DNS: "The host name does not resolve.",
    Reason.CONNECT: "No connection was made: ",
    Reason.TLS: "No secure connection was made: ",
    Reason.CUT: "The connection ended before the whole answer came.",
    Reason.TIMEOUT: "The request went out, but no whole answer came in time.",
}
_LOST_ANSWER = "It may have arrived: no answer came back."  # what a detail then begins with


def beside(reason: Reason, detail: str) -> str:
    """What a detail says that the reason's own sentence does not."""
    may_have_arrived = detail.startswith(_LOST_ANSWER)
    rest = detail.removeprefix(_LOST_ANSWER).lstrip().removeprefix(sentence(reason)).lstrip()
    rest = rest.removeprefix(_SAID_AGAIN.get(reason, "")).strip()
    return f"{_LOST_ANSWER} {rest}".rstrip() if may_have_arrived and reason is not Reason.UNKNOWN else rest


def hint(reason: Reason) -> str:
    """What to do about it; empty where there is nothing to do."""
    return _HINTS.get(reason, "")


_HANDLER_EVENTS = {
    "switched_off": "Switched off by the service.",
    "moved": "Moved to a new address by the provider.",
    "paused": "Paused by its owner.",
    "enabled": "Enabled by its owner.",
    "changed": "Its settings were changed by its owner.",
    "unsubscribed": "Paused: the recipient has unsubscribed.",
}


def event_text(event: HandlerEvent) -> str:
    """What happened to a handler."""
    return f"{_HANDLER_EVENTS[event.what]} {event.detail}".strip()


class Event(Struct, frozen=True):
    """A decision in plain words, as a sentence that can be told in another language; lengths of time are values of their own."""

    at: Micros
    template: str
    values: dict[str, str] = {}
    spans: dict[str, Micros] = {}

    @property
    def text(self) -> str:
        return self.template.format(**self.values, **{name: span(length) for name, length in self.spans.items()})


def events(delivery: Delivery, notification: Notification, attempts: Sequence[Attempt], replays: Sequence[Replay] = ()) -> list[Event]:
    """A delivery's story, derived from its rows: every decision in plain words, oldest first."""
    story = [Event(delivery.created_at, "Accepted.")]
    if notification.send_at is not None and notification.send_at > delivery.created_at:
        wait = notification.send_at - delivery.created_at
        story.append(Event(delivery.created_at, "Scheduled to be sent in {span}.", spans={"span": wait}))
    due_at, told = delivery.first_due_at, 0
    for replay in replays:
        as_ended = replace(delivery, status=replay.status, last_reason=replay.reason, due_at=replay.ended_at)
        story += _until_its_end(as_ended, notification, [one for one in attempts if told < one.number <= replay.attempt_count], due_at)
        story.append(Event(replay.at, "To be sent again, by request."))
        due_at, told = replay.at, replay.attempt_count
    story += _until_its_end(delivery, notification, [one for one in attempts if one.number > told], due_at)
    return _in_order(story)


def _until_its_end(delivery: Delivery, notification: Notification, attempts: Sequence[Attempt], due_at: Micros) -> list[Event]:
    """What happened from the time it was first due until it ended, if it has."""
    story: list[Event] = []
    if attempts and attempts[0].at - due_at > SECOND:
        story.append(Event(attempts[0].at, "Waited {span} for its turn.", spans={"span": attempts[0].at - due_at}))
    story += [_told(attempt, notification.expires_at) for attempt in attempts]
    last = attempts[-1] if attempts else None
    if last is not None and delivery.status is Status.FAILED and delivery.last_reason == last.reason:
        story.append(Event(last.at + last.duration_us, "Failed; it will not be retried."))
    elif delivery.status in _ENDED and delivery.last_reason:
        story.append(Event(_ended_at(delivery, notification), _ENDED[delivery.status], {"why": sentence(delivery.last_reason)}))
    return story


def _ended_at(delivery: Delivery, notification: Notification) -> Micros:
    """When it ended without an attempt: that is kept as the time at which it was last due."""
    if delivery.status is Status.EXPIRED and notification.expires_at is not None:
        return max(delivery.created_at, notification.expires_at)
    return max(delivery.created_at, min(delivery.due_at, clock.now()))


def _in_order(story: list[Event]) -> list[Event]:
    """Rounded times, and clocks that were put right, must not have an event come before what led to it."""
    ordered: list[Event] = []
    for event in story:
        at = max(event.at, ordered[-1].at) if ordered else event.at
        ordered.append(event if at == event.at else replace(event, at=at))
    return ordered


_ENDED = {
    Status.FAILED: "Failed: {why}",
    Status.EXPIRED: "Expired: {why}",
    Status.CANCELLED: "Cancelled: {why}",
    Status.SKIPPED: "Skipped: {why}",
}


def turn(title: str, now: Micros, until: Micros, pace: Pace | None, ahead: int, *, is_paused: bool) -> Event:
    """Why a delivery that is due has not begun, and until when, at the least."""
    values, spans = {"title": title, "before": str(ahead)}, {"span": until - now}
    if is_paused:
        template = _PAUSED_BEHIND if ahead else _PAUSED
    elif pace is not None:
        values["count"], spans["window"] = str(pace.count), int(pace.seconds * SECOND)
        template = _PACED_BEHIND if ahead else _PACED
    else:
        template = _BEHIND
    return Event(now, template, values, spans)


def absence(now: Micros, absent: Literal["none", "between", "silent"], sender: str) -> Event:
    """Why nobody can tell what one that is due waits for: see `tocsin.flow.handlers.waits.Hold`."""
    return Event(now, _ABSENT[absent], {"sender": sender} if absent == "silent" else {})


_ABSENT = {
    "none": "Waits for a process that sends: none is running.",
    "between": "Waits for another process to take over: the one that sent for this handler has ended or hands it on. That takes seconds.",
    "silent": "{sender} sends for this handler, but has not said what this waits for: it may be stopped or overloaded.",
}
_PAUSED = "Waits at least {span} more: {title} asked for a pause."
_PAUSED_BEHIND = "Waits at least {span} more: {title} asked for a pause. Ahead of it: {before}."
_PACED = "Waits for its turn, at least {span} more: {title} gets at most {count} in {window}."
_PACED_BEHIND = "Waits for its turn, at least {span} more: {title} gets at most {count} in {window}. Ahead of it: {before}."
_BEHIND = "Waits for its turn, at least {span} more. Ahead of it: {before}."


def _told(attempt: Attempt, expires_at: Micros | None) -> Event:
    at = attempt.at + attempt.duration_us
    code = f" ({attempt.status_code})" if attempt.status_code is not None else ""
    values = {"number": str(attempt.number), "code": code}
    if attempt.outcome == "delivered":
        values["ms"] = f"{attempt.duration_us / 1000:.0f}"
        return Event(at, _ARRIVED_PLAINLY if attempt.reason is Reason.PLAIN else _ARRIVED, values)
    values["what"] = sentence(attempt.reason)[:-1]
    if attempt.next_at is not None:
        spans = {"span": attempt.next_at - attempt.at - attempt.duration_us}
        if attempt.next_at == expires_at:  # it was to be tried later than that
            return Event(at, _LOST_EXPIRES if attempt.outcome == "unknown" else _TRIED_EXPIRES, values, spans)
        return Event(at, _LOST_NEXT if attempt.outcome == "unknown" else _TRIED_NEXT, values, spans)
    return Event(at, _LOST if attempt.outcome == "unknown" else _TRIED, values)


_ARRIVED = "Attempt {number}: delivered{code} after {ms} ms."
_ARRIVED_PLAINLY = "Attempt {number}: delivered{code} after {ms} ms, as plain text, because the provider refused its native form."
_TRIED = "Attempt {number}: {what}{code}."
_TRIED_NEXT = "Attempt {number}: {what}{code}. Next attempt in {span}."
_LOST = "Attempt {number}: It may have arrived. {what}{code}."
_LOST_NEXT = "Attempt {number}: It may have arrived. {what}{code}. Next attempt in {span}."
_TRIED_EXPIRES = "Attempt {number}: {what}{code}. It expires in {span}, before another attempt."
_LOST_EXPIRES = "Attempt {number}: It may have arrived. {what}{code}. It expires in {span}, before another attempt."
EVENT_TEMPLATES = (
    *("Accepted.", "Scheduled to be sent in {span}.", "Waited {span} for its turn.", "Failed; it will not be retried."),
    *("To be sent again, by request.", *_ENDED.values(), _PAUSED, _PAUSED_BEHIND, _PACED, _PACED_BEHIND, _BEHIND, *_ABSENT.values()),
    *(_ARRIVED, _ARRIVED_PLAINLY, _TRIED, _TRIED_NEXT, _LOST, _LOST_NEXT, _TRIED_EXPIRES, _LOST_EXPIRES),
)


def span(length: Micros) -> str:
    """A length of time in words, as exact as people need it."""
    seconds = round(max(0, length) / SECOND, 1)
    return f"{seconds} s" if seconds < 10 else " ".join([f"{n} {unit}" for n, unit in amounts(round(seconds))])


def amounts(seconds: int) -> tuple[tuple[int, str], ...]:
    """A length of time in s, min, h or d: in two of them where the larger number has one digit, otherwise rounded."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return ((seconds, "s"),)
    if seconds < 600:
        return _in_two(seconds, "min", "s")
    if minutes < 60:
        return ((minutes, "min"),)
    if minutes < 600:
        return _in_two(minutes, "h", "min")
    return ((hours, "h"),) if hours < 48 else ((round(seconds / 86_400), "d"),)


def _in_two(length: int, larger: str, smaller: str) -> tuple[tuple[int, str], ...]:
    whole, rest = divmod(length, 60)
    return ((whole, larger), (rest, smaller)) if rest else ((whole, larger),)
