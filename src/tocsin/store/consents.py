"""Who has agreed to be mailed: `tocsin.ports.consents`."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection, func, insert, select, text, update

from tocsin.clock import Micros
from tocsin.model import Reason, Status
from tocsin.ports.audit import Act
from tocsin.ports.consents import COUNTED_FOR, MAX_ASKED, MAX_ASKED_BY_ALL, Asked, Asking, Consent, Owner, Place, is_unconfirmed
from tocsin.ports.handlers import HandlerEvent, HandlerRow
from tocsin.ports.intake import Accepted
from tocsin.store import notices
from tocsin.store.accepting import AcceptAll
from tocsin.store.audit import record
from tocsin.store.database import Database
from tocsin.store.handlers import keep_event
from tocsin.store.noting import note
from tocsin.store.queue import end_pending
from tocsin.store.rows import HANDLER, handler_of
from tocsin.store.statements import wait_for_turn
from tocsin.store.tables import consent_asks, handlers, mail_consents, users

_GIVE = text(
    "INSERT INTO mail_consents (user_id, mark, given_at, withdrawn_at) VALUES (:user_id, :mark, :at, NULL)"
    " ON CONFLICT (user_id, mark) DO UPDATE SET given_at = excluded.given_at"
)
_GIVE_UNLESS_KNOWN = text(
    "INSERT INTO mail_consents (user_id, mark, given_at, withdrawn_at) VALUES (:user_id, :mark, :at, NULL)"
    " ON CONFLICT (user_id, mark) DO NOTHING"
)
_WITHDRAW = text(
    "INSERT INTO mail_consents (user_id, mark, given_at, withdrawn_at) VALUES (:user_id, :mark, NULL, :at)"
    " ON CONFLICT (user_id, mark) DO UPDATE SET given_at = NULL, withdrawn_at = excluded.withdrawn_at"
)


class SqlConsents:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def owner(self, user_id: int) -> Owner | None:
        return await self._database.read(owner, user_id)

    async def is_given(self, user_id: int, place: Place) -> bool:
        return await self._database.read(is_given, user_id, place)

    async def ask(self, asking: Asking, committed: Callable[[list[Accepted]], None]) -> Asked:
        def run(connection: Connection) -> tuple[Asked, list[Accepted]]:
            return ask(connection, asking)

        def done(result: tuple[Asked, list[Accepted]]) -> None:
            if result[1]:
                committed(result[1])

        return (await self._database.writer.submit(run, committed=done))[0]

    async def give(self, user_id: int, place: Place, asked_at: Micros, at: Micros, waiting: Mapping[int, int]) -> bool:
        return await self._database.write(give, user_id, place, asked_at, at, waiting)

    async def withdraw(self, row: HandlerRow, place: Place, at: Micros, most: int) -> bool:
        return await self._database.write(withdraw, row, place, at, most)

    async def mailed(self, types: Sequence[str], user_id: int | None, after: int, limit: int) -> list[HandlerRow]:
        return await self._database.read(mailed, types, user_id, after, limit)

    async def correct(self, found: Mapping[int, tuple[int, Consent]], places: Sequence[tuple[int, Place]], at: Micros) -> None:
        await self._database.write(correct, found, places, at)


def owner(connection: Connection, user_id: int) -> Owner | None:
    found = select(users.c.email, users.c.is_admin, users.c.language).where(users.c.id == user_id, users.c.disabled_at.is_(None))
    row = connection.execute(found).first()
    return None if row is None else Owner(row.email, bool(row.is_admin), row.language)


def is_given(connection: Connection, user_id: int, place: Place) -> bool:
    own = (mail_consents.c.user_id == user_id, mail_consents.c.mark.in_(place.marks))
    return connection.scalar(select(1).where(*own, mail_consents.c.given_at.isnot(None)).limit(1)) is not None


def ask(connection: Connection, asking: Asking) -> tuple[Asked, list[Accepted]]:
    wait_for_turn(connection, f"asks {asking.place.mailboxes[0].hex()}")
    user_id, handler_id = asking.user_id, asking.handler_id
    if handler_id and not _is_to_be_asked(connection, asking):
        return Asked.NEEDLESS, []
    since = asking.at - COUNTED_FOR
    asks = (consent_asks.c.mailbox.in_(asking.place.mailboxes), consent_asks.c.at > since, consent_asks.c.at < asking.at + COUNTED_FOR)
    own = func.count().filter(consent_asks.c.user_id == user_id)
    by_user, by_all, latest = connection.execute(select(own, func.count(), func.max(consent_asks.c.at)).where(*asks)).one()
    if by_user >= MAX_ASKED or by_all >= MAX_ASKED_BY_ALL:
        return Asked.TOO_OFTEN, []
    at = max(asking.at, (latest or 0) + 1)  # two at the same moment are two
    connection.execute(insert(consent_asks).values(mailbox=asking.place.mailboxes[0], at=at, user_id=user_id))
    if handler_id:
        connection.execute(update(handlers).where(handlers.c.id == handler_id).values(asked_at=asking.at))
    return Asked.DONE, AcceptAll.run_all(connection, [asking.link])[0] if asking.link is not None else []


def _is_to_be_asked(connection: Connection, asking: Asking) -> bool:
    """False if its address has agreed for another handler: then that counts for this one."""
    live = select(handlers.c.consent, handlers.c.asked_at, users.c.is_admin).join(users, users.c.id == handlers.c.user_id)
    which = (handlers.c.id == asking.handler_id, handlers.c.version == asking.version, handlers.c.deleted_at.is_(None))
    row = connection.execute(live.where(*which)).first()
    if row is None or not is_unconfirmed(row.consent, row.is_admin) or (asking.is_first and row.asked_at is not None):
        return False
    if row.consent == Consent.MISSING and is_given(connection, asking.user_id, asking.place):
        _confirm(connection, asking.user_id, {asking.handler_id: asking.version})
        return False
    return True


def give(connection: Connection, user_id: int, place: Place, asked_at: Micros, at: Micros, waiting: Mapping[int, int]) -> bool:
    wait_for_turn(connection, f"consents of {user_id}")
    own = (mail_consents.c.user_id == user_id, mail_consents.c.mark.in_(place.marks))
    withdrawn_at = connection.scalar(select(func.max(mail_consents.c.withdrawn_at)).where(*own))
    if withdrawn_at is not None and withdrawn_at >= asked_at:
        return False
    connection.execute(_GIVE, {"user_id": user_id, "mark": place.marks[0], "at": at})
    _confirm(connection, user_id, waiting)
    return True


def _confirm(connection: Connection, user_id: int, waiting: Mapping[int, int]) -> None:
    """Nothing happens to those that have changed meanwhile."""
    for handler_id, version in sorted(waiting.items()):
        as_read = (handlers.c.id == handler_id, handlers.c.version == version, handlers.c.deleted_at.is_(None))
        agreed = update(handlers).where(*as_read).values(consent=int(Consent.GIVEN)).returning(handlers.c.name, handlers.c.type)
        if (row := connection.execute(agreed).first()) is not None:
            note(connection, "handler", handler_id, user_id)
            record(connection, Act.HANDLER_CONFIRMED, user_id, handler_id, row.name, type=row.type)


def withdraw(connection: Connection, row: HandlerRow, place: Place, at: Micros, most: int) -> bool:
    wait_for_turn(connection, f"consents of {row.user_id}")
    as_read = (handlers.c.id == row.id, handlers.c.version == row.version, handlers.c.deleted_at.is_(None))
    values = {"consent": int(Consent.WITHDRAWN), "asked_at": None, "is_enabled": False, "version": handlers.c.version + 1}
    if not connection.execute(update(handlers).where(*as_read).values(values)).rowcount:
        return False
    for mark in place.marks:
        connection.execute(_WITHDRAW, {"user_id": row.user_id, "mark": mark, "at": at})
    event = HandlerEvent(at, "unsubscribed", reason=Reason.UNCONFIRMED)
    keep_event(connection, row.id, event)
    note(connection, "handler", row.id, row.user_id)
    record(connection, Act.HANDLER_UNSUBSCRIBED, row.user_id, row.id, row.name, type=row.type)
    notices.record(connection, row.user_id, row.id, event)
    end_pending(connection, row.id, Status.SKIPPED, Reason.HANDLER_PAUSED, most)
    return True


def mailed(connection: Connection, types: Sequence[str], user_id: int | None, after: int, limit: int) -> list[HandlerRow]:
    chosen = select(*HANDLER).where(handlers.c.type.in_(types), handlers.c.id > after, handlers.c.deleted_at.is_(None))
    if user_id is not None:
        chosen = chosen.where(handlers.c.user_id == user_id)
    return [handler_of(row) for row in connection.execute(chosen.order_by(handlers.c.id).limit(limit))]


def correct(connection: Connection, found: Mapping[int, tuple[int, Consent]], places: Sequence[tuple[int, Place]], at: Micros) -> None:
    for user_id, place in places:
        connection.execute(_GIVE_UNLESS_KNOWN, {"user_id": user_id, "mark": place.marks[0], "at": at})
    for handler_id, (version, consent) in sorted(found.items()):
        as_read = (handlers.c.id == handler_id, handlers.c.version == version)
        connection.execute(update(handlers).where(*as_read).values(consent=int(consent)))
    if found:
        note(connection, "everything")
