"""Previews: what a notification would be sent as, made on the delivery's own way and not sent."""

from collections.abc import Sequence

from msgspec import Struct

from tocsin import clock
from tocsin.channels.chat import document_of
from tocsin.channels.contract import Context, Size
from tocsin.flow import pools
from tocsin.flow.delivery.rendering import context_of, render_now, within_budget
from tocsin.flow.delivery.shown import shown_request
from tocsin.flow.directory import Directory, Loaded
from tocsin.markup.elements import Element, elements_of
from tocsin.markup.length import Cut, WrittenOut, watched_cuts
from tocsin.model import Message, Missing, Refused, Request, Sentence
from tocsin.settings import Settings

_NOTHING = "Nothing can be sent: {why}."
_PARTS = "The message goes out in {count} parts."
_CUT = "{characters} characters are left out of “{beginning}”."
_CUT_ONE = "{characters} character is left out of “{beginning}”."
_WRITTEN_OUT = "There are {marks} links and other marks, more than can be shown here: the links are written out, the other marks left out."
_BECOMES = "{element} becomes {other}."


class PreviewPart(Struct, frozen=True):
    """One request as it would go out, masked for everybody, and how large it is."""

    request: str
    sizes: tuple[Size, ...]


class Preview(Struct, frozen=True):
    """`changes`: what the provider cannot show as it was written, in sentences."""

    type: str
    parts: tuple[PreviewPart, ...]
    changes: tuple[Sentence, ...]


class Previews:
    """What would be sent, rendered as for a delivery. Nothing goes out, and no turn is taken."""

    def __init__(self, directory: Directory, settings: Settings) -> None:
        self._directory = directory
        self._settings = settings

    async def of(self, user_id: int, handler_id: int, message: Message) -> Preview:
        """Made in the pool of the pages. Raises Missing, Busy."""
        loaded = await self._directory.loaded(handler_id)
        if loaded is None or loaded.handler.user_id != user_id:
            raise Missing
        context = context_of(loaded, self._settings, clock.now(), "preview")
        made = await within_budget(pools.here().pages, _made, loaded, message, context)
        return _refused(loaded, made) if isinstance(made, Refused) else made


def _made(loaded: Loaded, message: Message, context: Context) -> Preview:
    with watched_cuts() as cuts:
        requests = render_now(loaded, message, context)
    if isinstance(requests, Refused):
        return _refused(loaded, requests)
    parts = tuple(_part(loaded, request) for request in requests)
    return Preview(loaded.handler.type, parts, _changes(loaded, message, requests, cuts))


def _refused(loaded: Loaded, refused: Refused) -> Preview:
    return Preview(loaded.handler.type, (), (Sentence(_NOTHING, {"why": refused.detail}),))


def _part(loaded: Loaded, request: Request) -> PreviewPart:
    return PreviewPart(shown_request(request, loaded.secrets), tuple(loaded.channel.measure(request)))


def _changes(loaded: Loaded, message: Message, requests: Sequence[Request], cuts: Sequence[Cut | WrittenOut]) -> tuple[Sentence, ...]:
    held = elements_of(document_of(message))
    becomes = loaded.channel.becomes
    shown = [Sentence(_BECOMES, {"element": _at_start(one), "other": becomes[one]}) for one in Element if one in held and one in becomes]
    parts = [Sentence(_PARTS, {"count": str(len(requests))})] if len(requests) > 1 else []
    return (*parts, *map(_left_out, dict.fromkeys(cuts)), *shown)


def _left_out(cut: Cut | WrittenOut) -> Sentence:
    if isinstance(cut, WrittenOut):
        return Sentence(_WRITTEN_OUT, {"marks": f"{cut.marks:,}"})
    return Sentence(_CUT_ONE if cut.characters == 1 else _CUT, {"characters": f"{cut.characters:,}", "beginning": cut.beginning})


def _at_start(element: Element) -> str:
    return element.value[0].upper() + element.value[1:]
