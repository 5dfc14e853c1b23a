"""Every text that the pages show in the reader's language: `python tests/web/messages.py` prints those that a catalogue lacks."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from babel.messages.pofile import read_po
from jinja2.ext import babel_extract

from tocsin.api.errors import CODES
from tocsin.api.parameters import OPTIONAL
from tocsin.api.table import TABLE
from tocsin.channels.contract import fields_of
from tocsin.channels.registry import CHANNELS
from tocsin.flow import words
from tocsin.markup.elements import Element
from tocsin.model import Reason
from tocsin.net.urls import MAX_URL, check_url
from tocsin.web.language import FOLDER, LANGUAGES

WEB = FOLDER.parent
SRC = WEB.parent
FLOW = (
    *(f"people/{name}" for name in ("passwords", "own_keys", "administration", "second_factor", "single_sign_on", "telling")),
    *("handlers/register", "handlers/consenting", "intake/plan", "handlers/preview", "delivery/notices", "quotas"),
)
PYTHON = [*WEB.glob("*.py"), *(SRC / "flow" / f"{name}.py" for name in FLOW)]
READERS = [SRC / "api" / f"{name}.py" for name in ("kinds", "times", "messages", "endpoint")]  # what reads the send form
CHECKS = [*(SRC / "channels").glob("*.py"), SRC / "net" / "urls.py"]


def of_templates() -> Iterator[str]:
    for file in sorted((WEB / "templates").glob("*.html")):
        with file.open("rb") as source:
            for _, _, found, _ in babel_extract(source, ["_", "gettext", "ngettext"], [], {"silent": "false", "newstyle_gettext": "true"}):
                yield from [found] if isinstance(found, str) else [found[0]]


def of_python() -> Iterator[str]:
    """What is marked with `_` or `N_`, and the details of faults that have no values in them."""
    for node in _nodes(PYTHON):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if node.func.id in {"_", "N_"}:
            yield from texts
        elif node.func.id == "Fault" and len(node.args) > 2 and isinstance(node.args[2], ast.Constant):
            yield texts[2]


def of_readers() -> Iterator[str]:
    """Faults with values in them: those of fields that the pages have, too."""
    for node in _nodes(READERS):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != "fault":
            continue
        if node.keywords and isinstance(node.args[1], ast.Constant):
            yield node.args[1].value


def of_templates_in_python() -> Iterator[str]:
    for node in _nodes([*PYTHON, *READERS]):
        if isinstance(node, (ast.Assign, ast.IfExp)):
            for text in (node.value,) if isinstance(node, ast.Assign) else (node.body, node.orelse):
                if isinstance(text, ast.Constant) and isinstance(text.value, str) and re.search(r"\{\w+\}.*\.$", text.value):
                    yield text.value


def of_checks() -> Iterator[str]:
    """What is wrong with a setting."""
    for node in _nodes(CHECKS):
        if isinstance(node, ast.Return) and isinstance(node.value, (ast.Constant, ast.IfExp)):
            for text in (node.value,) if isinstance(node.value, ast.Constant) else (node.value.body, node.value.orelse):
                if isinstance(text, ast.Constant) and isinstance(text.value, str) and re.fullmatch(r"[A-Z].* .*[.…]", text.value):
                    yield text.value
    yield str(check_url(f"https://{'x' * MAX_URL}"))


def of_previews() -> Iterator[str]:
    for element in Element:
        yield element.value[0].upper() + element.value[1:]
    for channel in CHANNELS.values():
        yield from channel.becomes.values()
    for node in _nodes((SRC / "channels").glob("*.py")):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Size":
            yield from (one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str))


def said_in_source() -> Iterator[str]:
    """Every sentence in the source but for the pages, with {} in place of values: alone, or within the text that holds it."""
    for node in _nodes(file for file in SRC.rglob("*.py") if WEB not in file.parents):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            text = re.sub(r"(\{\})+", "{}", "".join(str(part) for part in parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        yield text
        yield from re.split(r"(?<=[.!?…]) +", text)


def _nodes(files: Iterable[Path]) -> Iterator[ast.AST]:
    for file in sorted(files):
        yield from ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def of_words() -> Iterator[str]:
    yield from words.EVENT_TEMPLATES
    for reason in Reason:
        yield words.sentence(reason)
        yield words.hint(reason)


def of_channels() -> Iterator[str]:
    for channel in CHANNELS.values():
        yield channel.about
        for field in fields_of(channel.settings).values():
            yield from (field.title, field.help)


def of_the_reference() -> Iterator[str]:
    yield OPTIONAL
    for endpoint in TABLE:
        yield from (endpoint.group, endpoint.summary, endpoint.description, endpoint.result.sentence)
        for parameter in (*endpoint.query, *endpoint.body):
            yield parameter.kind.word
            if not parameter.description.startswith("For type = "):  # its parts are the channel's texts
                yield parameter.description
    for code in CODES.values():
        yield code.sentence


def everything() -> list[str]:
    sources: tuple[Iterable[str], ...] = (
        *(of_templates(), of_python(), of_readers(), of_templates_in_python(), of_checks()),
        *(of_previews(), of_words(), of_channels(), of_the_reference()),
    )
    return list(dict.fromkeys(text for source in sources for text in source if text))


def missing(language: str) -> list[str]:
    with (FOLDER / f"{language}.po").open("rb") as file:
        catalogue = read_po(file, locale=language)
    return [text for text in everything() if not (found := catalogue.get(text)) or not found.string]


if __name__ == "__main__":
    for language in LANGUAGES:
        if language != "en":
            for text in missing(language):
                sys.stdout.write(f"{text!r}\n")
