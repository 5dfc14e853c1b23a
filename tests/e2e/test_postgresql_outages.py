"""Whatever happens to PostgreSQL in the midst of load: nothing accepted is lost, only what was in flight repeats, the service says what is
wrong, and it goes on by itself."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import pytest

from e2e.conftest import Starter
from e2e.load import HANDLERS, Senders, arrivals, in_flight, nothing_waits, sending
from e2e.service import Client, Service, until
from e2e.stores import postgresql_only
from receiver import Receiver
from support import postgresql
from support.postgresql import SmallDisk, Unmountable

PASSWORD = "hunter2-of-the-database"
SCHEDULE = "0.1s,0.2s,0.4s,1s,1s"
GONE = "cannot be reached"
ONLY_READ = "only lets the store be read"
FULL = "disk of the PostgreSQL server is full"
OTHERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
def loaded(start_service: Starter, receiver: Receiver) -> Callable[..., tuple[Service, Client]]:
    """`loaded(TOCSIN_DATABASE_URL=url)`: a service with handlers whose receiver is slow enough that attempts are always in flight."""
    receiver.answer("/hook", 200, delay=0.02)

    def start(**environ: str) -> tuple[Service, Client]:
        service = start_service(TOCSIN_RETRY_SCHEDULE=SCHEDULE, **environ)
        client = service.first()
        assert [client.add_handler("webhook", webhook=receiver.url("/hook")) for _ in range(HANDLERS)] == list(range(1, HANDLERS + 1))
        return service, client

    return start


def is_ready(service: Service) -> bool:
    return service.first().get("/readyz").status == 200


def says_so(service: Service, *sentences: str) -> None:
    """Until it says one of these; and what it says to clients meanwhile."""
    client = service.first()

    def said() -> str:
        reply = client.get("/readyz")
        return " ".join(reply.json["complaints"]) if reply.status == 503 else ""

    until(lambda: any(sentence in said() for sentence in sentences), 20, f"it does not say {sentences}")
    assert client.get("/healthz").status == 200
    refused = client.post("/api/notifications", {"message": "0", "handlers": [1]}, Idempotency_Key="number 0")
    if refused.status != 202:  # on a full disk little of it may go through: then it is the first message once more
        assert (refused.status, refused.codes()) == (503, [("busy", None)])
        assert int(refused.headers["retry-after"]) >= 1


def nothing_was_lost(service: Service, client: Client, receiver: Receiver, senders: Senders, cut_off: Sequence[int] = ()) -> None:
    """`cut_off`: deliveries that were in flight when the service was killed."""
    until(nothing_waits(client), 40, "deliveries still wait")
    sends = len(senders.accepted)
    notifications = {one.json()["data"]["id"]: one.json()["data"]["message"] for one in receiver.requests}
    assert notifications == {notification: str(number) for number, notification in senders.accepted.items()}
    assert client.get("/api/notifications").json["meta"]["total"] == sends
    assert client.get("/api/deliveries?status=delivered").json["meta"]["total"] == sends
    assert {delivery for delivery, count in arrivals(receiver).items() if count > 1} <= set(cut_off)
    assert service.rows("SELECT what, sum(n) FROM totals WHERE what < 100 GROUP BY what HAVING sum(n) != 0") == [(1, sends)]
    until(lambda: is_ready(service), what="it is not well again")
    assert "Traceback" not in service.log() and "exception" not in service.log()


def test_nothing_is_lost_whichever_of_the_two_is_killed(
    loaded: Callable[..., tuple[Service, Client]], own_server: postgresql.Server, receiver: Receiver
) -> None:
    sends = 600
    service, client = loaded(TOCSIN_DATABASE_URL=own_server.url("tocsin").replace("tocsin@", f"tocsin:{PASSWORD}@"))
    cut_off: set[int] = set()

    def kill_service() -> None:
        service.kill()
        cut_off.update(delivery for delivery, _ in in_flight(service))

    def go_on() -> None:
        senders.up(service.start().port)

    deaths = (
        (kill_service, go_on),
        (own_server.kill, own_server.start),
        (partial(own_server.stop, signal.SIGQUIT), own_server.start),
        (partial(own_server.stop, signal.SIGINT), own_server.start),
        (kill_service, go_on),
    )
    with sending(client, sends, refusals=(503,)) as senders:
        for number, (die, come_back) in enumerate(deaths, 1):
            senders.wait(number * sends // (len(deaths) + 1))
            if die is kill_service:
                senders.down()
            die()
            if die is not kill_service:
                says_so(service, GONE)
            come_back()
            until(lambda: is_ready(service), 15, "it was not ready again")
    assert len(senders.accepted) == sends
    nothing_was_lost(service, client, receiver, senders, list(cut_off))
    assert PASSWORD not in service.log() + "".join(service.printed)


@postgresql_only
@pytest.mark.parametrize("how", ["one after the other", "all at once"])
def test_connections_that_are_ended_are_replaced(loaded: Callable[..., tuple[Service, Client]], receiver: Receiver, how: str) -> None:
    """The writer's, those of readers, the one that holds the lock: each of them, again and again."""
    service, client = loaded()
    ended: set[int] = set()
    with sending(client, 400, refusals=(503,)) as senders:
        for number in range(1, 11):
            senders.wait(number * 30)
            client.get("/api/deliveries")  # so that there is a connection for reading
            pids = [pid for (pid,) in service.rows(OTHERS)]
            ended.update(pids)
            if how == "all at once":
                service.rows(f"SELECT pg_terminate_backend(pid) FROM ({OTHERS}) AS others")
            else:
                for pid in pids:
                    service.rows("SELECT pg_terminate_backend(?)", pid)
    assert len(ended) >= 20
    until(lambda: service.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid IN (" + OTHERS + ")") == [(1,)])
    nothing_was_lost(service, client, receiver, senders)


@pytest.fixture
def primary_and_standby() -> Iterator[tuple[postgresql.Server, postgresql.Server]]:
    """What the primary acknowledges is on the standby's disk."""
    replicates = {"wal_level": "replica", "max_wal_senders": 5}
    with ExitStack() as servers:
        primary = postgresql.Server(synchronous_standby_names="*", **replicates)
        servers.callback(primary.remove)
        primary.start()
        standby = postgresql.Server(standby_of=primary, **replicates)
        servers.callback(standby.remove)
        standby.start()
        until(lambda: primary.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
        primary.execute("CREATE DATABASE tocsin")
        yield primary, standby


@pytest.mark.parametrize("attributes", ["&target_session_attrs=read-write", ""], ids=["read-write", "any"])
def test_a_synchronous_standby_takes_over(
    loaded: Callable[..., tuple[Service, Client]],
    primary_and_standby: tuple[postgresql.Server, postgresql.Server],
    receiver: Receiver,
    attributes: str,
) -> None:
    """Where the URL names both. Without `target_session_attrs` the standby is read from until it is promoted."""
    primary, standby = primary_and_standby
    service, client = loaded(TOCSIN_DATABASE_URL=f"postgresql://tocsin@/tocsin?host={primary.folder},{standby.folder}{attributes}")
    with sending(client, 400, refusals=(503,)) as senders:
        senders.wait(100)
        primary.kill()
        says_so(service, GONE if attributes else ONLY_READ)
        if not attributes:
            assert client.get("/api/deliveries").status == 200
        standby.promote()
        until(lambda: is_ready(service), 30, "it was not ready again")
    service.environ["TOCSIN_DATABASE_URL"] = standby.url("tocsin")
    nothing_was_lost(service, client, receiver, senders)


@pytest.mark.parametrize("has_log", [False, True], ids=["data", "data and log"])
def test_a_full_disk_of_the_server_is_said_and_survived(
    loaded: Callable[..., tuple[Service, Client]], receiver: Receiver, has_log: bool
) -> None:
    """Where its own log is on that disk too, the server may end itself; it is started again once there is room."""
    try:
        server = SmallDisk(64, has_log=has_log)
    except Unmountable as why:
        pytest.skip(str(why))
    with ExitStack() as stack:
        stack.callback(server.remove)
        server.start().execute("CREATE DATABASE tocsin")
        service, client = loaded(TOCSIN_DATABASE_URL=server.url("tocsin"))
        with sending(client, 1200, refusals=(503,)) as senders:
            senders.wait(50)
            filler = server.fill()
            says_so(service, FULL, GONE)
            filler.unlink()
            if server.has_ended():
                server.start()
        assert len(senders.accepted) == 1200
        nothing_was_lost(service, client, receiver, senders)


def test_a_server_that_was_made_read_only_is_read_and_waited_for(
    loaded: Callable[..., tuple[Service, Client]], own_server: postgresql.Server, receiver: Receiver
) -> None:
    service, client = loaded(TOCSIN_DATABASE_URL=own_server.url("tocsin"))
    with sending(client, 200, refusals=(503,)) as senders:
        senders.wait(50)
        own_server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        own_server.execute("SELECT pg_reload_conf()")
        says_so(service, ONLY_READ)
        assert client.get("/api/deliveries").status == 200
        (own_server.data / "postgresql.auto.conf").write_text("")
        own_server.execute("SELECT pg_reload_conf()")
    assert len(senders.accepted) == 200
    nothing_was_lost(service, client, receiver, senders)


def test_a_handler_that_cannot_be_read_waits_and_is_no_fault_of_ours(
    start_service: Starter, own_server: postgresql.Server, receiver: Receiver
) -> None:
    """Nothing of it is in memory when its delivery is due, and the server is away."""
    receiver.answer("/hook", 429, headers={"Retry-After": "6"})
    receiver.answer("/hook", 200)
    service = start_service(TOCSIN_DATABASE_URL=own_server.url("tocsin"))
    client, other = service.first(), service.client()
    handler = client.add_handler("webhook", webhook=receiver.url("/hook"))
    first = client.send("throttled", handlers=[handler])
    client.attempted(first)
    second = client.send("waits behind it", handlers=[handler])
    own_server.execute("UPDATE keys SET revoked_at = 1 WHERE user_id <> 1; NOTIFY tocsin_changes", "tocsin")
    until(lambda: other.get("/api/notifications").status == 401)  # all that was in memory has been dropped
    own_server.stop()
    until(lambda: "engine.refill_waits" in service.log(), what="its turn did not come")
    own_server.start()
    for notification in (first, second):
        assert [one["status"] for one in client.settled(notification, 30)] == ["delivered"]
    assert "Traceback" not in service.log() and "exception" not in service.log() and "attempt.failed" not in service.log()


def test_an_attempt_that_needs_the_store_first_is_made_again(
    start_service: Starter, own_server: postgresql.Server, receiver: Receiver
) -> None:
    """X's posts of the day are counted before one goes out, and the server is away."""
    receiver.answer("/2/tweets", 429, body=b"{}", headers={"x-rate-limit-reset": str(int(time.time()) + 6)})
    receiver.answer("/2/tweets", 201, body=b'{"data":{"id":"1","text":"t"}}')
    service = start_service(TOCSIN_DATABASE_URL=own_server.url("tocsin"), TOCSIN_X_API_URL=receiver.url(""), TOCSIN_RETRY_SCHEDULE="1s")
    client = service.first()
    handler = client.add_handler("x", x_consumer_key="k", x_consumer_secret="s", x_access_token="1-t", x_access_token_secret="t")
    client.attempted(client.send("throttled", handlers=[handler]))
    second = client.send("waits behind it", handlers=[handler])
    own_server.stop()
    until(lambda: "engine.refill_waits" in service.log(), 20, "its turn did not come")
    own_server.start()
    assert [one["status"] for one in client.settled(second, 30)] == ["delivered"]
    assert "Traceback" not in service.log() and "exception" not in service.log() and "attempt.failed" not in service.log()
