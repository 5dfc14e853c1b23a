"""Another user beside trouble: opens a page, signs in, sends a short and a long message; how long the slowest of each took."""

import http.client
import re
import threading
import time
from collections.abc import Callable
from urllib.parse import urlencode

from bench.distant import Distant
from bench.filling import EMAILS, OTHER, PASSWORD
from bench.scenes.stage import Goal, Watch, send
from bench.service import Service

MAX_SECONDS = 20.0  # for one of them; longer counts as for ever
LONG = "A paragraph of a report that somebody wrote for somebody who has the time to read it.\n\n" * 75  # 6 KB
_TOKEN = re.compile(r'name="csrf" value="([0-9a-f]+)"')


class Visitor:
    """Signed in to the pages from the start. `handler`: a healthy one of theirs."""

    def __init__(self, running: Service, distant: Distant, handler: int) -> None:
        self._service = running
        self._distant = distant
        self._handler = handler
        self._cookies = self._signed_in()
        self._slowest: dict[str, float] = {}

    def look(self, rounds: int, pause_seconds: float = 0.5) -> None:
        """Everything, so many times; what is done in one round is done at once, from connections of their own.

        It ends with the first that came to nothing: the next ones would only take as long again.
        """
        for _ in range(rounds):
            if float("inf") in self._slowest.values():
                return
            doings: dict[str, Callable[[], object]] = {"page": self._page, "sign-in": self._signed_in}
            threads = [threading.Thread(target=self._timed, args=(what, do), daemon=True) for what, do in doings.items()]
            threads.append(threading.Thread(target=self._messages, daemon=True))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(MAX_SECONDS + 5)
            time.sleep(pause_seconds)

    def goals(self, where: str) -> list[Goal]:
        return [Goal(f"another user's {what} {where}", seconds, 1.0, " s") for what, seconds in sorted(self._slowest.items())]

    def _messages(self) -> None:
        watch = Watch(self._distant, MAX_SECONDS)
        for what, text in (("message", "Short."), ("long message", LONG)):
            began = time.time_ns()
            try:
                notification, _ = send(self._service, [self._handler], text, OTHER)
                seconds = watch.late_seconds(notification, began)
            except (OSError, RuntimeError, http.client.HTTPException):
                seconds = float("inf")
            self._note(what, seconds)

    def _timed(self, what: str, do: Callable[[], object]) -> None:
        began = time.monotonic()
        try:
            do()
        except (OSError, RuntimeError, http.client.HTTPException):
            self._note(what, float("inf"))
        else:
            self._note(what, time.monotonic() - began)

    def _note(self, what: str, seconds: float) -> None:
        self._slowest[what] = max(seconds, self._slowest.get(what, 0.0))

    def _page(self) -> None:
        status, _, _ = self._ask("GET", "/", self._cookies)
        if status != 200:
            raise RuntimeError(f"the page says {status}")

    def _signed_in(self) -> str:
        _, cookies, page = self._ask("GET", "/sign-in", "")
        token = _TOKEN.search(page)
        if token is None:
            raise RuntimeError("the sign-in page has no token")
        form = {"csrf": token[1], "email": EMAILS[OTHER], "password": PASSWORD}
        status, signed_in, _ = self._ask("POST", "/sign-in", cookies, urlencode(form))
        if status != 303:
            raise RuntimeError(f"signing in says {status}")
        return signed_in

    def _ask(self, method: str, path: str, cookies: str, form: str | None = None) -> tuple[int, str, str]:
        """Status, the cookies that were set, the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=MAX_SECONDS)
        headers = {"cookie": cookies} | ({"content-type": "application/x-www-form-urlencoded"} if form is not None else {})
        try:
            connection.request(method, path, form, headers)
            answer = connection.getresponse()
            content = answer.read().decode()
        finally:
            connection.close()
        found = "; ".join(one.partition(";")[0] for one in answer.headers.get_all("set-cookie") or ())
        return answer.status, found, content
