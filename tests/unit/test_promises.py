"""Each promise names a test, and the test is there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"


def test_every_test_that_is_named_exists(collected: list[str]) -> None:
    named = set(re.findall(r"`(tests/\S+?::\S+?)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 20
    files = {one.partition("::")[0] for one in named}
    found = collected
    if not files <= {one.partition("::")[0] for one in found}:  # only some of the tests are being run
        command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "", "-p", "no:cacheprovider", *sorted(files)]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout.splitlines()
    assert named <= {name for one in found for name in (one, one.partition("[")[0])}
