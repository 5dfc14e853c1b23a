"""Long texts that repeat one construct, or two by turns: what a careless or unkind sender may fill a message with."""

from collections.abc import Callable


def _rising(mark: str, size: int) -> str:
    """Runs of the mark that grow by one each, none closing another."""
    runs: list[str] = []
    room = size
    while room > len(runs) + 3:
        runs.append(mark * (len(runs) + 1))
        room -= len(runs) + 2
    return " a".join(runs)


def _stairs(line: Callable[[int], str], size: int) -> str:
    """Lines each of which is a step deeper, over and over."""
    flight = "".join(line(depth) for depth in range(40))
    return (flight * (size // len(flight) + 1))[:size]


UNITS: dict[str, str] = {
    "paragraphs": "a\n\n",
    "sentences": "The disk of db-1 is full. It fills at about 1 GB an hour.\n\n",
    "short lines": "a\n",
    "hard breaks": "a  \n",
    "backslash breaks": "a\\\n",
    "items": "- a\n",
    "loose items": "- a\n\n",
    "empty items": "-\n",
    "tasks": "- [ ] a\n",
    "ordered": "1. a\n",
    "lists": "- a\n\n1. b\n\n",
    "nested items": "- a\n  - b\n    - c\n",
    "items of code": "- a\n\n      code\n",
    "items of quotes": "- > a\n",
    "items of headings": "- # a\n",
    "list marks": "- ",
    "number marks": "1. ",
    "quotes": "> a\n\n",
    "quote lines": "> a\n",
    "quotes of items": "> - a\n>\n> b\n\n",
    "deeper quotes": "> a\n>> b\n>>> c\n\n",
    "quote marks": "> ",
    "headings": "# a\n",
    "small headings": "###### a\n",
    "setext": "a\n=\n",
    "setext two": "a\n-\n\n",
    "rules": "---\n\n",
    "rows": "|a|b|\n",
    "tables": "|a|b|\n|-|-|\n|c|d|\n\n",
    "code spans": "`a` ",
    "double code spans": "`` a`b `` ",
    "fences": "```py\na\n```\n",
    "open fence": "```\na\n",
    "indented": "    a\n",
    "indented apart": "    a\n\nb\n\n",
    "bold": "**a** ",
    "italic": "*a* ",
    "struck": "~~a~~ ",
    "bold in words": "a**b**c",
    "chain": "*a_b[c]",
    "chain of struck": "~~a**b_c",
    "stars": "*",
    "stars of words": "*a ",
    "star ends": "a* ",
    "star both": "*a",
    "underscores": "_a ",
    "double stars": "**a ",
    "mixed marks": "*a **b ",
    "tildes": "~~a ",
    "brackets": "[",
    "brackets closed": "[]",
    "bracket ends": "]",
    "bracket words": "[a](",
    "images open": "![",
    "link open": "[a](<b",
    "backticks": "`a``b",
    "links": "[a](http://b.c) ",
    "long links": "[the docs of it](https://example.com/a_b?c=d&e=f) ",
    "titled links": '[a](http://b.c "d") ',
    "relative links": "[a](/b) ",
    "references": "[a]: http://b.c\n\n[a] ",
    "same references": "[a][b] ",
    "images": "![a](http://b.c/d.png) ",
    "bare URLs": "http://b.c ",
    "glued URLs": "http://b.c",
    "URL ends": "http://b.c)))... ",
    "slashes": "://",
    "h": "http://",
    "autolinks": "<http://b.c> ",
    "mails": "<a@b.c> ",
    "bold links": "**[a](http://b.c)** ",
    "html": "<b>a</b> ",
    "html blocks": "<div>\na\n</div>\n\n",
    "html open": "<",
    "html comments": "<!--",
    "html questions": "<?",
    "html declarations": "<!A",
    "html cdata": "<![CDATA[",
    "html attributes": "<a b=",
    "html quotes": '<a b="',
    "entities": "&amp;",
    "entity controls": "&#7;",
    "entity breaks": "&#10;",
    "ampersands": "&",
    "escapes": "\\*",
    "backslashes": "\\",
    "spaces": "a ",
    "blanks": " ",
    "blank lines": "\n",
    "tabs": "\t",
    "control": "a\x07",
    "carriage returns": "a\r\n",
    "emoji": "🚨",
    "families": "👩‍👩‍👧",
    "flags": "🇰🇷",
    "marks": "e\u0301",
    "combining": "\u0301",
    "joiners": "\u200d",
    "jamo": "\u1112\u1161",
    "korean": "결제 서버의 응답 시간이 평소보다 **세 배** 길어졌습니다. ",
    "korean word": "결제",
    "word": "a",
    "capital word": "A1",
    "dots": ".",
    "stops": "a. ",
    "dashes": "-",
    "pluses": "+ ",
    "pipes": "|",
    "at": "@here ",
    "ats": "@",
    "mentions": "@all<@1>:e:",
    "dollars": "$a$",
    "braces": "{{a}}",
    "hosts": "a.kr ",
    "host": "a.",
    "numbers": "1.1",
    "keycaps": "1\ufe0f\u20e3",
    "quoted pre": "> ```\n> a\n> ```\n\n",
    "items pre": "- a\n\n  ```\n  b\n  ```\n",
    "item of two": "- a\n\n  b\n",
    "emphasis over lines": "*a\nb* ",
}
"""By name, what is repeated."""

SHAPES: dict[str, Callable[[int], str]] = {
    "rising backticks": lambda size: _rising("`", size),
    "rising stars": lambda size: _rising("*", size),
    "rising tildes": lambda size: _rising("~", size),
    "rising backticks, bold": lambda size: f"**{_rising('`', size - size // 16).replace(' a', ' ftp://a/*')} a**",
    "rising fences": lambda size: "\n".join("`" * (3 + index % 400) for index in range(size // 204)),
    "stairs of items": lambda size: _stairs(lambda depth: "  " * depth + "- a\n", size),
    "stairs of quotes": lambda size: _stairs(lambda depth: "> " * depth + "a\n", size),
    "stairs of both": lambda size: _stairs(lambda depth: "> - " * depth + "a\n", size),
    "deep items, long": lambda size: "- " * 25 + "a\n" + ("  " * 25 + "a\n") * (size // 52),
    "deep items, items": lambda size: "- " * 25 + "a\n" + ("  " * 25 + "- a\n") * (size // 54),
    "deep quote, long": lambda size: ("> " * 25 + "a\n") * (size // 52),
    "deep quote, lazy": lambda size: "> " * 25 + "a\n" * ((size - 50) // 2),
    "deep quote, items": lambda size: ("> " * 25 + "- a\n") * (size // 54),
    "deep marks": lambda size: "*a_b~~c**d" * (size // 20) + "**~~_*" * (size // 12),
    "deep marks, long": lambda size: "*a _b ~~c **" + "d " * (size // 2 - 12) + "** ~~_*",
    "bold lines": lambda size: "**" + "a\n" * (size // 2 - 2) + "**",
    "long label": lambda size: "[" + "a " * (size // 2 - 10) + "](http://b.c)",
    "long label of marks": lambda size: "[" + "*a* `b` " * (size // 8 - 2) + "](http://b.c)",
    "long code span": lambda size: "`" + "a " * (size // 2 - 2) + "b`",
    "long heading": lambda size: "# " + "a " * (size // 2 - 2),
    "long URL": lambda size: "http://b.c/" + "a" * (size - 11),
    "long URL of brackets": lambda size: "http://b.c/" + "(" * (size // 2) + ")" * (size // 2 - 11),
    "wide table": lambda size: "|a" * (size // 8) + "|\n" + "|-" * (size // 8) + "|\n" + "|b" * (size // 8) + "|\n",
    "long table": lambda size: "|a|b|\n|-|-|\n" + "|c|d|\n" * (size // 6 - 2),
    "long table of marks": lambda size: "|a|b|\n|-|-|\n" + "|*c*|`d`|\n" * (size // 10 - 2),
    "table of short rows": lambda size: "|" + "a|" * 40 + "\n|" + "-|" * 40 + "\n" + "|c\n" * (size // 3 - 60),
    "one long cell": lambda size: "|a|b|\n|-|-|\n|" + "c " * (size // 2 - 20) + "|d|\n",
    "long row, then rows": lambda size: "|a|b|\n|-|-|\n|" + "c " * (size // 4 - 20) + "|d|\n" + "|c|d|\n" * (size // 12),
    "long head": lambda size: "|" + "a " * (size // 4) + "|b|\n|-|-|\n" + "|c|d|\n" * (size // 12),
    "long code": lambda size: "```\n" + "a\n" * (size // 2 - 4) + "```",
    "long code of one line": lambda size: "```\n" + "a" * (size - 8) + "\n```",
    "indented code in items": lambda size: "- a\n\n" + "      a\n" * (size // 8),
    "long language": lambda size: "```" + "a" * (size - 10) + "\nb\n```",
    "definitions": lambda size: "".join(f"[{index:05}]: http://b.c\n" for index in range(size // 40)) + "[00000] " * (size // 16),
    "definitions unused": lambda size: "".join(f"[{index:05}]: http://b.c\n" for index in range(size // 20)),
    "expanding definition": lambda size: f"[a]: http://b.c/{'d' * min(size // 2, 2000)}\n\n" + "[a] " * (size // 8),
    "label inside label": lambda size: "[" * (size // 2) + "a" + "](http://b.c)" * (size // 26),
    "many cells in quote": lambda size: "> |a|b|\n> |-|-|\n" + "> |c|d|\n" * (size // 8 - 2),
}


def text_of(name: str, size: int) -> str:
    """A text of about `size` characters, in bytes never more than 64 KiB by much: a name of one construct or, with ` + `, of two."""
    first, _, second = name.partition(" + ")
    if second:
        return _repeated(UNITS[first] + UNITS[second], size)
    return SHAPES[first](size) if first in SHAPES else _repeated(UNITS[first], size)


def _repeated(unit: str, size: int) -> str:
    return unit * (size // len(unit.encode("utf-8", "surrogatepass")))
