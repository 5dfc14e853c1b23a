"""What only a store on a PostgreSQL server can meet: a connection that breaks, a server that goes, an answer that is lost."""

import asyncio
import contextlib
import signal
import socket
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from conftest import run
from support import postgresql
from support.postgresql import TERMINATE
from support.shared import joined
from support.store import STORES, OpenStore, accept_one, accepting, add_handler, delivered, settled, untroubled
from tocsin.cli.selftest.many.postgresql import execute
from tocsin.cli.selftest.many.relay import Relay
from tocsin.model import Busy, Status
from tocsin.ports.errors import WriteFailed
from tocsin.ports.history import DeliveryFilter
from tocsin.ports.workers import Load
from tocsin.store import dialects, values, writer
from tocsin.store.dialects import Session, Unanswered, connecting
from tocsin.store.dialects import postgresql as dialect
from tocsin.store.dialects.connecting import postgresql_engine
from tocsin.store.migrating import migrate
from tocsin.store.shared import SharedStore
from tocsin.store.sql import write_now
from tocsin.store.totals import Totals


def test_a_write_whose_connection_broke_before_its_commit_is_repeated(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            breaks = [True]

            def write(connection: Any) -> int:
                if breaks:
                    breaks.clear()
                    execute(postgresql.database_of(tmp_path), TERMINATE)
                return connection.scalar(text("SELECT 1"))

            answers = await asyncio.gather(store.database.write(write), *(store.intake.accept(accepting(handler)) for _ in range(20)))
            assert answers[0] == 1
            assert len({one.id for [one] in answers[1:]}) == 20
            assert (await store.history.notifications(1, 1, 25)).total == 20
            assert store.vitals.trouble is None

    run(main())


def test_a_write_that_hides_a_failed_statement_is_refused_and_takes_no_other_with_it(open_postgresql: OpenStore) -> None:
    """PostgreSQL would undo all of the transaction, and answer its commit as if it had been kept."""

    def hides(connection: Connection) -> str:
        with contextlib.suppress(DBAPIError):
            connection.execute(text("SELECT 1 / 0"))
        return "kept"

    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            hidden, written = await asyncio.gather(
                store.database.write(hides), store.database.write(values.write, "mine", b"1"), return_exceptions=True
            )
            assert isinstance(hidden, WriteFailed) and written is None
            assert await store.values.read("mine") == b"1"
            await store.intake.accept(accepting(handler))

    run(main())


def test_connections_from_before_a_restart_are_replaced_and_a_server_that_ends_each_is_an_error_like_others(url: str) -> None:
    engine = postgresql_engine(url)
    with dialects.of(engine).reading(engine, 5) as first, dialects.of(engine).reading(engine, 5) as second:
        assert first.scalar(text("SELECT 1")) == second.scalar(text("SELECT 1")) == 1
    execute(url, TERMINATE)
    with dialects.of(engine).reading(engine, 5) as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    ends = b"BEGIN; SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(DBAPIError, match="terminating connection"), dialect._begun(engine, ends, 5):
        pass
    engine.dispose()


@pytest.mark.parametrize("kept", [True, False])
def test_a_commit_whose_answer_was_lost_is_looked_up(open_postgresql: OpenStore, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """Kept or not, each message is there once, and is answered with its own id."""

    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            commit = psycopg.Connection.commit
            lost: list[str] = []

            def lose(connection: psycopg.Connection[Any]) -> None:
                if threading.current_thread().name == "tocsin-writer" and not lost:
                    lost.append("lost")
                    if kept:
                        commit(connection)
                    socket.socket(fileno=socket.dup(connection.fileno())).shutdown(socket.SHUT_RDWR)
                    connection.execute("SELECT 1")
                commit(connection)

            monkeypatch.setattr(psycopg.Connection, "commit", lose)
            answers = await asyncio.gather(*(store.intake.accept(accepting(handler)) for _ in range(20)))
            assert lost == ["lost"]
            found = await store.history.deliveries(1, DeliveryFilter(), 1, 25)
            assert sorted(one.deliveries[0].id for [one] in answers) == sorted(one.id for one in found.rows)
            assert found.total == 20

    run(main())


@pytest.mark.parametrize("marks", [True, False], ids=["with totals", "without"])
@pytest.mark.parametrize("heir", ["itself", "itself, crashed", "standby", "standby, used"])
def test_who_takes_over_is_believed_only_what_it_can_know(monkeypatch: pytest.MonkeyPatch, heir: str, marks: bool) -> None:
    """A commit whose answer was lost: a standby that was behind may have given its number to another transaction since."""
    commit = dialect._commit

    def lose(driver: psycopg.Connection[Any]) -> None:
        commit(driver)
        connecting.hang_up(driver)
        driver.execute("SELECT 1")

    replicates = {"wal_level": "replica", "max_wal_senders": 5}
    with ExitStack() as stack:
        primary = postgresql.Server(**replicates)
        stack.callback(primary.remove)
        standby = postgresql.Server(standby_of=primary.start(), **replicates)
        stack.callback(standby.remove)
        session = session_on(stack, f"postgresql://tocsin@/postgres?host={primary.folder},{standby.folder}")
        number = next_transaction(session)
        with monkeypatch.context() as patched:
            patched.setattr(dialect, "_commit", lose)
            write_unanswered(session, marks)
        primary.stop(signal.SIGINT if heir == "itself" else signal.SIGQUIT)
        if heir.startswith("itself"):
            primary.start()
            if heir == "itself" or marks:
                assert session.was_kept() is True
            else:
                with pytest.raises(Unanswered):
                    session.was_kept()
            return
        standby.start().promote()
        if heir == "standby":
            assert session.was_kept() is False
            return
        use_up_to(standby, number)
        with pytest.raises(Unanswered):
            session.was_kept()


def test_a_number_that_a_crash_made_free_is_not_taken_for_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was about to be committed is gone, and the server gives its number again."""
    with ExitStack() as stack:
        server = postgresql.Server(wal_writer_delay="10s")  # nothing is written but by commits
        stack.callback(server.remove)
        session = session_on(stack, server.start().url())
        number = next_transaction(session)

        def crash(driver: psycopg.Connection[Any]) -> None:
            server.stop(signal.SIGQUIT)
            driver.execute("SELECT 1")

        with monkeypatch.context() as patched:
            patched.setattr(dialect, "_commit", crash)
            write_unanswered(session, marks=True)
        use_up_to(server.start(), number)
        with pytest.raises(Unanswered):
            session.was_kept()


def session_on(stack: ExitStack, url: str) -> Session:
    engine = postgresql_engine(url)
    stack.callback(engine.dispose)
    migrate(engine)
    session = dialects.of(engine).session(engine)
    stack.callback(session.close)
    return session


def next_transaction(session: Session) -> int:
    with session.transaction() as connection:
        return int(connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one()) + 1


def write_unanswered(session: Session, marks: bool) -> None:
    """`marks`: it counts something, as nearly every write does."""
    with pytest.raises(Unanswered), session.transaction() as connection:
        values.write(connection, "mine", b"")
        if marks:
            Totals({(1, Status.PENDING): 1}).write(connection)


def use_up_to(server: postgresql.Server, number: int) -> None:
    """By transactions of somebody else."""
    while int(server.execute("SELECT pg_current_xact_id()::text")[0][0]) < number:
        pass
    assert server.execute(f"SELECT pg_xact_status('{number}'::xid8)") == [("committed",)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_server_that_goes_and_comes_back_loses_nothing(server: postgresql.Server, tmp_path: Path, how: signal.Signals) -> None:
    async def main() -> None:
        server.execute("CREATE DATABASE one")
        async with STORES["postgresql"](tmp_path, url=server.url("one")) as store:
            handler = await add_handler(store)
            before = await accept_one(store, handler)
            await asyncio.to_thread(server.kill if how is signal.SIGKILL else partial(server.stop, how))
            with pytest.raises(Busy):
                await store.intake.accept(accepting(handler))
            assert store.vitals.trouble is not None and "cannot be reached" in store.vitals.trouble
            with pytest.raises(Busy):
                await store.history.delivery(1, before.id)
            with pytest.raises(Busy):
                await settled(store, delivered(before))
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(untroubled(store), 20)
            assert await settled(store, delivered(before))
            await store.intake.accept(accepting(handler))
            assert (await store.history.deliveries(1, DeliveryFilter(), 1, 25)).total == 2

    run(main())


def test_a_server_that_can_only_be_read_says_so(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            own = postgresql.database_of(tmp_path)
            name = execute(own, "SELECT current_database()")[0][0]
            execute(own, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            execute(own, TERMINATE)
            with pytest.raises(Busy):
                await store.intake.accept(accepting(handler))
            assert store.vitals.trouble is not None and "only lets the store be read" in store.vitals.trouble
            assert (await store.handlers.get(handler)) is not None
            execute(own, f"BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT")
            execute(own, TERMINATE)
            await asyncio.wait_for(untroubled(store), 20)
            await store.intake.accept(accepting(handler))

    run(main())


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("53100", "disk of the PostgreSQL server is full"),
        ("40001", "Another process holds"),
        ("42501", "lacks a permission"),
        ("XX001", "damaged"),
    ],
)
def test_what_the_server_refuses_for_its_own_reasons_is_said_and_asked_again(
    open_postgresql: OpenStore, tmp_path: Path, code: str, sentence: str
) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            own = postgresql.database_of(tmp_path)
            refuse = f"BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END"
            execute(own, f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {refuse} $$")
            for table in ("notifications", "meta"):
                execute(own, f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION refuse()")
            refused = await asyncio.gather(*(store.intake.accept(accepting(handler)) for _ in range(5)), return_exceptions=True)
            assert all(isinstance(one, Busy) for one in refused)
            assert store.vitals.trouble is not None and sentence in store.vitals.trouble
            execute(own, "DROP FUNCTION refuse CASCADE")
            await asyncio.wait_for(untroubled(store), 20)
            await store.intake.accept(accepting(handler))

    run(main())


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_writes_that_meet_another_transaction_are_repeated_and_nobody_is_told(
    open_postgresql: OpenStore, tmp_path: Path, code: str
) -> None:
    async def main() -> None:
        async with open_postgresql() as store:
            handler = await add_handler(store)
            own = postgresql.database_of(tmp_path)
            # A sequence counts on where the rest is undone.
            refuse = f"IF nextval('met') <= 2 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '{code}'; END IF; RETURN NEW;"
            execute(own, "CREATE SEQUENCE met")
            execute(own, f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {refuse} END $$")
            execute(own, "CREATE TRIGGER refuse BEFORE INSERT ON deliveries FOR EACH STATEMENT EXECUTE FUNCTION refuse()")
            answers = await asyncio.gather(*(store.intake.accept(accepting(handler)) for _ in range(20)))
            assert len({one.id for [one] in answers}) == 20
            assert execute(own, "SELECT last_value FROM met") == [(3,)]
            assert (await store.history.deliveries(1, DeliveryFilter(), 1, 25)).total == 20
            assert store.vitals.trouble is None

    run(main())


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_command_that_meets_another_transaction_is_repeated(url: str, code: str) -> None:
    engine = postgresql_engine(url)
    migrate(engine)
    met: list[str] = []

    def write(connection: Connection) -> str:
        values.write(connection, "mine", b"%d" % len(met))
        if len(met) < 2:
            met.append(code)
            connection.exec_driver_sql(f"DO $$ BEGIN RAISE 'deadlock detected' USING ERRCODE = '{code}'; END $$")
        return "kept"

    assert write_now(engine, write) == "kept"
    assert (len(met), execute(url, "SELECT value FROM meta WHERE name = 'mine'")) == (2, [(b"2",)])
    engine.dispose()


def test_what_another_process_writes_is_heard_of(open_postgresql: OpenStore, tmp_path: Path) -> None:
    async def main() -> None:
        changed = asyncio.Event()
        async with open_postgresql(changed.set) as store:
            await add_handler(store)
            await asyncio.wait_for(changed.wait(), 10)  # the connection is new: anything may have changed
            changed.clear()
            await add_handler(store)
            assert not changed.is_set()
            engine = postgresql_engine(postgresql.database_of(tmp_path))
            await asyncio.to_thread(write_now, engine, lambda connection: connection.execute(text("UPDATE users SET is_admin = FALSE")))
            engine.dispose()
            await asyncio.wait_for(changed.wait(), 10)

    run(main())


def test_a_connection_to_a_standby_that_is_then_promoted_hears_of_others(
    open_postgresql: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby takes connections and refuses to listen; promoted, it keeps them."""
    is_standby = threading.Event()
    connect = connecting.connect

    def connected(parameters: dict[str, Any]) -> psycopg.Connection[Any]:
        driver = connect(parameters)
        execute_ = driver.execute

        def refusing(query: Any, *args: Any, **more: Any) -> Any:
            if is_standby.is_set() and str(query).startswith("LISTEN"):
                raise psycopg.errors.ReadOnlySqlTransaction("cannot execute LISTEN during recovery")
            return execute_(query, *args, **more)

        monkeypatch.setattr(driver, "execute", refusing)
        return driver

    monkeypatch.setattr(connecting, "connect", connected)

    async def main() -> None:
        changed = asyncio.Event()
        async with open_postgresql(changed.set) as store:
            handler = await add_handler(store)
            own = postgresql.database_of(tmp_path)
            await asyncio.wait_for(changed.wait(), 10)  # the connection is new: anything may have changed
            changed.clear()
            is_standby.set()
            execute(own, TERMINATE)
            with pytest.raises(Busy):
                await store.intake.accept(accepting(handler))
            is_standby.clear()
            await asyncio.wait_for(untroubled(store), 20)
            await asyncio.wait_for(changed.wait(), 10)
            changed.clear()
            await asyncio.to_thread(execute, own, "NOTIFY tocsin_changes")
            await asyncio.wait_for(changed.wait(), 10)

    run(main())


def test_a_reading_is_interrupted(url: str) -> None:
    engine = postgresql_engine(url)
    with pytest.raises(Exception, match="statement timeout"), dialects.of(engine).reading(engine, 0.05) as connection:
        connection.execute(text("SELECT pg_sleep(30)"))
    engine.dispose()


def test_a_silent_server_is_noticed_though_nobody_reads_or_writes(
    server: postgresql.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next reader does not wait for connections that are as old."""
    monkeypatch.setattr(writer, "FRESH_SECONDS", 1e9)  # no write looks whether it can be written
    monkeypatch.setattr(dialect, "PING_SECONDS", 0.3)

    async def main() -> None:
        server.execute("CREATE DATABASE one")
        relay = Relay(f"{server.folder}/.s.PGSQL.5432")
        async with STORES["postgresql"](tmp_path, url=relay.url("one")) as store:
            one = await accept_one(store, await add_handler(store))
            assert await store.history.delivery(1, one.id) is not None
            assert store.vitals.trouble is None
            relay.stop()
            while (said := store.vitals.trouble) is None:
                await asyncio.sleep(0.01)
            assert "cannot be reached" in said
            relay.go_on()
            await asyncio.wait_for(untroubled(store), 20)
            monkeypatch.setattr(dialect, "GRACE_SECONDS", 1e9)  # a connection from before would never be given up
            assert await asyncio.wait_for(store.history.delivery(1, one.id), 20) is not None
        relay.close()

    run(main())


def test_what_a_silent_network_has_lost_is_asked_again_once_the_server_is_reached(
    server: postgresql.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write would wait for its answer for a minute, and all others behind it."""
    monkeypatch.setattr(connecting, "LOST_SECONDS", 0.3)
    monkeypatch.setattr(writer.Writer, "_look_for_others", lambda *_: None)  # it would notice that, where nothing is written just then

    async def main() -> None:
        server.execute("CREATE DATABASE two")
        relay = Relay(server.socket)
        async with STORES["postgresql"](tmp_path, url=relay.url("two")) as store:
            beside = SharedStore(store, lambda: None)
            worker_id = await joined(beside)
            handler = await add_handler(store)
            relay.stop()
            writing = asyncio.ensure_future(accept_one(store, handler))
            while not connecting._deadlines.waiting(0.0):
                await asyncio.sleep(0.01)
            relay.go_on()  # connections from before lead nowhere
            async with asyncio.timeout(30):
                while not writing.done():
                    await beside.workers.beat(worker_id, 0, Load(), False)
                    await asyncio.sleep(0.1)
            assert (await writing).handler_id == handler
            await beside.close()
        relay.close()

    run(main())


def test_a_server_that_falls_silent_is_hung_up_on(server: postgresql.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine is gone, and something in between goes on acknowledging."""
    monkeypatch.setattr("tocsin.store.dialects.postgresql.GRACE_SECONDS", 0.2)
    relay = Relay(f"{server.folder}/.s.PGSQL.5432")
    engine: Engine = postgresql_engine(relay.url("postgres"))
    with pytest.raises(Exception, match=r"closed the connection|connection is closed|lost"):  # noqa: SIM117
        with dialects.of(engine).reading(engine, 0.1) as connection:
            relay.stop()
            connection.execute(text("SELECT 1"))
    engine.dispose()
    relay.close()
