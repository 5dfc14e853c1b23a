"""The administrators' page of the processes that share a store."""

import re

from e2e.conftest import Starter, pytest_generate_tests  # noqa: F401  # a hook: which store a test gets
from e2e.service import Service
from e2e.stores import postgresql_only
from web.conftest import EMAIL, PASSWORD, SIGN_IN, Surfer


def signed_in(service: Service) -> Surfer:
    surfer = Surfer(f"http://127.0.0.1:{service.port}")
    assert surfer.sign_in(EMAIL, PASSWORD).path == "/"
    return surfer


def test_where_one_process_serves_a_file_the_page_says_so_and_nothing_leads_there(served: Service) -> None:
    surfer = signed_in(served)
    assert 'href="/workers"' not in surfer.get("/users").text
    said = surfer.get("/workers").text
    assert "One process serves this store" in said and "<table" not in said


@postgresql_only
def test_workers_are_listed_and_who_is_silent_is_named(start_service: Starter) -> None:
    service = start_service(**SIGN_IN)
    surfer = signed_in(service)
    assert 'href="/workers"' in surfer.get("/users").text
    service.change(
        "INSERT INTO workers (name, roles, address, egress, version, beat, beat_at, seen, is_leaving, started_at, load)"
        " SELECT 'asleep-<7>', 'worker', '', '', version, 0, 0, 10 ^ 15, FALSE, 0, '{\"in_flight\": 1234}' FROM workers"
    )
    page = surfer.get("/workers").text
    rows = [re.sub(r"<[^>]+>|\s+", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)[1:]]
    assert len(rows) == 2
    alive, silent = (" ".join(row) for row in rows)
    assert "takes requests and sends Alive less than 1 s ago" in alive and "1024" in alive
    assert silent.startswith("asleep-&lt;7&gt; sends Silent") and "1,234" in silent
    fragment = surfer.get("/workers", HX_Request="true")
    assert fragment.text.lstrip().startswith("<") and "<html" not in fragment.text and "Alive" in fragment.text
    assert surfer.get("/workers?lang=ko").text.count("응답 없음") == 1
