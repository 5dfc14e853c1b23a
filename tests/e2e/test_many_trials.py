"""Test sends at a process that does not send: a worker sends them, in turn with the deliveries of their credential."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import postgresql
from tocsin.cli.selftest.many.cluster import Cluster
from tocsin.cli.selftest.receiver import Answer, Receiver

SECRET = "a-header-that-nobody-else-may-see"
NOWHERE = "203.0.113.0/24"


def test_a_test_at_an_api_process_goes_out_from_a_worker_and_leaves_nothing(postgresql_server: None, tmp_path: Path) -> None:
    receiver = Receiver()
    with (
        postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as url,
        receiver.running(),
        Cluster(tmp_path, url, TOCSIN_ALLOW_PORTS="1-65535").running("worker") as cluster,
        ThreadPoolExecutor(1) as others,
    ):
        cluster.launch("api", TOCSIN_ALLOW_NETWORKS=NOWHERE).wait_until_ready()
        handler = cluster.add("webhook", "saved", f"{receiver.url}/saved")
        trial = cluster.ask("POST", f"/api/notification-handlers/{handler}/test", {})["data"]
        assert trial["status"] == "delivered" and "/saved" not in trial["request"], trial
        receiver.behave("/draft", lambda _: Answer(delay_seconds=1.0))
        settings = {"webhook": f"{receiver.url}/draft", "webhook_headers": f"X-Token: {SECRET}"}
        asked = others.submit(cluster.ask, "POST", "/api/notification-handlers/test", {"type": "webhook", "name": "draft", **settings})
        assert cluster.until(lambda: bool(cluster.query("SELECT id FROM asks")), 10) is not None
        assert not [row for row in cluster.query("SELECT question, answer FROM asks") if SECRET in str(row)]
        assert cluster.until(lambda: cluster.query("SELECT question FROM asks") == [(b"",)], 10) is not None, "a worker has read it"
        trial = asked.result()["data"]
        assert trial["status"] == "delivered" and SECRET not in str(trial)
        assert cluster.query("SELECT id FROM asks") == []
        assert [one.path for one in receiver.arrivals] == ["/saved", "/draft"]
        assert not [log for log in tmp_path.glob("*/service.log") if SECRET in log.read_text()]
