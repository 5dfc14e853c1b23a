"""What processes count for themselves has the bound that one process would have: each lets its share through."""

from pathlib import Path

from support import postgresql
from tocsin.cli.selftest.many.cluster import Cluster, Process
from tocsin.cli.selftest.service import Refused

LIMIT = 400  # what is refused counts, too: enough for asking until it is known who has left


def taken(api: Process, most: int) -> int:
    """How many requests it lets through, up to so many."""
    for count in range(most):
        try:
            api.call("GET", "/api/notifications")
        except Refused as refused:
            assert refused.status == 429, refused
            return count
    return most


def test_a_limit_of_requests_is_that_of_all_processes_together(postgresql_server: None, tmp_path: Path) -> None:
    with (
        postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as url,
        Cluster(tmp_path, url, TOCSIN_RATE_LIMIT=str(LIMIT)).running("api", "api", "worker") as cluster,
    ):
        first, second = cluster.apis
        assert [taken(one, LIMIT) for one in (first, second)] == [LIMIT // 2] * 2
        assert second.stop()
        assert cluster.until(lambda: taken(first, 1) == 1, 15) is not None, "what the one that left had is the others'"
        cluster.join("api")
        assert cluster.until(lambda: taken(first, 1) == 0, 15) is not None, "and is shared with one that joins"
