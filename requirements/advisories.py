"""Asks an advisory service about every pinned package (pip-audit), and never passes for want of an answer.

Exit codes: 0 nothing is known of any of them, 1 something is, 2 they were not checked.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import vendored

LOCKS = ("uv.txt", "runtime.txt", "postgresql.txt", "dev.txt", "audit.txt")
# The hashes make it resolve nothing; without --strict it would skip what the service does not answer for, and pass.
_OPTIONS = ("--require-hashes", "--disable-pip", "--strict", "--format", "json", "--progress-spinner", "off")
_NOT_CHECKED = 2


def main(command: str) -> int:
    folder = Path(__file__).parent
    files = [word for name in LOCKS for word in ("--requirement", str(folder / name))]
    done = subprocess.run([command, *files, *_OPTIONS], capture_output=True, text=True, check=False)  # noqa: S603 - the Makefile's
    packages = _packages(done.stdout)
    if packages is None:
        why = next(iter(done.stderr.strip().splitlines()[-1:]), "no answer")
        print(f"Advisories were NOT checked, since no advisory service can be reached from here: {why}", file=sys.stderr)
        return _NOT_CHECKED
    for one in packages:
        for known in one["vulns"]:
            print(f"{one['name']} {one['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'no version yet'}")
    others = ", ".join(f"{one['name']} {one['version']}" for one in vendored.vendored())
    print(f"{len(packages)} packages were checked. Look these up yourself: {others}")
    return int(any(one["vulns"] for one in packages))


def _packages(answer: str) -> list[dict[str, Any]] | None:
    """None: not all of them were checked."""
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    return packages if packages and all("vulns" in one for one in packages) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
