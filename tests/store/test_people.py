"""Users and their sessions, whatever keeps them."""

import asyncio

from msgspec.structs import replace
from sqlalchemy import Connection, text

from conftest import run
from support.store import OpenStore
from tocsin.clock import DAY
from tocsin.ports.people import MARK_BYTES, MAX_KNOWN_ADDRESSES, MAX_SESSIONS, Invited, Living, Session
from tocsin.store import people

NOW = 1_800_000_000_000_000
LIVING = Living(NOW - 14 * DAY, NOW - 30 * DAY)
FIRST = Session(b"first", 1, NOW, NOW, "password", "Firefox, Linux", "192.0.2.1", NOW)


def test_a_session_is_kept_as_it_began_and_changes_with_its_use(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            await store.sessions.add(FIRST, LIVING, b"")
            found = await store.sessions.find(b"first", LIVING)
            assert found is not None and (found[0].id, found[1]) == (1, FIRST)
            await store.sessions.touch(b"first", NOW + 1, "192.0.2.2")
            await store.sessions.confirm(b"first", NOW + 2)
            assert await store.sessions.of(1, LIVING) == [replace(FIRST, seen_at=NOW + 1, address="192.0.2.2", confirmed_at=NOW + 2)]
            assert await store.sessions.find(b"another", LIVING) is None

    run(main())


def test_a_session_of_an_older_version_goes_on(open_store: OpenStore) -> None:
    def older(connection: Connection) -> None:
        statement = text("INSERT INTO sessions (token_hash, user_id, created_at, seen_at) VALUES (:hash, 1, :at, :at)")
        connection.execute(statement, {"hash": b"older", "at": NOW})

    async def main() -> None:
        async with open_store() as store:
            await store.database.write(older)
            assert await store.sessions.of(1, LIVING) == [Session(b"older", 1, NOW, NOW)]

    run(main())


def test_what_has_ended_is_neither_found_nor_listed_and_goes_with_the_next_sign_in(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            unused = replace(FIRST, token_hash=b"unused", seen_at=LIVING.seen_since - 1)
            old = replace(FIRST, token_hash=b"old", created_at=LIVING.made_since - 1)
            for one in (unused, old, FIRST):
                await store.sessions.add(one, Living(0, 0), b"")
            assert [one.token_hash for one in await store.sessions.of(1, LIVING)] == [b"first"]
            assert await store.sessions.find(b"unused", LIVING) is None and await store.sessions.find(b"old", LIVING) is None
            await store.sessions.add(replace(FIRST, token_hash=b"second"), LIVING, b"")
            assert {one.token_hash for one in await store.sessions.of(1, Living(0, 0))} == {b"first", b"second"}

    run(main())


def test_a_user_has_so_many_sessions_and_others_keep_theirs(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            await store.database.write(people.add_user, "second@example.com", False, NOW)
            theirs = replace(FIRST, token_hash=b"theirs", user_id=2, seen_at=NOW - DAY)
            await store.sessions.add(theirs, LIVING, b"")
            for number in range(MAX_SESSIONS + 3):
                one = replace(FIRST, token_hash=b"%d" % number, seen_at=NOW + (number * 7) % 100)
                await store.sessions.add(one, LIVING, b"")
            mine = await store.sessions.of(1, LIVING)
            assert len(mine) == MAX_SESSIONS and [one.seen_at for one in mine] == sorted((one.seen_at for one in mine), reverse=True)
            await store.sessions.end_others(1, mine[5].token_hash)
            assert await store.sessions.of(1, LIVING) == [mine[5]] and await store.sessions.of(2, LIVING) == [theirs]

    run(main())


def test_known_addresses_are_the_latest_and_survive_sign_ins_at_once(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            marks = [b"%08d" % number for number in range(MAX_KNOWN_ADDRESSES + 3)]
            for number, mark in enumerate((*marks, marks[5], b"")):
                await store.sessions.add(replace(FIRST, token_hash=b"%d" % number), LIVING, mark)
            person = await store.users.person("a@b")
            assert person is not None
            known = [person.known_addresses[at : at + MARK_BYTES] for at in range(0, len(person.known_addresses), MARK_BYTES)]
            assert known == [marks[5], *(one for one in reversed(marks) if one != marks[5])][:MAX_KNOWN_ADDRESSES]
            more = [b"more%04d" % number for number in range(5)]
            await asyncio.gather(*(store.sessions.add(replace(FIRST, token_hash=one), LIVING, one) for one in more))
            person = await store.users.person("a@b")
            assert person is not None and all(one in person.known_addresses for one in more)

    run(main())


def test_a_new_password_ends_sessions_and_voids_the_link(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            assert await store.users.invite("new@example.com", False, b"link", NOW, NOW + DAY) is Invited.DONE
            await store.sessions.add(replace(FIRST, user_id=2), LIVING, b"")
            await store.users.set_password(2, "a hash")
            assert await store.sessions.take_link(b"link", NOW) is None
            assert await store.sessions.of(2, LIVING) == []
            assert await store.users.invite("new@example.com", True, b"link", NOW, NOW + DAY) is Invited.THERE_ALREADY
            assert await store.sessions.take_link(b"link", NOW) is None

    run(main())


def test_roles_follow_invitations_and_the_last_administrator_stays_one(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:

            async def administrators() -> list[int]:
                return [user.id for user in await store.users.all() if user.is_admin]

            await store.users.set_role(1, True)
            await store.users.invite("new@example.com", False, b"1", NOW, NOW + DAY)
            assert await administrators() == [1]
            assert await store.users.invite("NEW@example.com", True, b"2", NOW, NOW + DAY) is Invited.DONE
            assert await administrators() == [1, 2]
            ends = await asyncio.gather(store.users.set_role(1, False), store.users.invite("new@example.com", False, b"3", NOW, NOW + DAY))
            assert (ends[0], ends[1]) in {(True, Invited.LAST_ADMINISTRATOR), (False, Invited.DONE)}
            [last] = await administrators()
            assert not await store.users.set_role(last, False) and not await store.users.disable(last, NOW)

    run(main())
