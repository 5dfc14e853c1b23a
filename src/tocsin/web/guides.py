"""The guide of each channel, as `docs/channels` has it: where to find what the form asks for, and what the provider's answers mean."""

import functools
import re
from pathlib import Path

import pyromark
from markupsafe import Markup
from starlette.responses import Response

from tocsin.channels.registry import CHANNELS
from tocsin.model import Missing
from tocsin.web.visit import Visit

_INSTALLED = Path(__file__).parent / "guides"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[3] / "docs" / "channels"  # a wheel has them beside the pages
_EXAMPLE_BASE = "http://127.0.0.1:8700"
_MARKDOWN = pyromark.Markdown(options=pyromark.Options.ENABLE_TABLES)
_TITLE = re.compile(r"# (.+)\n")


async def page(visit: Visit) -> Response:
    channel = CHANNELS.get(visit.path["type"])
    if channel is None:
        raise Missing
    title, content = _guide(channel.type, visit.base)
    return visit.page("guide.html", channel=channel, heading=title, content=content)


@functools.lru_cache(maxsize=64)
def _guide(type_: str, base: str) -> tuple[str, Markup]:
    """Its heading and the rest as HTML, with this service's own address in the examples. The text is ours, so it is trusted."""
    text = (FOLDER / f"{type_}.md").read_text(encoding="utf-8").replace(_EXAMPLE_BASE, base)
    title = _TITLE.match(text)
    html = _MARKDOWN.html(text if title is None else text[title.end() :])
    # What scrolls sideways can be reached by the keyboard, as everywhere in the pages.
    html = html.replace("<pre>", '<pre tabindex="0">').replace("<table>", '<div class="scroll" tabindex="0"><table>')
    html = re.sub(r"<h2>(.*?)</h2>", _anchored, html.replace("</table>", "</table></div>"))
    return title[1] if title else type_, Markup(html)  # noqa: S704


def _anchored(heading: "re.Match[str]") -> str:
    name = re.sub(r"[^a-z]+", "-", re.sub(r"<[^<>]*>|&\w+;", "", heading[1]).lower()).strip("-")
    return f'<h2 id="{name}">{heading[1]}</h2>'
