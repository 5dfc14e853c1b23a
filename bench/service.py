"""The service under load: `tocsin serve` as a child process on its own core, with 200 webhook handlers."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tocsin.settings import OPTIONS

NO_QUOTAS = {option.variable: "0" for option in OPTIONS if option.name.startswith("quota_")}
"""For services that users who are no administrators put under load."""
API_KEY = "tk_bench00000000000000000000000000000000000000"
_START_SECONDS = 30.0
_STOP_SECONDS = 40.0


class Service:
    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.pid = process.pid
        self.port = port
        self._process = process
        self._log = log

    def call(self, method: str, path: str, body: object = None, key: str = API_KEY) -> Any:
        """The decoded answer. Raises RuntimeError on anything but 2xx."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
        return json.loads(content) if answer.headers.get_content_type() == "application/json" else content.decode()

    def wait_until_ready(self, seconds: float = _START_SECONDS) -> None:
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            self.check_alive()
            try:
                self.call("GET", "/readyz")
            except (OSError, RuntimeError):
                time.sleep(0.05)
            else:
                return
        raise RuntimeError("the service was not ready in time")

    def check_alive(self) -> None:
        """Raises RuntimeError with the end of its log if the service has stopped."""
        if self._process.poll() is not None:
            self._fail()

    def explain(self, error: Exception) -> NoReturn:
        """After a lost connection: raises RuntimeError, with the end of the log if the service is going down."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
            self._fail()
        raise RuntimeError(" ".join([f"the service runs, but {error}.", *getattr(error, "__notes__", ())])) from error

    def _fail(self) -> NoReturn:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
        raise RuntimeError("\n".join([f"the service stopped with exit code {self._process.returncode}", *lines]))

    def register(self, ports: list[int], key: str = API_KEY) -> list[int]:
        """The ids of new webhook handlers, one for each of the receiver's ports."""
        return [
            self.call(
                "POST",
                "/api/notification-handlers",
                {"type": "webhook", "name": f"bench {port}", "webhook": f"http://127.0.0.1:{port}/hook"},
                key,
            )["data"]["id"]
            for port in ports
        ]

    def metric(self, line: str) -> float:
        """The value on the line of /metrics that begins so; 0 if there is none."""
        found = re.search(rf"^{re.escape(line)} ([-+.e\d]+)$", self.call("GET", "/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_until_settled(self, seconds: float) -> bool:
        """Whether nothing was pending any more within that time."""
        ends_at = time.monotonic() + seconds
        while self.metric("tocsin_deliveries_pending") > 0:
            self.check_alive()
            if time.monotonic() > ends_at:
                return False
            time.sleep(0.1)
        return True

    def delivered(self) -> int:
        """Deliveries that the store holds as delivered."""
        return self.call("GET", "/api/deliveries?status=delivered&results_per_page=10")["meta"]["total"]


@contextmanager
def running(
    folder: Path,
    core: set[int],
    profile: Path | None = None,
    environ: Mapping[str, str] | None = None,
    descriptors: int = 0,
    python: Sequence[str] = (sys.executable,),
    module: str = "tocsin",
    ready_seconds: float = _START_SECONDS,
) -> Generator[Service, None, None]:
    """Start it with its data and its log in `folder`; stop it with SIGTERM at the end.

    `profile`: where profiles are written. `descriptors`: how many it may have at most, 0 for as many as we may. `python`: what runs it;
    `module`: the service, or what starts it in another way.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
    settings = inherited | {
        "TOCSIN_PORT": str(port),
        "TOCSIN_DATA_DIR": str(folder / "data"),
        "TOCSIN_BOOTSTRAP_API_KEY": API_KEY,
        "TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        **NO_QUOTAS,
        **(environ or {}),
    }
    log = folder / "service.log"
    words = ["bench.profiled", str(profile)] if profile else [module]
    limit = ["prlimit", f"--nofile={descriptors}"] if descriptors else []
    command = [*limit, "taskset", "-c", ",".join(map(str, core)), *python, "-m", *words, "serve"]
    # In its own folder, so that no .env is read; in its own session, so that Ctrl-C reaches the bench alone, which stops it in order.
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=settings, stdout=output, stderr=output, start_new_session=True)
    try:
        service = Service(process, port, log)
        service.wait_until_ready(ready_seconds)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
