"""Each promise names a test, and the test is there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(tests/\S+?::\S+?)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 20
    files = sorted({one.partition("::")[0] for one in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout
    assert named <= {one for line in listed.splitlines() for one in (line, line.partition("[")[0])}, listed
