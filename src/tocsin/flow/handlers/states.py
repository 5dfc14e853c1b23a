"""A handler's state, told from what its deliveries met: one that takes nothing is not well, however it was registered."""

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.flow.directory import SEALED
from tocsin.model import Handler, Reason
from tocsin.ports.standings import Standing

STATES = ("ok", "failing", "unconfirmed", "paused", "switched_off")


class HandlerState(Struct, frozen=True):
    """`word`: one of STATES. `since`: from when on it is so, where that is kept. `reason` and `detail`: what the latest attempt met, or why
    it was switched off. `waiting`: deliveries, counted to 10,000; `next_at`: when the next of them can start, never in the past.
    """

    word: str
    since: Micros | None = None
    reason: Reason | None = None
    detail: str = ""
    waiting: int = 0
    next_at: Micros | None = None


def state_of(handler: Handler, standing: Standing, next_at: Micros | None) -> HandlerState:
    """`next_at`: when the next of those that wait can start, as `waits.next_start` says."""
    event, waiting = standing.event, standing.waiting
    if handler.is_sealed and handler.is_enabled:  # nothing is sent to it, whatever was before
        return HandlerState("failing", standing.failing_since, Reason.SETTINGS, SEALED, waiting, next_at)
    if not handler.is_enabled:
        since = None if event is None else event.at
        if handler.disabled_reason is None:
            if event is not None and event.what == "unsubscribed":
                return HandlerState("paused", since, event.reason, event.detail, waiting, next_at)
            return HandlerState("paused", since, None, "", waiting, next_at)
        reason = None if event is None else event.reason
        return HandlerState("switched_off", since, reason, handler.disabled_reason, waiting, next_at)
    if standing.unconfirmed_since is not None:
        return HandlerState("unconfirmed", standing.unconfirmed_since, Reason.UNCONFIRMED, "", waiting, next_at)
    if standing.failing_since is None:
        return HandlerState("ok", waiting=waiting, next_at=next_at)
    return HandlerState("failing", standing.failing_since, standing.reason, said(standing.reason, standing.error), waiting, next_at)


def said(reason: Reason | None, error: str | None) -> str:
    """What was said beside the reason, of a delivery's last error."""
    if not error or reason is None:
        return error or ""
    return error.removeprefix(reason.value).removeprefix(":").strip()
