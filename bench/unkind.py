"""A user of the same service who is no good neighbour: many handlers that never answer, and something for them now and then."""

import contextlib
import http.client
import json
import os
import threading
from pathlib import Path

from tocsin.admin import open_admin
from tocsin.settings import load

HANDLERS = 100
BACKLOG = 5  # deliveries of each at the beginning
EVERY_SECONDS = 20.0
_TIMEOUT_SECONDS = 10.0


class Unkind:
    """`url`: of a receiver that never answers. Their deliveries are in nobody's books: none ever arrives."""

    def __init__(self, data: Path, port: int, url: str) -> None:
        self._port = port
        self._ends = threading.Event()
        environ = {**os.environ, "TOCSIN_DATA_DIR": str(data)}
        with open_admin(load(environ, data / "none.env")) as admin:
            admin.add_user("unkind@example.com", is_admin=False)
            self._key = admin.add_key("unkind@example.com", "soak", ())
        for number in range(HANDLERS):
            self._post("/api/notification-handlers", {"type": "webhook", "name": f"dead {number}", "webhook": f"{url}/dead/{number}"})
        for number in range(BACKLOG):
            self._post("/api/notifications", {"message": f"unkind backlog {number}"})

    def run(self) -> None:
        """Until `end`. While the service is down nothing is sent: whether it arrives is nobody's concern."""
        while not self._ends.wait(EVERY_SECONDS):
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._post("/api/notifications", {"message": "unkind again"})

    def end(self) -> None:
        self._ends.set()

    def _post(self, path: str, content: dict[str, object]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_SECONDS)
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(content), headers)
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        if answer.status >= 500 and answer.status != 503:
            raise RuntimeError(f"{path} says {answer.status}")
