"""Adds to a bill of materials (CycloneDX, JSON) what no lock file names: code that is vendored here, or that a wheel brings along."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pycurl

HTMX = Path(__file__).parent.parent / "src/tocsin/web/static/htmx.min.js"


def vendored() -> list[dict[str, Any]]:
    """htmx, and the libraries in pycurl's wheel, of which libcurl and OpenSSL speak to strangers."""
    htmx = re.search(r'version:"([0-9.]+)"', HTMX.read_text(encoding="utf-8"))
    if htmx is None:
        raise SystemExit(f"{HTMX} does not say its version.")
    found = [("htmx.org", htmx[1], f"pkg:npm/htmx.org@{htmx[1]}")]
    for word in pycurl.version.split()[1:]:
        name, _, version = word.partition("/")
        found.append((name, version, f"pkg:generic/{name}@{version}"))
    return [{"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl} for name, version, purl in found]


def main(file: Path) -> None:
    bill = json.loads(file.read_text(encoding="utf-8"))
    bill["components"] = [*bill.get("components", []), *vendored()]
    file.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
    print(f"{file}: {len(bill['components'])} components")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
