"""Random Markdown and Unicode for property tests: pieces that mean something somewhere, in any order, beside plain noise."""

from hypothesis import strategies as st

from tocsin.channels.contract import Context
from tocsin.model import Message, Severity
from tocsin.settings import load

SERVICE = load({})
SECRET_TOKEN = "S3cretT0kenOfTheSampleHandler0000abcDEF-_"  # of the sample settings: no piece of it may be seen anywhere
AT = 1_795_514_400_000_000  # 2026-11-24 10:00:00 UTC

PIECES = [
    *"\\`*_{}[]()<>#+-.!|~&@:/\"'=^$%\n\t ",
    *("**", "__", "~~", "```", "````", "```py\n", "\n\n", "\n> ", "> > ", "\n- ", "\n1. ", "\n  ", "\n    ", "\n# ", "\n---\n", "- [ ] "),
    *("\n|a|b|\n|-|-|\n|", "|", "![", "](", "[x](http://a.b/c)", "<http://a.b>", "<me@x.org>", "https://example.com/a_b(c)", "http://nas"),
    *("@everyone", "@here", "@channel", "@all", "<@123>", "<!channel>", "<#1>", "<:e:1>", "||", "-# ", ">>> ", "&amp;", "&#7;", "&#10;"),
    *("<b>", "</b>", "<div>\n", "</div>\n", "<pre>\n", "<!--", "-->", "<script>", "javascript:alert(1)", "[x](javascript:y)", "[x](/y)"),
    *("a", "word", "한국어", "漢字", "👍🏽", "👩‍👩‍👧", "🇰🇷", "e\u0301", "\u200b", "\u202e", "\x00", "\x07", "\r\n", "\ufeff", "\U0001f6a8"),
    *("[r]: http://x.y\n", "[r]", "1.", "9999999999. ", "  \n", "\\\n", "***", "+ ", "* "),
]


def _repeated(pieces: str, power: int, more: int) -> str:
    return pieces * min(9000, (1 << power) + more)


# Long texts are rarer than short ones, by their logarithm: they cost a hundred times as much and seldom find anything else.
_few = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)
markdown = st.one_of(
    _few,
    st.text(max_size=200),
    st.builds(_repeated, st.sampled_from(PIECES), st.integers(0, 13), st.integers(0, 99)),
    st.builds(_repeated, st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join), st.integers(0, 10), st.integers(0, 9)),
)
short = _few | st.text(max_size=256)
_value = short | st.builds(_repeated, st.sampled_from(PIECES), st.integers(0, 10), st.integers(0, 99)).map(lambda value: value[:1024])
messages = st.builds(
    Message,
    text=markdown,
    title=short.map(lambda title: title[:256]),
    severity=st.sampled_from(Severity),
    url=st.sampled_from(["", "https://example.com/a?b=c&d=\"'<e>|", "http://nas:8080/x", "https://example.com/" + "ab&" * 670]),
    fields=st.lists(st.tuples(short.map(lambda name: name[:256]), _value), max_size=25).map(tuple),
    at=st.just(AT),
)


def context(**changes: object) -> Context:
    given: dict[str, object] = {"key": "msg_9", "handler_id": 3, "now": AT, "service": SERVICE}
    return Context(**(given | {"notification_id": 7, "delivery_id": 9} | changes))
