"""Writes docs/channels/matrix.md: what each channel makes of each element of Markdown, as it really goes out.

`python tests/matrix.py`, or `make docs`; a test compares the page with what the channels do.
"""

import importlib
from html import escape
from pathlib import Path

from tocsin.channels.contract import AnyChannel, settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.markup.elements import SAMPLES, Element
from tocsin.model import Message
from wild import AT, context

PAGE = Path(__file__).parent.parent / "docs" / "channels" / "matrix.md"
HEAD = """# How Markdown is shown

A notification is written once, in Markdown; each channel shows it the way its provider does. *native*: the provider has this element, and
it is used. Otherwise the table says what replaces it. A webhook gets the Markdown as it was written.

On all channels: raw HTML is shown as text; an image becomes a link, and nothing is loaded from elsewhere; a link that cannot be opened
(a relative one, `ftp:`, `javascript:`) is shown as its text and address; a bare address is a link and stays whole, whatever marks it
contains, and one that cannot be opened stays whole, too;
`@everyone`, `@channel`, `<!here>`, `@name` on Telegram and X, and the like are shown and notify nobody; `:name:` does not become an emoji;
control characters and terminal sequences are removed; right-to-left text, Korean and emoji are sent unchanged, and a cut never splits what
is shown as one character.

This page is generated from the channels themselves (`make docs`), and a test compares the two.
"""


def page() -> str:
    """The whole page."""
    channels = [channel for channel in CHANNELS.values() if channel.type != "webhook"]
    lines = [HEAD, "| | " + " | ".join(channel.title for channel in channels) + " |", "|---" * (len(channels) + 1) + "|"]
    for element in Element:
        shown = [channel.becomes.get(element, "native") for channel in channels]
        lines.append(f"| {element.value} | " + " | ".join(shown) + " |")
    lines.append("\n## As it goes out")
    for element in Element:
        title = element.value[0].upper() + element.value[1:]
        lines += [
            f"\n### {title}\n",
            f"```markdown\n{SAMPLES[element]}\n```\n" if "```" not in SAMPLES[element] else f"~~~markdown\n{SAMPLES[element]}\n~~~\n",
        ]
        lines += [
            "| channel | |",
            "|---|---|",
            *(f"| {channel.title} | {_code(sent(channel, SAMPLES[element]))} |" for channel in channels),
        ]
    return "\n".join(lines) + "\n"


def sent(channel: AnyChannel, markdown: str) -> str:
    """What of a request stands for the message."""
    tests = importlib.import_module(f"channels.test_{channel.type}")
    [request] = channel.render(Message(markdown, "T", at=AT), settings_of(channel, tests.SAMPLES[0]), context())
    return tests.message_of(request)


def _code(text: str) -> str:
    """For a cell of a table: line breaks are shown, and nothing is markup."""
    return f"<code>{escape(text, quote=False)}</code>".replace("|", "&#124;").replace("\r", "␍").replace("\n", "<br>")


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
