"""Several processes on one PostgreSQL database, killed, stopped and joined while clients go on sending."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support import postgresql
from tocsin.cli.selftest.many.books import Evidence, audit
from tocsin.cli.selftest.many.cluster import Cluster
from tocsin.cli.selftest.many.load import Load
from tocsin.cli.selftest.receiver import Receiver

PARTITIONS = 1024
SENDS_BETWEEN = 120


def dies(cluster: Cluster) -> None:
    cluster.workers[0].kill()


def stops(cluster: Cluster) -> None:
    assert cluster.workers[0].stop()


def joins(cluster: Cluster) -> None:
    cluster.join("worker")


def api_dies(cluster: Cluster) -> None:
    cluster.apis[0].kill()
    cluster.join("api")


@pytest.mark.parametrize(("events", "repeats"), [((joins, stops), False), ((dies, joins, api_dies), True)], ids=["in order", "killed"])
def test_nothing_is_lost_or_out_of_order_whatever_process_comes_and_goes(
    postgresql_server: None, tmp_path: Path, events: tuple[Callable[[Cluster], None], ...], repeats: bool
) -> None:
    receiver = Receiver()
    with (
        postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as url,
        receiver.running(),
        Cluster(tmp_path, url, TOCSIN_ALLOW_PORTS="1-65535").running("api", "worker", "worker") as cluster,
    ):
        handlers = {cluster.add("webhook", f"hook{n}", f"{receiver.url}/hook{n}"): f"hook{n}" for n in range(8)}
        with Load(cluster, handlers, a_second=100) as load:
            for number, event in enumerate(events, 1):
                load.wait_for(number * SENDS_BETWEEN)
                event(cluster)
                workers = len(cluster.workers)
                assert cluster.until(lambda workers=workers: is_shared_out(cluster, workers), 30) is not None, cluster.owned()
            load.wait_for((len(events) + 1) * SENDS_BETWEEN)
        assert cluster.until(lambda: not cluster.waiting(), 30) is not None
        books = audit(Evidence(load.sent, cluster.rows(), receiver.taken(), cluster.totals(), cluster.counted(), killed=repeats))
    assert books.complaints == []
    assert books.accepted >= (len(events) + 1) * SENDS_BETWEEN


def is_shared_out(cluster: Cluster, workers: int) -> bool:
    """Whether so many workers own everything, each its share."""
    owned = cluster.owned()
    return 0 not in owned and len(owned) == workers and sum(owned.values()) == PARTITIONS and max(owned.values()) - min(owned.values()) <= 1
