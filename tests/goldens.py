"""What every channel makes of the corpus, one file a notification, to be looked at: `python tests/goldens.py`, or `make docs`."""

import hashlib
import importlib
import json
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from zoneinfo import ZoneInfo

from corpus import CORPUS
from tocsin.channels.contract import settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.clock import SECOND
from tocsin.model import HttpRequest, Message, Request
from wild import AT, context

FOLDER = Path(__file__).parent / "goldens"
CONTEXTS: dict[str, dict[str, object]] = {"late-in-nepal": {"meant_for": AT - 3 * 3600 * SECOND, "zone": ZoneInfo("Asia/Kathmandu")}}
_SHOWN = 3_000  # characters of a request; of a longer one its beginning, its end and its hash


def golden(name: str) -> str:
    """All native requests of a notification."""
    return "\n".join(part for channel in CHANNELS for part in _requests(channel, CORPUS[name], CONTEXTS.get(name, {})))


def _requests(kind: str, message: Message, changes: dict[str, object]) -> list[str]:
    channel = CHANNELS[kind]
    settings = settings_of(channel, importlib.import_module(f"channels.test_{kind}").SAMPLES[0])
    requests = channel.render(message, settings, context(**changes))
    lines: list[str] = []
    for number, request in enumerate(requests, 1):
        sizes = ", ".join(f"{size.what} {size.size}{f' of {size.limit}' if size.limit else ''}" for size in channel.measure(request))
        lines += [f"{'=' * 20} {kind} {number}/{len(requests)}: {sizes}", _short(_shown(request)), ""]
    return lines


def _shown(request: Request) -> str:
    if isinstance(request, HttpRequest):
        return json.dumps(json.loads(request.body), ensure_ascii=False, indent=1)
    mail = message_from_bytes(request.content, policy=default)
    headers = [f"{name}: {value}" for name, value in mail.items() if name != "Content-Type"]
    parts = [part.get_content().replace("\r\n", "\n") for part in mail.walk() if not part.is_multipart()]
    return "\n".join([*headers, "", "\n-------- HTML\n".join(parts)])


def _short(text: str) -> str:
    text = text.replace("\t", "␉")
    if len(text) <= _SHOWN * 2:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:_SHOWN]}\n[... {len(text) - 2 * _SHOWN} characters, {digest} ...]\n{text[-_SHOWN:]}"


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.txt"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in CORPUS:
        path_of(name).write_text(golden(name), encoding="utf-8", newline="\n")
