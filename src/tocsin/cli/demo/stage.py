"""The demo's run: start everything, send the story, print what arrived where."""

import itertools
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from queue import Empty
from types import FrameType

from rich.console import Console
from rich.text import Text

from tocsin.cli import show
from tocsin.cli.client import Client, Made
from tocsin.cli.demo import providers, story
from tocsin.cli.demo.receivers import Arrival, Arrivals, Receiver, free_port, mail_server
from tocsin.cli.demo.service import EMAIL, DemoService, demo_service
from tocsin.cli.failure import Failure
from tocsin.cli.handlers import SecretRow

ONCE_SECONDS = 30.0
_FIRST_ROUND_SECONDS = 2.0  # between notifications
_LATER_ROUNDS_SECONDS = 6.0
_LOOK_SECONDS = 0.5  # how often the service is checked while nothing arrives


class Stage:
    """Sends scenes and prints arrivals; remembers when each title was sent, to say how long it took."""

    def __init__(self, service: DemoService, receiver: Receiver, console: Console) -> None:
        self._client = Client(service.url, service.api_key)
        self._receiver = receiver
        self._console = console
        self._handlers: dict[str, int] = {}
        self._sent_at: dict[str, float] = {}
        self.reached: set[str] = set()

    def register(self) -> None:
        """One handler of each type, through the API."""
        self._forms = story.registrations(self._receiver.url)
        for name in story.TYPES:
            self._handler(name)

    def _handler(self, name: str) -> int:
        """Its id. The revoked one is registered when the story comes to it: what visitors send before then arrives everywhere."""
        if name not in self._handlers:
            self._handlers[name] = self._client.post_form("/api/notification-handlers", Made, self._forms[name]).data.id
        return self._handlers[name]

    def signing_secret(self) -> str:
        return self._client.get(f"/api/notification-handlers/{self._handlers['webhook']}/secret", SecretRow).data.secret

    def send(self, scene: story.Scene) -> None:
        for fault in scene.faults:
            self._receiver.fail_next(fault.type, _answer_of(fault, self._receiver))
        title = str(scene.content["title"])
        self._sent_at[title] = time.monotonic()
        self._client.post("/api/notifications", Made, {**scene.content, "handlers": [self._handler(name) for name in scene.to]})
        self._line(Text("sent", style="bold"), title, f"to {len(scene.to)} handlers", "")

    def print(self, arrival: Arrival) -> None:
        title = next((title for title in self._sent_at if providers.readable(title) in arrival.text), None)
        who = story.TITLES[arrival.type]
        if arrival.why:
            self._line(Text(who, style="yellow"), title or "", "refused", arrival.why)
            return
        self.reached.add(arrival.type)
        took = f"{max(0.0, arrival.at - self._sent_at[title]):8.3f} s" if title else ""
        self._line(Text(who, style="green"), title or providers.headline(arrival.text), "arrived", took)

    def _line(self, who: Text, title: str, what: str, detail: str) -> None:
        line = Text(time.strftime("%H:%M:%S  "), style="dim")
        line.append_text(_padded(who, 16))
        line.append_text(_padded(Text(show.one_line(title)), 34))
        line.append_text(_padded(Text(what), 15))
        line.append(show.one_line(detail))
        self._console.print(line, soft_wrap=True)


def _padded(text: Text, cells: int) -> Text:
    """The text padded to so many terminal cells (a Korean character takes two), with at least one space at the end."""
    text.truncate(cells - 1, overflow="ellipsis", pad=True)
    return text.append(" ")


def _answer_of(fault: story.Fault, receiver: Receiver) -> providers.Answer:
    if fault.wait_seconds is None:
        return providers.Answer(500, b"something broke", why="500, the next attempt succeeds")
    return receiver.provider(fault.type).throttled(fault.wait_seconds)


def _scenes() -> Iterator[tuple[story.Scene, float]]:
    """The scenes, in an endless loop, with the seconds until the next."""
    yield story.OPENING, _FIRST_ROUND_SECONDS
    for scene in story.SCENES:
        yield scene, _FIRST_ROUND_SECONDS
    yield story.FAREWELL, _LATER_ROUNDS_SECONDS
    for scene in itertools.cycle([*story.SCENES, story.OPENING]):
        yield scene, _LATER_ROUNDS_SECONDS


# ----------------------------------------------------------------------------------------------------------------- the run


def run_demo(port: int, once: bool) -> int:
    """Run until Ctrl-C, or with `once` until every type has received something. The exit code."""
    started_at = time.monotonic()
    console = show.console()
    # SIGTERM ends it like Ctrl-C, so that the service and the folder never outlive the demo.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tocsin-demo-")))
            arrivals = Arrivals()
            receiver = Receiver(arrivals)
            stack.enter_context(receiver.running())
            mail_port = stack.enter_context(mail_server(arrivals))
            service = stack.enter_context(demo_service(folder, free_port(port), _leading_to(receiver, mail_port)))
            service.wait_until_ready()
            stage = Stage(service, receiver, console)
            stage.register()
            secret = stage.signing_secret()
            receiver.play([providers.webhook(secret), *providers.CHATS, providers.x(story.X_CONSUMER_SECRET, story.X_TOKEN_SECRET)])
            _greet(console, service)
            return _run_once(stage, arrivals, service, started_at) if once else _run_on(stage, arrivals, service)
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left behind.")
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _leading_to(receiver: Receiver, mail_port: int) -> Mapping[str, str]:
    return {
        "TOCSIN_TELEGRAM_API_URL": receiver.url,
        "TOCSIN_X_API_URL": receiver.url,
        "TOCSIN_SMTP_URL": f"smtp://127.0.0.1:{mail_port}",
        "TOCSIN_EMAIL_FROM": "tocsin <alarm@example.com>",
    }


def _greet(console: Console, service: DemoService) -> None:
    command = "tocsin" if shutil.which("tocsin") else sys.argv[0]  # in a fresh clone it is only in .venv/bin
    console.print(
        f"tocsin runs on {service.url} with a throw-away store; all receivers are on this machine.\n"
        f"The pages (this link signs in once, within 24 hours):\n\n  {service.sign_in_link()}\n\n"
        f"or sign in as {EMAIL} with the password {service.password}\n\n"
        "To join in from another terminal:\n\n"
        f"  export TOCSIN_URL={service.url} TOCSIN_API_KEY={service.api_key}\n"
        f'  {command} send "Hello **world**" --title Hello --wait\n'
        f"  {command} deliveries list\n",
        soft_wrap=True,
    )


def _run_once(stage: Stage, arrivals: Arrivals, service: DemoService, started_at: float) -> int:
    stage.send(story.OPENING)
    while missing := [story.TITLES[type_] for type_ in story.TYPES if type_ not in stage.reached]:
        left_seconds = started_at + ONCE_SECONDS - time.monotonic()
        if left_seconds <= 0:
            raise Failure(f"Nothing reached {', '.join(missing)} within {ONCE_SECONDS:.0f} s.")
        _print_next(stage, arrivals, service, left_seconds)
    show.say(f"All {len(story.TYPES)} types were reached {time.monotonic() - started_at:.1f} s after the start.")
    return 0


def _run_on(stage: Stage, arrivals: Arrivals, service: DemoService) -> int:
    for scene, pause_seconds in _scenes():
        stage.send(scene)
        ends_at = time.monotonic() + pause_seconds
        while (left_seconds := ends_at - time.monotonic()) > 0:
            _print_next(stage, arrivals, service, left_seconds)
    return 0


def _print_next(stage: Stage, arrivals: Arrivals, service: DemoService, most_seconds: float) -> None:
    try:
        arrival = arrivals.get(timeout=min(most_seconds, _LOOK_SECONDS))
    except Empty:
        service.check_alive()
        return
    stage.print(arrival)
