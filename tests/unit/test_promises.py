"""Each promise names a test, and the test is there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"


# Their subject is not the store: receivers, networks, connections, logs, the selftest; or PostgreSQL alone has it: several processes.
ELSEWHERE = {"hostile", "logs", "many", "many_joining", "many_moves", "many_trials", "many_waits", "neighbours", "network", "selftest"}


def found_in(files: set[str], collected: list[str]) -> list[str]:
    """The tests in these files."""
    if files <= {one.partition("::")[0] for one in collected}:
        return collected
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "", "-p", "no:cacheprovider", *sorted(files)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout.splitlines()


def named_in(text: str) -> set[str]:
    return set(re.findall(r"`(tests/\S+?::\S+?)`", text))


def test_every_test_that_is_named_exists(collected: list[str]) -> None:
    named = {name for page in (PAGE, PAGE.with_name("security.md")) for name in named_in(page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    found = found_in({one.partition("::")[0] for one in named}, collected)
    assert named <= {name for one in found for name in (one, one.partition("[")[0])}


def test_what_concerns_the_store_runs_on_both_stores_or_is_named_as_what_does_not(collected: list[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    said = page.partition("\n## On PostgreSQL\n")[2].partition("\n## ")[0]
    only_files = {one for one in named_in(said.partition("\n| ")[0]) if "postgresql" not in one}
    named = {
        one.partition("[")[0]
        for one in named_in(page)
        if one.startswith(("tests/e2e/", "tests/store/")) and not any(f"/test_{word}.py" in one for word in ELSEWHERE)
    }
    found = found_in({one.partition("::")[0] for one in named}, collected)
    on_postgresql = {one.partition("[")[0] for one in found if "postgresql" in one}
    assert named - on_postgresql == only_files
