"""The audit log in the store: written with what it records, only added to, and cut at its old end."""

from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import Connection, delete, func, select, text, update

import tocsin.clock
from conftest import run
from support.store import OpenStore, accept_one, accepting, add_handler, delivered, settled
from tocsin.acting import SERVICE, Actor, acting
from tocsin.clock import DAY, HOUR, Micros
from tocsin.flow.history.audit import AuditTrail
from tocsin.flow.people.failures import MAX_ENTRIES, MAX_OF_ADDRESS, Failures
from tocsin.model import Reason, Status
from tocsin.ports.audit import Act, AuditFilter, Entry
from tocsin.ports.errors import WriteFailed
from tocsin.ports.handlers import HandlerChange, HandlerEvent, SwitchOff
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.identities import Identity
from tocsin.ports.people import Living, Session
from tocsin.store import audit, people
from tocsin.store import tables as t
from tocsin.store.sql import SqlStore

NOW = 1_800_000_000_000_000
LIVING = Living(0, 0)
PAGE = Actor("page", 1, None, "192.0.2.1")
ALL = AuditFilter()


async def acts(store: SqlStore, which: AuditFilter = ALL) -> list[str]:
    """The newest first."""
    return [one.act for one in await store.audit.page(which, 1000)]


async def newest(store: SqlStore) -> Entry:
    return (await store.audit.page(ALL, 1))[0]


async def _keys(store: SqlStore) -> None:
    key = await store.keys.add(1, "script", b"hash", "tk_abc", ("handlers:read",), NOW)
    assert await store.keys.revoke(key, NOW, 1)
    assert not await store.keys.revoke(key, NOW, 1)


async def _users(store: SqlStore) -> None:
    await store.users.invite("new@example.com", True, b"link", NOW, NOW + 1)
    await store.users.set_role(2, False)
    await store.users.set_role(2, False)
    await store.users.set_password(2, "hash of it")
    await store.users.disable(2, NOW)


async def _sessions(store: SqlStore) -> None:
    for number in range(3):
        await store.sessions.add(Session(b"%d" % number, 1, NOW, NOW, "password", "Firefox", "192.0.2.1", NOW), LIVING, b"")
    await store.sessions.confirm(b"0", NOW)
    await store.sessions.end(b"1")
    await store.sessions.end(b"1")
    await store.sessions.end_others(1, b"0")
    await store.sessions.end_others(1, b"0")


async def _second_factors(store: SqlStore) -> None:
    await store.second_factors.add(1, b"sealed", 1, [b"one"], NOW)
    await store.second_factors.use_code(1, b"one")
    await store.second_factors.use_code(1, b"one")
    await store.second_factors.renew_codes(1, [b"two"])
    await store.second_factors.remove(1)
    await store.second_factors.remove(1)


async def _elsewhere(store: SqlStore) -> None:
    await store.identities.arrive(Identity("https://issuer", "me"), "a@b", creates=False, is_admin=None, at=NOW)
    await store.identities.arrive(Identity("https://issuer", "you"), "you@b", creates=True, is_admin=True, at=NOW)


async def _handlers(store: SqlStore) -> None:
    handler = await add_handler(store)
    for change, event in (
        (HandlerChange(name="new", fields=("name",)), None),
        (HandlerChange(settings=b"s", fields=("webhook",)), HandlerEvent(NOW, "changed")),
        (HandlerChange(settings=b"s"), HandlerEvent(NOW, "changed")),  # the same as before
        (HandlerChange(is_enabled=False, fields=("is_enabled",)), HandlerEvent(NOW, "paused")),
        (HandlerChange(is_enabled=True, fields=("is_enabled",)), HandlerEvent(NOW, "enabled")),
        (HandlerChange(secret=b"s"), None),
        (HandlerChange(settings=b"s"), HandlerEvent(NOW, "moved", reason=Reason.MOVED)),
    ):
        assert await store.handlers.change(handler, change, None, event)
    row = await store.handlers.get(handler)
    assert row is not None
    event = HandlerEvent(NOW, "switched_off", "gone", Reason.GONE)
    assert await store.handlers.switch_off(SwitchOff(1, handler, row.version, event, 1, 10))
    assert await store.handlers.delete(handler, NOW)
    assert not await store.handlers.delete(handler, NOW)


async def _deliveries(store: SqlStore) -> None:
    handlers = [await add_handler(store) for _ in range(2)]
    one = await accept_one(store, handlers[0])
    await store.history.cancel(1, one.notification_id)  # one delivery: nothing that many would miss
    await store.history.retry(1, one.id, NOW, 10, None)
    [many] = await store.intake.accept(accepting(*handlers))
    await store.history.cancel(1, many.deliveries[0].notification_id)
    await store.history.retry(1, DeliveryFilter(status=Status.CANCELLED, search="the **text**"), NOW, 10, None)
    await store.history.retry(1, DeliveryFilter(status=Status.FAILED), NOW, 10, None)


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        (_keys, "key.revoked key.added"),
        (_users, "user.disabled password.set user.role_changed user.link_made user.added"),
        (_sessions, "session.others_ended session.ended confirm sign_in sign_in sign_in"),
        (
            _second_factors,
            "second_factor.removed second_factor.codes_renewed second_factor.recovery_code_used second_factor.set_up",
        ),
        (_elsewhere, "user.role_changed user.bound user.added user.bound"),
        (
            _handlers,
            "handler.deleted handler.switched_off handler.moved secret.rotated handler.enabled handler.paused handler.changed"
            " handler.changed handler.added",
        ),
        (_deliveries, "delivery.retried delivery.cancelled delivery.retried handler.added handler.added"),
    ],
)
def test_what_changes_security_is_written_down_and_only_where_something_was_done(
    open_store: OpenStore, do: Callable[[SqlStore], Awaitable[None]], expected: str
) -> None:
    async def main() -> None:
        async with open_store() as store:
            before = len(await acts(store))
            with acting(PAGE):
                await do(store)
            found = (await store.audit.page(ALL, 1000))[:-before]
            assert [one.act for one in found] == expected.split()
            itself = {"handler.switched_off", "handler.moved"}
            for one in found:
                by = ("service", None, "") if one.act in itself else ("page", one.user_id, "192.0.2.1")
                assert (one.via, one.user_id, one.address) == by
                assert one.who == ("" if one.act in itself else "a@b")
                assert "the **text**" not in str(one)

    run(main())


def test_sending_is_not(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            handler = await add_handler(store)
            before = await acts(store)
            await settled(store, delivered(await accept_one(store, handler)))
            assert await acts(store) == before

    run(main())


def test_what_fails_leaves_no_entry_and_what_is_done_leaves_one_in_the_same_commit(open_store: OpenStore) -> None:
    def fails(connection: Connection) -> None:
        people.add_user(connection, "half@example.com", False, NOW)
        raise ZeroDivisionError

    async def main() -> None:
        async with open_store() as store:
            before = await acts(store)
            with pytest.raises(ZeroDivisionError):
                await store.database.write(fails)
            assert await acts(store) == before

    run(main())


def test_it_tells_who_did_it_to_whom_also_after_they_are_gone(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            await store.users.invite("gone@example.com", False, b"link", NOW, NOW + 1)
            with acting(Actor("api", 2, 7, "192.0.2.2")):
                await store.keys.add(2, "theirs", b"h", "tk_", (), NOW)
            with acting(Actor("command", name="root")):
                await store.database.write(people.delete_user, 2)
            deleted, added, *_ = await store.audit.page(ALL, 10)
            assert (deleted.act, deleted.who, deleted.whose) == ("user.deleted", "root", "gone@example.com")
            assert (added.who, added.key_id, added.name, added.detail) == ("gone@example.com", 7, "theirs", {"scopes": ["all"]})

    run(main())


def test_rows_are_only_added(open_store: OpenStore) -> None:
    def changed(connection: Connection) -> None:
        connection.execute(update(t.audit).values(who="somebody else"))

    def gone(connection: Connection) -> None:
        connection.execute(delete(t.audit))

    async def main() -> None:
        async with open_store() as store:
            await store.audit.add(Act.SECRET_READ, 1, 3, "hook", {"type": "webhook"})
            before = await store.audit.page(ALL, 10)
            for work in (changed, gone):
                with pytest.raises(WriteFailed, match="rows of the audit log"):
                    await store.database.write(work)
            assert await store.audit.page(ALL, 10) == before

    run(main())


def test_retention_takes_the_old_ones(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_store() as store:
            now = tocsin.clock.now()
            for days in range(5):
                monkeypatch.setattr(tocsin.clock, "now", lambda days=days: now - (5 - days) * DAY)
                await store.audit.add(Act.SECRET_READ, 1, days)
            monkeypatch.undo()
            swept = await store.tidying.sweep("audit", now - 3 * DAY, 2, ())
            assert (swept.rows, swept.after) == (2, ())
            assert (await store.tidying.sweep("audit", now - 3 * DAY, 2, ())).rows == 0
            assert [one.ref for one in await store.audit.page(AuditFilter(act="secret.read"), 10)] == [4, 3, 2]

    run(main())


def test_it_is_filtered_and_paged(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            await store.users.invite("50%_off@example.com", False, b"link", NOW, NOW + 1)
            await store.users.invite("other@example.com", False, b"link2", NOW, NOW + 1)
            for number in range(6):
                with acting(Actor("page" if number % 2 else "api", 2 + number % 2, None, f"192.0.2.{number}")):
                    await store.audit.add(Act.SECRET_READ if number < 3 else Act.SECRET_ROTATED, 2, number)
            await store.audit.add(Act.SIGN_IN_FAILED)

            async def refs(**which: object) -> list[int | None]:
                return [one.ref for one in await store.audit.page(AuditFilter(**which), 100) if one.act.startswith("secret")]

            assert await refs(act="secret") == [5, 4, 3, 2, 1, 0]
            assert await refs(act="secret.read") == [2, 1, 0]
            assert await refs(act="secre") == []
            assert await refs(via="page") == [5, 3, 1]
            assert await refs(user="%_OFF") == [5, 4, 3, 2, 1, 0]
            assert await refs(user="other@") == [5, 3, 1]
            assert await refs(user="%") == [5, 4, 3, 2, 1, 0] and await refs(user="x%") == []
            assert await refs(address="192.0.2.4") == [4]
            assert await refs(concerns=3) == [5, 3, 1]
            assert await refs(concerns=2) == [5, 4, 3, 2, 1, 0]
            now = tocsin.clock.now()
            assert await refs(start=now + HOUR) == [] == await refs(end=now - HOUR)
            assert len(await refs(start=now - HOUR, end=now + HOUR)) == 6
            first = await store.audit.page(AuditFilter(act="secret"), 4)
            rest = await store.audit.page(AuditFilter(act="secret", before=first[-1].id), 4)
            assert [one.ref for one in (*first, *rest)] == [5, 4, 3, 2, 1, 0]
            own = await store.audit.page(AuditFilter(concerns=2), 2)
            assert [one.ref for one in own] == [5, 4]

    run(main())


def test_ones_own_entries_do_not_tell_where_others_are(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            await store.users.invite("other@example.com", True, b"link", NOW, NOW + 1)
            trail = AuditTrail(store.audit)
            for user, address in ((1, "192.0.2.1"), (2, "192.0.2.2"), (None, "198.51.100.3")):
                with acting(Actor("page", user, None, address)):
                    await store.audit.add(Act.SIGN_IN_FAILED if user is None else Act.ROLE_CHANGED, 1)
            found = await trail.own_page(1, AuditFilter(act="sign_in"), 10) + await trail.own_page(
                1, AuditFilter(act="user.role_changed"), 10
            )
            assert [one.address for one in found] == ["198.51.100.3", "", "192.0.2.1"]

    run(main())


def test_a_stranger_can_write_only_so_many_entries_and_others_are_counted(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_store() as store:
            now: Micros = tocsin.clock.now() // HOUR * HOUR
            monkeypatch.setattr(tocsin.clock, "now", lambda: now)
            failures = Failures(store.audit)
            of_failures = AuditFilter(act="sign_in.failed")
            for _ in range(MAX_OF_ADDRESS + 5):
                await failures.note(Act.SIGN_IN_FAILED, "192.0.2.1", "192.0.2.1", by="password")
            assert len(await acts(store, of_failures)) == MAX_OF_ADDRESS
            for number in range(MAX_ENTRIES + 50):
                address = f"2001:db8:{number:x}::1"
                await failures.note(Act.SIGN_IN_FAILED, address, address, by="password")
            assert len(await acts(store, of_failures)) == MAX_ENTRIES
            await failures.sum_up()
            assert len(await acts(store, of_failures)) == MAX_ENTRIES
            now += HOUR
            await failures.sum_up()
            await failures.sum_up()
            assert len(await acts(store, of_failures)) == MAX_ENTRIES + 1
            last = await newest(store)
            assert last.detail == {"more": 5 + 50 + MAX_OF_ADDRESS}
            await failures.note(Act.SIGN_IN_FAILED, "192.0.2.1", "192.0.2.1", by="password")
            assert (await newest(store)).detail == {"by": "password"}

    run(main())


def test_who_reads_settings_in_the_clear_is_written_down_once_an_hour(open_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_store() as store:
            now: Micros = tocsin.clock.now() // HOUR * HOUR
            monkeypatch.setattr(tocsin.clock, "now", lambda: now)
            trail = AuditTrail(store.audit)
            for key, address in ((1, "a"), (1, "a"), (2, "a"), (2, "b"), (1, "a")):
                with acting(Actor("api", 1, key, address)):
                    await trail.settings_read(1)
            now += HOUR
            with acting(Actor("api", 1, 1, "a")):
                await trail.settings_read(1)
            found = await store.audit.page(AuditFilter(act="handler.settings_read"), 10)
            assert [(one.key_id, one.address) for one in found] == [(1, "a"), (2, "b"), (2, "a"), (1, "a")]

    run(main())


def test_what_the_service_does_by_itself_is_not_blamed_on_the_user_who_is_there(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            with acting(PAGE):
                await store.database.write(lambda c: audit.record(c, Act.HANDLER_SWITCHED_OFF, 1, 3, by=SERVICE))
            assert (await newest(store)).via == "service"
            await store.database.write(lambda c: audit.record(c, Act.SECRET_READ, 1))
            assert (await newest(store)).via == "service"
            assert await store.database.read(lambda c: c.scalar(select(func.count()).select_from(t.audit))) >= 2
            await store.database.read(lambda c: c.execute(text("SELECT 1")))

    run(main())
