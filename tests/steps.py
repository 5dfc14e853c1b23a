"""The steps of adding a channel, and which of them a repository lacks for a channel: see "How to add a channel" in ARCHITECTURE.md."""

from pathlib import Path

ROOT = Path(__file__).parent.parent

# File, what it must contain, and what it is for. Goldens and the table of Markdown are made by `make docs` and have tests of their own.
# `{type}` is the channel's type, `{title}` its title.
STEPS = (
    ("src/tocsin/channels/{type}.py", "CHANNEL = Channel(", "the channel itself"),
    ("src/tocsin/channels/registry.py", "    {type}.CHANNEL,", "its line in the registry"),
    ("tests/channels/test_{type}.py", "SAMPLES", "settings to test with, and the provider's limits"),
    ("tests/web/test_journeys.py", '    "{type}": ', "what a person fills in, for the journey through the pages"),
    ("src/tocsin/web/templates/_icons.html", '<symbol id="icon-{type}"', "its icon"),
    ("src/tocsin/cli/demo/story.py", '        "{type}": ', "a handler in the demo"),
    ("src/tocsin/cli/demo/*.py", '("{type}", ', "what plays its provider in the demo: a `Provider`, or a server of its own"),
    ("docs/channels/{type}.md", "# ", "its page: how to get the credential, limits, quirks"),
    ("docs/channels/README.md", "| `{type}` | [", "its line in the list of pages"),
    ("README.md", "`{type}`", "its settings in the table of types"),
    ("README.md", "{title}", "its name in the first sentence"),
    ("pyproject.toml", "{title}", "its name in the description"),
)


def missing(kind: str, title: str, root: Path = ROOT) -> list[str]:
    """The steps that are not done for this channel, each as a sentence."""
    found: list[str] = []
    for pattern, content, what in STEPS:
        place, wanted = pattern.format(type=kind), content.format(type=kind, title=title)
        if not any(wanted.lower() in path.read_text(encoding="utf-8").lower() for path in root.glob(place)):
            found.append(f"{place} lacks {what}")
    return found
