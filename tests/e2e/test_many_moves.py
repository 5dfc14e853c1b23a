"""A handler's credential is changed while deliveries wait, so they follow it to another partition; processes are killed meanwhile."""

from pathlib import Path

import pytest

from receiver import Receiver
from support import postgresql
from tocsin.cli.selftest.many.cluster import Cluster, Process
from tocsin.cli.selftest.service import Down

OLD, NEW = "/api/webhooks/1/old", "/api/webhooks/1/new"
COUNT = 5
LONG = 45  # a lane that waits for a pause looks every half a minute whether its handler was edited, if nothing makes it look sooner


def died(processes: list[Process]) -> int:
    return sum(one.pid is None or one.ended() is not None for one in processes)


def statuses(cluster: Cluster) -> list[int]:
    return [status for (status,) in cluster.query("SELECT status FROM deliveries ORDER BY id")]


@pytest.mark.parametrize(
    ("point", "deaths"),
    [
        ("before-following", 2),
        pytest.param("after-following", 1, marks=pytest.mark.long),
        pytest.param("after-change-commit", 0, marks=pytest.mark.long),
    ],
)
def test_killed_while_what_waits_follows_its_handler(
    postgresql_server: None, tmp_path: Path, receiver: Receiver, point: str, deaths: int
) -> None:
    """Workers die as often as they come to the point: the one that takes over goes on."""
    receiver.answer(OLD, 429, headers={"Retry-After": "600"})
    with (
        postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as url,
        Cluster(tmp_path, url).running() as cluster,
    ):
        at = {"api": None, "worker": None} | {"worker" if deaths else "api": f"{point}:1"}
        api, *workers = (cluster.launch(role, crash_at=at[role]) for role in ("api", "worker", "worker"))
        for one in (api, *workers):
            one.wait_until_ready()
        handler = cluster.add("discord", "moves", receiver.url(OLD))
        for number in range(COUNT + 1):
            cluster.ask("POST", "/api/notifications", {"message": f"message {number}", "handlers": [handler]})
            assert cluster.until(lambda: cluster.query("SELECT number FROM attempts") == [(1,)], 15) is not None
        [(before,)] = cluster.query("SELECT partition FROM handlers")
        try:
            api.call("POST", f"/api/notification-handlers/{handler}", {"discord": receiver.url(NEW)})
        except Down:
            assert deaths == 0 and api.died()
        assert cluster.until(lambda: died(workers) == deaths, LONG) is not None, died(workers)
        if deaths:
            cluster.launch("worker").wait_until_ready()
        assert cluster.until(lambda: statuses(cluster) == [0, *[1] * COUNT], LONG) is not None, statuses(cluster)
        assert [one.path for one in receiver.requests] == [OLD, *[NEW] * COUNT]
        [(after,)] = cluster.query("SELECT partition FROM handlers")
        assert before != after
        assert cluster.query("SELECT DISTINCT partition FROM deliveries") == [(after,)]
