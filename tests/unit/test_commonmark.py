"""Every example of the CommonMark specification, through every renderer: what is read is what the reference HTML says.

commonmark.json holds the examples of the specification's version 0.31.2 by John MacFarlane (npm package `commonmark-spec`), licensed
CC-BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/; tabs stand for its arrows, nothing else is changed.
"""

import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml

from readers import DIALECTS, HtmlReader, same_form
from tocsin.markup.parse import parse

EXAMPLES = json.loads((Path(__file__).parent / "commonmark.json").read_text(encoding="utf-8"))

# The reference parser, but raw HTML is text as written, and an address is not encoded.
_REFERENCE = MarkdownIt("commonmark")
_REFERENCE.validateLink = lambda _: True
_REFERENCE.normalizeLink = _REFERENCE.normalizeLinkText = lambda url: url
for _kind in ("html_block", "html_inline"):
    _REFERENCE.renderer.rules[_kind] = lambda tokens, index, *_: escapeHtml(tokens[index].content)


def expected(example: dict, dialect: str) -> str:
    reader = HtmlReader(quotes=dialect in {"plain", "google chat"}, quotes_in_lists=dialect == "teams")
    words = reader.read(_REFERENCE.render(example["markdown"]))
    if not reader.shows:
        words = example["markdown"]
    return same_form(words.replace("`", "") if dialect == "slack text" else words)


def test_the_reference_is_the_specifications():
    plain_html = MarkdownIt("commonmark")
    assert [re.sub(r"\s+", "", plain_html.render(example["markdown"])) for example in EXAMPLES] == [
        re.sub(r"\s+", "", example["html"]) for example in EXAMPLES
    ]


NOT_FROM_ZERO = 267  # Slack's lists begin at 1


SECTIONS = list(dict.fromkeys(example["section"] for example in EXAMPLES))


def shown(example: dict, dialect: str) -> tuple[str, str]:
    """What is read in what was rendered, and what should be."""
    render, read = DIALECTS[dialect]
    wanted = expected(example, dialect)
    if dialect == "slack rich_text" and example["example"] == NOT_FROM_ZERO:
        wanted = wanted.replace("0. ", "1. ")
    return read(render(parse(example["markdown"]))), wanted


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_read_is_what_the_specification_says(section):
    """A test for each section: thousands of tests cost every worker more than what they do."""
    cases = {f"{dialect} {one['example']}": shown(one, dialect) for one in EXAMPLES if one["section"] == section for dialect in DIALECTS}
    wrong = {name: f"{found!r} is not {wanted!r}" for name, (found, wanted) in cases.items() if found != wanted}
    assert cases and not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())
