"""What `make sbom` and `make audit` say of the parts that the service is made of."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLEAN = {"dependencies": [{"name": "idna", "version": "3.20", "vulns": []}]}
KNOWN = {"dependencies": [{"name": "idna", "version": "3.6", "vulns": [{"id": "PYSEC-2024-60", "fix_versions": ["3.7"]}]}]}
SKIPPED = {"dependencies": [{"name": "idna", "skip_reason": "Dependency not found on PyPI"}]}


def audit(tmp_path: Path, answer: str, error: str = "") -> "subprocess.CompletedProcess[str]":
    """`make audit`, where pip-audit prints these."""
    stub = tmp_path / "pip-audit"
    stub.write_text(f"#!{sys.executable}\nimport sys\nprint({answer!r})\nprint({error!r}, file=sys.stderr)\nsys.exit(1)\n")
    stub.chmod(0o755)
    return subprocess.run(
        [sys.executable, str(ROOT / "requirements" / "advisories.py"), str(stub)], capture_output=True, text=True, check=False, timeout=60
    )


def test_an_audit_without_advisories_passes_and_names_what_it_could_not_ask_about(tmp_path: Path) -> None:
    done = audit(tmp_path, json.dumps(CLEAN))
    assert done.returncode == 0 and "1 packages were checked" in done.stdout and "htmx.org 2." in done.stdout and "libcurl" in done.stdout


def test_an_audit_that_finds_something_fails(tmp_path: Path) -> None:
    done = audit(tmp_path, json.dumps(KNOWN))
    assert done.returncode == 1 and "idna 3.6: PYSEC-2024-60, fixed in 3.7" in done.stdout


@pytest.mark.parametrize("answer", ["", "no JSON", json.dumps({"dependencies": []}), json.dumps(SKIPPED), "[]"])
def test_an_audit_that_asked_nobody_never_passes(tmp_path: Path, answer: str) -> None:
    done = audit(tmp_path, answer, "ConnectionError: no route to host")
    assert done.returncode == 2 and done.stdout == ""
    assert "Advisories were NOT checked" in done.stderr and "no route to host" in done.stderr


def test_the_bill_names_what_no_lock_file_names(tmp_path: Path) -> None:
    bill = tmp_path / "sbom.json"
    bill.write_text(json.dumps({"bomFormat": "CycloneDX", "components": [{"name": "idna"}]}))
    subprocess.run([sys.executable, str(ROOT / "requirements" / "vendored.py"), str(bill)], check=True, capture_output=True, timeout=60)
    found = {one["name"]: one for one in json.loads(bill.read_text())["components"]}
    assert {"idna", "htmx.org", "libcurl", "OpenSSL"} <= set(found)
    assert all(re.match(r"pkg:(npm|generic)/.+@\d", one["purl"]) for one in found.values() if one["name"] != "idna")


def test_every_lock_is_hashed_names_no_index_and_is_audited() -> None:
    locks = {one.name: one.read_text(encoding="utf-8") for one in (ROOT / "requirements").glob("*.txt")}
    for name, text in locks.items():
        pins = re.findall(r"(?m)^[a-zA-Z0-9._-]+(?:\[.*\])?==\S+ .*\\$", text)
        assert pins and len(pins) <= text.count("--hash=sha256:"), name
        assert "://" not in re.sub(r"(?m)^ *#.*$", "", text), name
    audited = (ROOT / "requirements" / "advisories.py").read_text(encoding="utf-8")
    assert [name for name in locks if f'"{name}"' not in audited] == []
