"""What the API's answers contain, one struct each, in the contract's key order; also the source of the OpenAPI schemas."""

from collections.abc import Sequence

from msgspec import Struct

from tocsin.api import times
from tocsin.clock import HOUR
from tocsin.flow.delivery.tally import summarize
from tocsin.flow.handlers.preview import Preview
from tocsin.flow.handlers.register import shown_settings
from tocsin.flow.handlers.states import HandlerState
from tocsin.flow.handlers.trial import Trial
from tocsin.flow.history.deliveries import Event
from tocsin.flow.words import event_text, hint, sentence
from tocsin.model import Attempt, Delivery, Handler, Notification, SigningSecret, Status
from tocsin.ports.standings import HandlerFacts


class Made(Struct):
    """The id of what was created or changed."""

    id: int


class HandlerAnswer(Struct):
    """A notification handler. `last_datetime`: its last successful delivery."""

    id: int
    type: str
    name: str
    settings: dict[str, str]
    is_enabled: bool
    last_datetime: str | None
    datetime: str


def handler(row: Handler, *, clear: bool) -> HandlerAnswer:
    """`clear`: the caller may read the settings' secrets."""
    settings = shown_settings(row, clear)
    last = times.show_if(row.last_delivered_at)
    return HandlerAnswer(row.id, row.type, row.name, settings, row.is_enabled, last, times.show(row.created_at))


class Counts(Struct):
    """A notification's deliveries, counted by status."""

    pending: int
    delivered: int
    failed: int
    expired: int
    cancelled: int
    skipped: int


class NotificationAnswer(Struct):
    """An accepted notification."""

    id: int
    title: str
    message: str
    format: str
    severity: str
    url: str | None
    fields: dict[str, str]
    send_at: str | None
    expires_at: str | None
    datetime: str
    deliveries: Counts


def notification(row: Notification, counts: dict[Status, int]) -> NotificationAnswer:
    message = row.message
    return NotificationAnswer(
        id=row.id,
        title=message.title,
        message=message.text,
        format=message.format,
        severity=message.severity.value,
        url=message.url or None,
        fields=dict(message.fields),
        send_at=times.show_if(row.send_at),
        expires_at=times.show_if(row.expires_at),
        datetime=times.show(message.at),
        deliveries=Counts(*(counts.get(status, 0) for status in Status)),
    )


class Cancelled(Struct):
    """How many waiting deliveries were cancelled."""

    id: int
    cancelled: int


class DeliveryAnswer(Struct):
    """One notification to one handler. `next_attempt_datetime` while it waits; `last_datetime`: its last attempt."""

    id: int
    notification_id: int
    notification_handler_id: int
    status: str
    attempt_count: int
    next_attempt_datetime: str | None
    last_error: str | None
    datetime: str
    last_datetime: str | None


class AttemptAnswer(Struct):
    """One try of a delivery. `detail`: the verdict in words; `provider_id`: the provider's own id for the message."""

    number: int
    datetime: str
    outcome: str
    reason: str
    detail: str | None
    provider_id: str | None
    duration_ms: int
    status_code: int | None
    response: str | None


class EventAnswer(Struct):
    """A decision in plain words."""

    datetime: str
    text: str


class DeliveryDetail(DeliveryAnswer):
    """A delivery with its attempts and events, oldest first."""

    attempts: list[AttemptAnswer]
    events: list[EventAnswer]


def delivery(row: Delivery) -> DeliveryAnswer:
    return DeliveryAnswer(*_delivery_values(row))


def delivery_detail(row: Delivery, attempts: Sequence[Attempt], events: Sequence[Event]) -> DeliveryDetail:
    return DeliveryDetail(
        *_delivery_values(row),
        attempts=[_attempt(one) for one in attempts],
        events=[EventAnswer(times.show(one.at), one.text) for one in events],
    )


def _delivery_values(row: Delivery) -> tuple[int, int, int, str, int, str | None, str | None, str, str | None]:
    due = times.show(row.due_at) if row.status is Status.PENDING else None
    created, last = times.show(row.created_at), times.show_if(row.last_attempt_at)
    return row.id, row.notification_id, row.handler_id, row.status.word, row.attempt_count, due, row.last_error, created, last


def _attempt(one: Attempt) -> AttemptAnswer:
    duration_ms = round(one.duration_us / 1000)
    named, detail = one.provider_id, one.detail
    return AttemptAnswer(
        one.number, times.show(one.at), one.outcome, one.reason.value, detail, named, duration_ms, one.status_code, one.response
    )


class Retried(Struct):
    """How many deliveries are sent again."""

    retried: int


class TrialAnswer(Struct):
    """The result of a test send: `status` is delivered, failed or unknown; the request is masked."""

    status: str
    reason: str
    duration_ms: int
    request: str | None
    response: str | None
    hint: str


def trial(one: Trial) -> TrialAnswer:
    return TrialAnswer(one.status, one.reason, one.duration_ms, one.request, one.response, one.hint)


class ReasonAnswer(Struct):
    """How many deliveries failed for a reason."""

    reason: str
    count: int
    text: str


class LatencyAnswer(Struct):
    """From due to delivered, milliseconds, accurate to about a fifth; null if nothing has arrived."""

    p50: int | None
    p95: int | None


class HandlerEventAnswer(Struct):
    """What happened to a handler: `switched_off` or `moved` by the service; `paused`, `enabled` or `changed` by its owner;
    `unsubscribed`: paused by its recipient."""

    datetime: str
    event: str
    reason: str | None
    text: str


class HealthAnswer(Struct):
    """How a handler is doing. `state`: ok, failing, unconfirmed, paused by its owner or switched_off by the service. `reason` and `detail`:
    the result of the latest attempt, or why it was switched off; `hint`: what to do about it. `failures`: deliveries given up since its
    last success.
    """

    state: str
    failures: int
    failing_since: str | None
    disabled_reason: str | None
    hint: str | None
    reason: str | None
    detail: str | None
    waiting: int
    next_attempt_datetime: str | None


class StatsAnswer(Struct):
    """How a handler has done. `since`: hour of the oldest counts; `success_rate`: delivered, of all delivered, failed or expired."""

    id: int
    since: str | None
    deliveries: Counts
    success_rate: float | None
    reasons: list[ReasonAnswer]
    latency_ms: LatencyAnswer
    health: HealthAnswer
    history: list[HandlerEventAnswer]


def stats(handler: Handler, facts: HandlerFacts, state: HandlerState) -> StatsAnswer:
    summary = summarize(facts.hours)
    counts = {**facts.counts, Status.DELIVERED: summary.delivered}
    return StatsAnswer(
        id=handler.id,
        since=times.show(facts.hours[0].hour * HOUR) if facts.hours else None,
        deliveries=Counts(*(counts[status] for status in Status)),
        success_rate=summary.success_rate,
        reasons=[ReasonAnswer(reason.value, count, sentence(reason)) for reason, count in facts.reasons],
        latency_ms=LatencyAnswer(*(None if seconds is None else round(seconds * 1000) for seconds in (summary.p50, summary.p95))),
        health=_health(handler, facts, state),
        history=[
            HandlerEventAnswer(times.show(one.at), one.what, None if one.reason is None else one.reason.value, event_text(one))
            for one in facts.events
        ],
    )


def _health(handler: Handler, facts: HandlerFacts, state: HandlerState) -> HealthAnswer:
    return HealthAnswer(
        state=state.word,
        failures=facts.streak.failures,
        failing_since=times.show_if(state.since) if state.word == "failing" else times.show_if(facts.streak.since),
        disabled_reason=handler.disabled_reason,
        hint=(hint(state.reason) or None) if state.reason is not None else None,
        reason=None if state.reason is None else state.reason.value,
        detail=state.detail or None,
        waiting=state.waiting,
        next_attempt_datetime=times.show_if(state.next_at),
    )


class HandlerStateAnswer(Struct):
    """How a handler is doing at this moment. `state`: ok, failing, unconfirmed, paused or switched_off. `reason` and `detail`: the
    result of its latest attempt, or why it was switched off. `waiting`: deliveries, counted to 10,000.
    """

    id: int
    name: str
    type: str
    state: str
    since: str | None
    reason: str | None
    detail: str | None
    waiting: int
    next_attempt_datetime: str | None


def handler_state(row: Handler, state: HandlerState) -> HandlerStateAnswer:
    return HandlerStateAnswer(
        row.id,
        row.name,
        row.type,
        state.word,
        times.show_if(state.since),
        None if state.reason is None else state.reason.value,
        state.detail or None,
        state.waiting,
        times.show_if(state.next_at),
    )


class SizeAnswer(Struct):
    """How much of a provider's limit a request takes; `limit` is null if there is none."""

    what: str
    size: int
    limit: int | None
    unit: str


class PreviewPartAnswer(Struct):
    """One native request, masked, with its sizes."""

    request: str
    sizes: list[SizeAnswer]


class PreviewAnswer(Struct):
    """What would be sent, part by part, and what the provider cannot show as it was written."""

    type: str
    parts: list[PreviewPartAnswer]
    changes: list[str]


def preview(one: Preview) -> PreviewAnswer:
    parts = [
        PreviewPartAnswer(part.request, [SizeAnswer(size.what, size.size, size.limit, size.unit) for size in part.sizes])
        for part in one.parts
    ]
    return PreviewAnswer(one.type, parts, [change.text for change in one.changes])


class SecretAnswer(Struct):
    """The secrets that sign a webhook handler's messages; `previous` signs too until `previous_until`."""

    secret: str
    previous: str | None
    previous_until: str | None


def secret(one: SigningSecret) -> SecretAnswer:
    return SecretAnswer(one.current, one.previous, times.show_if(one.previous_until))


class Health(Struct):
    """`status`: ok, or unready for the reasons in `complaints`, which also list what else an operator should know."""

    status: str
    complaints: list[str]
