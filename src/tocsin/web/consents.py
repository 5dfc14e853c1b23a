"""Links in mails, for their readers: opening one changes nothing, its button does, or the mail program's own (RFC 8058).

They need neither a session nor the token of a form: anyone who has the link may use it. Nothing is redirected, kept or told on.
"""

from typing import Any

from starlette.responses import Response

from tocsin.web.visit import Visit

_ALONE = {"referrer-policy": "no-referrer", "x-robots-tag": "noindex, nofollow"}


class TooOften(Exception):
    """`seconds`: until the next one."""

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self.seconds = seconds


def _token(visit: Visit) -> str:
    """Raises TooOften."""
    token: str = visit.path["token"]
    if seconds := visit.service.consenting.clicked(token, visit.client.counted_as):
        raise TooOften(seconds)
    return token


def _page(visit: Visit, template: str, *, is_known: bool, **values: Any) -> Response:
    response = visit.page(template, status=200 if is_known else 404, is_known=is_known, **values)
    response.headers.update(_ALONE)
    return response


async def agree_page(visit: Visit) -> Response:
    request = await visit.service.consenting.asked(_token(visit))
    return _page(visit, "agree.html", is_known=request is not None, request=request, is_done=False)


async def agree(visit: Visit) -> Response:
    request = await visit.service.consenting.asked(_token(visit))
    is_done = request is not None and await visit.service.consenting.agree(request)
    return _page(visit, "agree.html", is_known=is_done, request=request, is_done=is_done)


async def unsubscribe_page(visit: Visit) -> Response:
    address = await visit.service.consenting.subscription(_token(visit))
    return _page(visit, "unsubscribe.html", is_known=address is not None, address=address, is_done=address == "")


async def unsubscribe(visit: Visit) -> Response:
    is_known = await visit.service.consenting.unsubscribe(_token(visit))
    return _page(visit, "unsubscribe.html", is_known=is_known, address=None, is_done=is_known)
