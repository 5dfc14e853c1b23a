"""A service of its own, and schemathesis over all of its API for some time: `python -m api.fuzzed SECONDS`. Exits with its code.

Its command line is run as users of it do; the configuration beside this file says what is left out, and why.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from api.support import hook, serving

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
SETTINGS = {"TOCSIN_ALLOW_NETWORKS": "", "TOCSIN_LOG_LEVEL": "error"}  # nothing of what is made up is reached


def fuzz(seconds: int) -> int:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), **SETTINGS) as server:
        client = server.client()
        hook(client, "https://hooks.example/a")
        client.post("/api/notifications", {"message": "hello"})
        program = Path(sys.executable).with_name("schemathesis")
        words = [program, "--config-file", CONFIGURATION, "run", f"{server.base}/api/openapi.json", "--max-time", str(seconds)]
        environ = {**os.environ, "BASE_URL": server.base, "API_KEY": str(client.key)}
        return subprocess.run([*map(str, words)], env=environ, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(fuzz(int(sys.argv[1])))
