"""`tocsin selftest` as its user runs it, and that it would say so if a promise were broken."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import postgresql
from tocsin.cli.failure import Failure
from tocsin.cli.selftest import command, mishaps
from tocsin.cli.selftest.many import postgresql as servers
from tocsin.cli.selftest.many.postgresql import execute
from tocsin.cli.selftest.receiver import Receiver
from tocsin.cli.selftest.scenes import Books, Finding, Place, Scene, reconcile, sessions_ended
from tocsin.cli.selftest.schemas import schemas_on

TOCSIN = Path(sys.executable).parent / "tocsin"


def test_every_promise_is_kept_and_nothing_is_left(tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path), "TOCSIN_DATA_DIR": "/nowhere"}
    done = subprocess.run([TOCSIN, "selftest", "--quick", "--json"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=110)
    report = json.loads(done.stdout)
    assert {"killed under load", "slow endpoints", "429 storm", "restart"} < {one["scene"] for one in report["findings"]}
    broken = [one for one in report["findings"] if not one["kept"]]
    assert [one for one in broken if one["scene"] != "slow endpoints"] == [], done.stdout  # that one is a matter of milliseconds
    assert (done.returncode, report["broken"]) == (1 if broken else 0, len(broken)), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scene", [scene for _, scene in mishaps.SCENES], ids=[title for title, _ in mishaps.SCENES])
def test_what_is_left_out_where_it_must_be_quick_is_kept_too(tmp_path: Path, scene: Scene) -> None:
    receiver = Receiver()
    with receiver.running():
        [finding] = scene(Place(tmp_path), receiver, False)
    assert finding.kept, finding


@pytest.fixture
def url(postgresql_server: None) -> Iterator[str]:
    with postgresql.database(postgresql.shared_url(postgresql.shared_folder())) as made:
        yield made


SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%selftest%'"


def test_sessions_that_end_are_survived_and_no_schema_is_left(url: str, tmp_path: Path) -> None:
    receiver = Receiver()
    with receiver.running(), schemas_on(url) as schemas:
        [finding] = sessions_ended(Place(tmp_path, schemas), receiver, True)
        assert len(execute(url, SCHEMAS)) == 1
    assert finding.kept, finding
    assert execute(url, SCHEMAS) == [] == execute(url, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_promise_is_kept_on_postgresql_and_what_needs_a_file_says_so(url: str, tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path), "TOCSIN_DATABASE_URL": url}
    command = [TOCSIN, "selftest", "--json", "--postgresql"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=290)
    findings = {one["scene"]: one for one in json.loads(done.stdout)["findings"]}
    assert {"killed under load", "restart", "sessions ended", "wait over a kill"} < findings.keys()
    untested = {scene: one["seen"] for scene, one in findings.items() if one["kept"] is None}
    assert untested.keys() == mishaps.NEED_A_FILE.keys() and all("not tested on PostgreSQL" in why for why in untested.values())
    broken = [one for one in findings.values() if one["kept"] is False and one["scene"] != "slow endpoints"]
    assert broken == [], done.stdout
    assert execute(url, SCHEMAS) == [] and list(tmp_path.iterdir()) == []


def test_postgresql_without_a_url_is_one_sentence(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
    done = subprocess.run([TOCSIN, "selftest", "--postgresql"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "") and "needs TOCSIN_DATABASE_URL" in done.stderr


DATABASES = "SELECT datname FROM pg_database WHERE datname LIKE 'tocsin_selftest%'"


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_given", [False, True], ids=["a server of its own", "a server that is given"])
def test_several_processes_keep_every_promise_and_nothing_is_left(url: str, tmp_path: Path, is_given: bool) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")} | {"TMPDIR": str(tmp_path)}
    if is_given:
        environ["TOCSIN_DATABASE_URL"] = url
    command = [TOCSIN, "selftest", "--many", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=290)
    findings = json.loads(done.stdout)["findings"]
    assert {"worker killed", "standby takes over", "restarted in turn", "all of it"} < {one["scene"] for one in findings}
    untested = {one["scene"] for one in findings if one["kept"] is None}
    assert untested == ({"PostgreSQL crashes", "standby takes over"} if is_given else set())
    broken = [one for one in findings if one["kept"] is False]
    assert [one for one in broken if one["scene"] != "how quickly"] == [], done.stdout  # that is a matter of seconds
    assert done.returncode == bool(broken), done.stderr
    assert execute(url, DATABASES) == [] and list(tmp_path.iterdir()) == []


def test_without_a_server_to_start_it_says_where_one_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Failure, match=r"tocsin\[selftest\]"):
        servers._wheel()


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([TOCSIN, "selftest", "--quick"], cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("tocsin-selftest-*/*/service.log")):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "nothing is left behind" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


DELIVERED = {1: "delivered", 2: "delivered", 3: "failed"}


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        ({1: 1, 2: 1}, Books(3, 2, 0, missing=0, repeated=0, unexplained=0)),
        ({1: 1}, Books(3, 2, 0, missing=1, repeated=0, unexplained=0)),
        ({1: 1, 2: 2}, Books(3, 2, 0, missing=0, repeated=1, unexplained=1)),
        ({1: 2, 2: 1}, Books(3, 2, 0, missing=0, repeated=1, unexplained=0)),
        ({1: 1, 2: 1, 9: 1}, Books(3, 2, 0, missing=0, repeated=0, unexplained=1)),
    ],
    ids=["as it should be", "lost", "twice for no reason", "twice, as it may be", "never accepted"],
)
def test_the_books_show_what_is_wrong(taken: dict[int, int], found: Books) -> None:
    assert reconcile(DELIVERED, Counter(taken), lambda delivery: delivery == 1) == found


def test_a_broken_promise_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def forgets(*_: object) -> list[Finding]:
        return [Finding("forgetting", "it remembers", "1 missing", kept=False)]

    monkeypatch.setattr(command, "SCENES", (("forgetting", forgets),))
    assert command.run_selftest(quick=True, json=False) == 1
    out, _ = capfd.readouterr()
    assert "BROKEN" in out and "1 of 1 promises were broken" in out
