"""Previews: what a notification would be sent as, made on the delivery's own way and not sent."""

from collections.abc import Sequence

from msgspec import Struct

from tocsin import observe
from tocsin.channels.contract import Context, Size
from tocsin.flow.attempt import render, shown_request
from tocsin.flow.directory import Directory, Loaded, signing_secrets
from tocsin.markup.elements import Element, elements_of
from tocsin.markup.length import watched_cuts
from tocsin.markup.parse import parse
from tocsin.model import Message, Missing, Refused, Request
from tocsin.settings import Settings


class PreviewPart(Struct, frozen=True):
    """One request as it would go out, masked for everybody, and how large it is."""

    request: str
    sizes: tuple[Size, ...]


class Preview(Struct, frozen=True):
    """`changes`: what the provider cannot show as it was written, in sentences."""

    type: str
    parts: tuple[PreviewPart, ...]
    changes: tuple[str, ...]


class Previews:
    def __init__(self, directory: Directory, settings: Settings) -> None:
        self._directory = directory
        self._settings = settings

    async def of(self, user_id: int, handler_id: int, message: Message) -> Preview:
        """Raises Missing."""
        loaded = await self._directory.loaded(handler_id)
        if loaded is None or loaded.handler.user_id != user_id:
            raise Missing
        handler, now = loaded.handler, observe.now()
        context = Context("preview", handler.id, now, self._settings, signing_secrets=signing_secrets(handler.secret, now))
        with watched_cuts() as cuts:
            requests = await render(loaded, message, context)
        if isinstance(requests, Refused):
            return Preview(handler.type, (), (f"Nothing can be sent: {requests.detail}.",))
        return Preview(handler.type, tuple(_part(loaded, request) for request in requests), _changes(loaded, message, requests, cuts))


def _part(loaded: Loaded, request: Request) -> PreviewPart:
    return PreviewPart(shown_request(request, loaded.secrets), tuple(loaded.channel.measure(request)))


def _changes(loaded: Loaded, message: Message, requests: Sequence[Request], cuts: Sequence[str]) -> tuple[str, ...]:
    held = elements_of(parse(message.text))
    becomes = loaded.channel.becomes
    shown = [f"{_sentence_start(element)} becomes {becomes[element]}." for element in Element if element in held and element in becomes]
    parts = [f"The message goes out in {len(requests)} parts."] if len(requests) > 1 else []
    return (*parts, *dict.fromkeys(cuts), *shown)


def _sentence_start(element: Element) -> str:
    return element.value[0].upper() + element.value[1:]
