"""What is remembered while a document is cut changes nothing of what is rendered."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given

from tocsin.markup import discord, google_chat, html, plain, slack, teams, telegram, tree
from tocsin.markup.cut import split_at
from tocsin.markup.parse import parse
from wild import markdown

DIALECTS: dict[str, tuple[Callable[[tree.Document], Any], Callable[[], Callable[[tree.Document], Any]]]] = {
    "discord": (discord.discord, discord.remembering),
    "google_chat": (google_chat.google_chat, google_chat.remembering),
    "html": (html.html, html.remembering),
    "plain": (plain.plain, plain.remembering),
    "teams": (teams.teams, teams.remembering),
    "telegram": (telegram.telegram, telegram.remembering),
    "slack": (lambda document: slack.length(slack.rich_text(document)), lambda: slack.Measure().document),
}


@pytest.mark.parametrize("name", DIALECTS)
@given(text=markdown)
@example(text="- #\n  # a\n")
@example(text="> > - a\n> >\n> > > |a|b|\n> > > |-|-|\n> > > |c|d|\n\n- [ ] *a*\n\n1. b")
def test_a_document_and_its_cuts_are_rendered_the_same(name: str, text: str):
    render, remembering = DIALECTS[name]
    remembered, document = remembering(), parse(text)
    for part in (document, *split_at(document, len(text) // 2 + 1), *split_at(document, len(text) // 3 + 1), document):
        assert remembered(part) == render(part)
