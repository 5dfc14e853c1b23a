"""Which deliveries a notification becomes. Pure."""

from collections.abc import Mapping

from tocsin.clock import Micros
from tocsin.model import Draft, Fault, Reason, Status
from tocsin.ports.handlers import HandlerBrief
from tocsin.ports.intake import Planned, PlannedDelivery

MAX_DELIVERIES = 10_000  # of one request
_PENDING = Status.PENDING  # to ask an enum for a member takes as long as ten other look-ups


def plan(draft: Draft, handlers: Mapping[int, HandlerBrief]) -> Planned:
    """One delivery per handler, in the order given. The ids must be known: see `faults`."""
    at = draft.message.at
    due_at = at if draft.send_at is None else max(at, draft.send_at)
    deliveries: list[PlannedDelivery] = []
    for handler_id in handlers if draft.handlers is None else draft.handlers:
        brief = handlers[handler_id]
        if brief.is_enabled:
            deliveries.append(PlannedDelivery(handler_id, _PENDING, due_at))
        elif draft.handlers is not None:
            deliveries.append(_skipped(brief, due_at))
    return Planned(draft.message, draft.send_at, draft.expires_at, tuple(deliveries))


def _skipped(brief: HandlerBrief, due_at: Micros) -> PlannedDelivery:
    return PlannedDelivery(brief.id, Status.SKIPPED, due_at, Reason.HANDLER_DISABLED if brief.disabled_reason else Reason.HANDLER_PAUSED)


def faults(wanted: tuple[int, ...] | None, handlers: Mapping[int, HandlerBrief], parameter: str) -> list[Fault]:
    """What is wrong with the handlers that a draft names; `parameter` is what the fault points at."""
    if wanted is None:
        if any(brief.is_enabled for brief in handlers.values()):
            return []
        return [Fault("no_handlers", "Nothing to send to", "There is no enabled handler to send to.", parameter)]
    if not wanted:
        return [Fault("no_handlers", "Nothing to send to", "The list of handlers is empty.", parameter)]
    unknown = [str(one) for one in wanted if one not in handlers]
    if unknown:
        named = ", ".join(unknown[:10]) + (" and more" if len(unknown) > 10 else "")
        return [Fault("unknown_handler", "Unknown handler", f"There is no notification handler with id {named}.", parameter)]
    return []
