"""The service under test: a child process on a throw-away store, killed and started again on the same data."""

import os
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tocsin.cli.demo.receivers import free_port
from tocsin.cli.failure import Failure
from tocsin.vault import random_base62

_START_SECONDS = 20.0
_STOP_SECONDS = 20.0
_CALL_SECONDS = 20.0


@contextmanager
def _uninterrupted() -> Generator[None, None, None]:
    """Delays an interrupt until the end: a child that its parent does not know yet would be left behind."""
    came: list[int] = []
    previous = {number: signal.signal(number, lambda number, _: came.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if came:
            raise KeyboardInterrupt


class Down(Exception):
    """The service is not there, or died before it had answered."""


class Refused(Failure):
    """The service answered with an error that asking again would not change."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Service:
    def __init__(self, folder: Path, **environ: str) -> None:
        self._folder = folder
        self._log = folder / "service.log"
        self._port = free_port()
        self._key = "tk_" + random_base62(43)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
        self._environ = inherited | {
            "TOCSIN_HOST": "127.0.0.1",
            "TOCSIN_PORT": str(self._port),
            "TOCSIN_DATA_DIR": str(folder / "data"),
            "TOCSIN_BOOTSTRAP_API_KEY": self._key,
            "TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8",
            "TOCSIN_LOG_LEVEL": "warning",
            **environ,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def start(self, crash_at: str | None = None) -> None:
        """Run it until it is ready; with `crash_at` it dies at that point (see `points`)."""
        self.launch(crash_at)
        self.wait_until_ready()

    def launch(self, crash_at: str | None = None) -> None:
        """Run it without waiting for it to be ready."""
        module = ["tocsin"] if crash_at is None else ["tocsin.cli.selftest.points", crash_at]
        # In its own folder, so that no .env is read; in its own session, so that Ctrl-C reaches the selftest alone.
        with _uninterrupted(), self._log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  # ourselves
                [sys.executable, "-m", *module, "serve"],
                cwd=self._folder,
                env=self._environ,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_ready(self, seconds: float = _START_SECONDS) -> None:
        """Raises Failure with the end of its log if it has ended, or is not ready in time."""
        ends_at, said = time.monotonic() + seconds, ""
        while time.monotonic() < ends_at:
            try:
                self.call("GET", "/readyz")
            except Down as down:
                said = str(down)
                if self._process is None or self._process.poll() is not None:
                    break
                time.sleep(0.03)
            else:
                return
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        raise Failure("\n".join([f"The service is not ready. {said}".rstrip(), *lines]))

    @property
    def port(self) -> int:
        return self._port

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self._folder / "data"

    @property
    def pid(self) -> int | None:
        """None while it is down."""
        return None if self._process is None else self._process.pid

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def died(self, seconds: float = _STOP_SECONDS) -> bool:
        """Whether it has killed itself within that time."""
        if self._process is None:
            return False
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._process = None
        return code == -signal.SIGKILL

    def ended(self) -> int | None:
        """Its exit code if it has ended by itself."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            self._process = None
        return code

    def terminate(self) -> None:
        """Sends SIGTERM."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    @contextmanager
    def frozen(self) -> Generator[None, None, None]:
        """SIGSTOP, and SIGCONT at the end."""
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            if process is not None:
                process.send_signal(signal.SIGCONT)

    def limit_files(self, max_bytes: int = resource.RLIM_INFINITY) -> None:
        """No file of the running service may grow beyond this, as if the disk were full."""
        if self._process is not None:
            _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (max_bytes, hard))

    def stop(self) -> bool:
        """Sends SIGTERM; returns whether it ended in order."""
        if self._process is None:
            return False
        self.terminate()
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        self._process = None
        return code == 0

    def call(
        self,
        method: str,
        path: str,
        content: Mapping[str, object] | None = None,
        key: str | None = None,
        api_key: str | None = None,
        seconds: float = _CALL_SECONDS,
    ) -> Any:
        """The decoded answer. `key`: an Idempotency-Key. Raises Down, and Refused for an answer that is an error."""
        body = None if content is None else msgspec.json.encode(content)
        headers = {"Authorization": f"Bearer {api_key or self._key}", "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", body, headers, method=method)  # ours
        try:
            with self._opener.open(request, timeout=seconds) as answer:
                return msgspec.json.decode(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise Down(error.read()[:500].decode(errors="replace")) from error
            raise Refused(error.code, f"{method} {path}: {error.code} {error.read()[:200].decode(errors='replace')}") from error
        except (OSError, ValueError) as error:  # a broken connection, or half an answer
            raise Down(repr(error)) from error
        except Exception as error:  # http.client's own
            if type(error).__module__ == "http.client":
                raise Down(repr(error)) from error
            raise
