"""What goes wrong on a stage. Each says what was seen; what was broken is in the complaints, or in the books at the end."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from msgspec import Struct

from tocsin.cli.failure import Failure
from tocsin.cli.selftest.many.cluster import READY_SECONDS, Process
from tocsin.cli.selftest.many.postgresql import Pair
from tocsin.cli.selftest.many.relay import Relay
from tocsin.cli.selftest.many.stage import Stage, shown
from tocsin.cli.selftest.service import Down, Refused

DEAD_SECONDS, LEFT_SECONDS, JOINED_SECONDS, SEEN_SECONDS = 5.0, 1.0, 3.0, 2.0  # what is promised
STOPPED_SECONDS = 6.0  # longer than others wait before they call a worker dead
BACKLOG = 1000
SENDING = ("after-answer", "before-outcome-commit", "after-outcome-commit")
ACCEPTING = ("before-accept-commit", "after-accept-commit")
TWICE = 10
_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random()"


class Fault(Struct, frozen=True):
    """`needs`: "server": one that may be stopped, "relay": one that can be reached through a relay."""

    name: str
    promise: str
    act: Callable[[Stage], str]
    needs: Literal["", "server"] = ""


# ------------------------------------------------------------------------------------------------------------ processes


def worker_killed(stage: Stage) -> str:
    """kill -9."""
    victim, cluster = stage.victim(stage.cluster.workers), stage.cluster
    with stage.mishap():
        dead = cluster.id_of(victim)
        victim.kill()
        took = stage.timed("partitions of a dead worker move", DEAD_SECONDS, lambda: not cluster.owned().keys() & {0, dead})
    return f"its partitions moved after {shown(took)}"


def worker_joins(stage: Stage) -> str:
    return f"it had its share {shown(_joins(stage, stage.cluster.launch('worker')))} after it had joined"


def _joins(stage: Stage, process: Process) -> float | None:
    cluster = stage.cluster
    cluster.until(lambda: cluster.id_of(process) != 0, READY_SECONDS)
    took = stage.timed("a new worker has its share", JOINED_SECONDS, cluster.is_shared_out)
    process.wait_until_ready(READY_SECONDS)
    return took


def worker_freezes(stage: Stage) -> str:
    """SIGSTOP, for longer than others wait, and SIGCONT."""
    victim = stage.victim(stage.cluster.workers)
    with stage.mishap():
        before = stage.cluster.id_of(victim)
        with victim.frozen():
            time.sleep(STOPPED_SECONDS)
        back = stage.cluster.until(lambda: stage.cluster.id_of(victim) not in {0, before}, READY_SECONDS)
        if back is None:
            stage.complain(f"{victim.name} went on and did not join again")
        stage.until_well()
    return f"others sent instead of it, and it joined again {back or 0:.1f} s after it went on"


def api_killed(stage: Stage) -> str:
    with stage.mishap():
        stage.victim(stage.cluster.apis).kill()
    return "clients asked another one"


def api_freezes(stage: Stage) -> str:
    victim = stage.victim(stage.cluster.apis)
    with stage.mishap(), victim.frozen():
        time.sleep(STOPPED_SECONDS)
    return "clients asked another one"


def killed_at_a_point(stage: Stage) -> str:
    """Two more processes kill themselves at named points (see `points`): one that sends, one that accepts."""
    seen: list[str] = []
    for role, points in (("worker", SENDING), ("api", ACCEPTING)):
        point = f"{stage.dice.choice(points)}:{stage.dice.randint(1, 30)}"
        with stage.mishap():
            if stage.cluster.launch(role, crash_at=point).died(READY_SECONDS):
                seen.append(f"one died at {point}")
            else:
                stage.complain(f"no {role} came to {point}")
    return ", ".join(seen)


def restarted_in_turn(stage: Stage) -> str:
    """SIGTERM through all: another one comes for each."""
    took: list[float | None] = []
    for process in [one for one in stage.cluster.processes if one.pid is not None]:
        took += _restarted(stage, process)
        stage.until_well()
    return f"partitions moved after {', '.join(map(shown, took))}"


def _restarted(stage: Stage, process: Process) -> list[float | None]:
    cluster, leaving, took = stage.cluster, stage.cluster.id_of(process), list[float | None]()
    ending = threading.Thread(target=_end, args=(stage, process))
    ending.start()
    if process.role != "api":
        took.append(stage.timed("partitions of a stopping worker move", LEFT_SECONDS, lambda: not cluster.owned().keys() & {0, leaving}))
    ending.join()
    process.launch()
    process.wait_until_ready(READY_SECONDS)
    return took


def _end(stage: Stage, process: Process) -> None:
    if not process.stop():
        stage.complain(f"{process.name} was told to stop and did not end with 0")


def as_before(stage: Stage, roles: tuple[str, ...]) -> None:
    """As many processes of each role as there were."""
    for role in dict.fromkeys(roles):
        while len(stage.cluster.of_role(role)) > roles.count(role):
            _end(stage, stage.victim(stage.cluster.of_role(role)))
        while len(stage.cluster.of_role(role)) < roles.count(role):
            process = stage.cluster.launch(role)
            if role == "api":
                process.wait_until_ready(READY_SECONDS)
            else:
                _joins(stage, process)
    stage.until_well()


# ------------------------------------------------------------------------------------------------------------ PostgreSQL


def server_restarted(stage: Stage) -> str:
    return _away(stage, lambda: _servers(stage).primary.stop(signal.SIGINT))


def server_crashes(stage: Stage) -> str:
    """As after a power failure: its next start recovers."""
    return _away(stage, lambda: _servers(stage).primary.stop(signal.SIGQUIT))


def _servers(stage: Stage) -> Pair:
    if stage.servers is None:
        raise Failure("This server is not ours to stop.")
    return stage.servers


def _away(stage: Stage, end: Callable[[], None]) -> str:
    seconds = stage.dice.uniform(0.1, 4.0)
    end()
    time.sleep(seconds)
    _servers(stage).primary.start()
    return f"it was away for {seconds:.1f} s, and messages arrived again {_flows_again(stage)} later"


def standby_takes_over(stage: Stage) -> str:
    """kill -9 of the primary and all its sessions, and then another one follows the new one."""
    with stage.mishap():
        _servers(stage).fail_over()
        took = _flows_again(stage)
        stage.until_well()
    _servers(stage).repair()
    return f"messages arrived again {took} after it took over"


def _flows_again(stage: Stage) -> str:
    """Until something that is accepted from now on has arrived."""
    handler = next(iter(stage.handlers))
    began = time.monotonic()
    notification = stage.load.send([handler])
    arrived = f"SELECT 1 FROM deliveries WHERE notification_id = {notification} AND status = 1"
    if stage.cluster.until(lambda: bool(stage.cluster.query(arrived)), READY_SECONDS) is None:
        stage.complain(f"notification {notification} still waits")
    return f"{time.monotonic() - began:.1f} s"


def sessions_ended(stage: Stage) -> str:
    """Each of them, in any order, and then all at once."""
    ended = 0
    for (pid,) in stage.cluster.query(_SESSIONS):
        ended += bool(stage.cluster.query("SELECT pg_terminate_backend(%s)", pid))
        time.sleep(stage.dice.uniform(0.0, 0.1))
    ended += len(stage.cluster.query(f"SELECT pg_terminate_backend(pid) FROM ({_SESSIONS}) AS others"))
    return f"{ended} sessions were ended, and messages arrived again {_flows_again(stage)} later"


def _relayed(stage: Stage, *, is_deaf: bool = False) -> tuple[Relay, Process]:
    """A worker more, whose database is behind a relay."""
    relay = Relay(_servers(stage).primary.socket, is_deaf=is_deaf)
    stage.stack.callback(relay.close)
    database = stage.cluster.query("SELECT current_database()")[0][0]
    process = stage.cluster.launch("worker", TOCSIN_DATABASE_URL=relay.url(database))
    _joins(stage, process)
    return relay, process


def network_silent(stage: Stage) -> str:
    """All that goes between one worker and the server is swallowed, and acknowledged."""
    relay, worker = _relayed(stage)
    cut_off = stage.cluster.id_of(worker)
    with stage.mishap():
        relay.stop()
        took = stage.timed(
            "partitions of a worker that is cut off move", DEAD_SECONDS, lambda: not stage.cluster.owned().keys() & {0, cut_off}
        )
        time.sleep(stage.dice.uniform(0.0, 4.0))
        relay.go_on()
        stage.until_well()
    _end(stage, worker)
    stage.until_well()
    relay.close()
    return f"its partitions moved after {shown(took)}, and it joined again"


def notices_lost(stage: Stage) -> str:
    """One worker hears nothing that NOTIFY says: neither what is due nor what has changed."""
    relay, worker = _relayed(stage, is_deaf=True)
    time.sleep(stage.dice.uniform(4.0, 6.0))
    _end(stage, worker)
    stage.until_well()
    relay.close()
    return "it found by itself what was due"


# --------------------------------------------------------------------------------------------------------------- clients


def key_revoked(stage: Stage) -> str:
    name = f"key {len(stage.times)} {stage.dice.random()}"
    key = stage.cluster.add_key(name)
    for one in stage.cluster.apis:
        one.call("GET", "/api/notifications", api_key=key)  # each remembers it
    stage.cluster.revoke_key(name)
    took = stage.timed("a revoked key is refused everywhere", SEEN_SECONDS, lambda: not any(_takes(one, key) for one in stage.cluster.apis))
    return f"every process refused it after {shown(took)}"


def _takes(process: Process, key: str) -> bool:
    try:
        process.call("GET", "/api/notifications", api_key=key)
    except (Down, Refused):
        return False
    return True


def asked_twice(stage: Stage) -> str:
    """Two requests with one idempotency key, at two processes at once."""
    conflicts = 0
    for number in range(TWICE):
        apis = stage.cluster.apis
        asked = time.monotonic()
        content: dict[str, object] = {"message": stage.load.text(), "handlers": [next(iter(stage.handlers))]}
        key = f"twice {asked} {number}"
        found = _ask_both((apis[0], apis[-1]), content, key)
        conflicts += len(found) < 2
        found.append(int(stage.cluster.ask("POST", "/api/notifications", content, key)["data"]["id"]))
        if len(set(found)) != 1:
            stage.complain(f"two requests with one key were answered with {found}")
        stage.load.accepted(sorted(set(found)), asked)
    return f"{TWICE} times, one notification each; the other request got its id or, {conflicts} times, was told to wait"


def _ask_both(processes: tuple[Process, Process], content: Mapping[str, object], key: str) -> list[int]:
    """The ids that they answered with."""
    gate = threading.Barrier(2)

    def ask(process: Process) -> int | None:
        gate.wait()
        try:
            return int(process.call("POST", "/api/notifications", content, key)["data"]["id"])
        except Refused as refused:
            if refused.status != 409:
                raise
            return None

    with ThreadPoolExecutor(2) as pool:
        return [one for one in pool.map(ask, processes) if one is not None]


def credential_changed(stage: Stage) -> str:
    """While a thousand wait."""
    url, name = stage.receiver.url, f"moving {len(stage.times)} {stage.dice.random()}"
    handler = stage.cluster.add("webhook", name, f"{url}/slow0")
    for _ in range(10):
        stage.load.send_batch(handler, BACKLOG // 10)
    stage.cluster.ask("POST", f"/api/notification-handlers/{handler}", {"webhook": f"{url}/hook0"})
    waits = f"SELECT 1 FROM deliveries WHERE handler_id = {handler} AND status = 0 LIMIT 1"
    if stage.cluster.until(lambda: not stage.cluster.query(waits), READY_SECONDS) is None:
        stage.complain("what waited when a credential was changed still waits")
    return f"{BACKLOG} waited, and went to the new address"


def cancelled_and_paused(stage: Stage) -> str:
    """At the moment when a process is about to send."""
    paced = [one for one, name in stage.handlers.items() if name.startswith("slack")]
    cancelled = 0
    for _ in range(10):
        notification = stage.load.send([stage.dice.choice(paced)])
        answer = stage.cluster.ask("DELETE", f"/api/notifications/{notification}")
        stage.ended[notification] = time.time()
        cancelled += answer["data"]["cancelled"]
    handler = stage.cluster.add("webhook", f"paused {len(stage.times)} {stage.dice.random()}", f"{stage.receiver.url}/slow1")
    waiting = [stage.load.send([handler]) for _ in range(20)]
    stage.cluster.ask("POST", f"/api/notification-handlers/{handler}", {"is_enabled": False})
    stage.ended |= dict.fromkeys(waiting, time.time())
    return f"{cancelled} of 10 were cancelled in time, a handler with {len(waiting)} was paused"


FAULTS = (
    Fault("worker killed", "others send what it would have sent; only what was in flight arrives twice", worker_killed),
    Fault("worker joins", "it takes its share, and nothing arrives twice", worker_joins),
    Fault("worker frozen", "others take over, and once it goes on it sends nothing that is theirs", worker_freezes),
    Fault("api killed", "what was answered with 202 arrives", api_killed),
    Fault("api frozen", "what was answered with 202 arrives", api_freezes),
    Fault("killed at a point", "what was answered with 202 arrives; only what was in flight arrives twice", killed_at_a_point),
    Fault("restarted in turn", "nothing is lost and nothing arrives twice", restarted_in_turn),
    Fault("PostgreSQL restarted", "all goes on by itself", server_restarted, "server"),
    Fault("PostgreSQL crashes", "what was answered with 202 arrives", server_crashes, "server"),
    Fault("standby takes over", "what was answered with 202 arrives", standby_takes_over, "server"),
    Fault("sessions ended", "all goes on by itself, and nothing arrives twice", sessions_ended),
    Fault("network silent", "others take over from a worker that no longer reaches the database", network_silent, "server"),
    Fault("notices lost", "a worker that hears nothing finds what is due", notices_lost, "server"),
    Fault("key revoked", "every process refuses it within 2 s", key_revoked),
    Fault("asked twice", "one idempotency key at two processes at once is one notification", asked_twice),
    Fault("credential changed", "what waits goes to the new address, in order", credential_changed),
    Fault("cancelled and paused", "what was called off everywhere does not go out", cancelled_and_paused),
)
BY_NAME = {fault.name: fault for fault in FAULTS}
