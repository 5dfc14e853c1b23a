"""The pages: complete, and true where that can be checked."""

import re
from pathlib import Path

import pytest

from tocsin.channels.contract import fields_of
from tocsin.channels.registry import CHANNELS
from tocsin.settings import OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


@pytest.mark.parametrize("kind", CHANNELS)
def test_every_channel_has_its_page(kind: str):
    page = (ROOT / "docs" / "channels" / f"{kind}.md").read_text(encoding="utf-8")
    index = (ROOT / "docs" / "channels" / "README.md").read_text(encoding="utf-8")
    assert f"({kind}.md)" in index
    assert f"type={kind}" in page
    assert f"tocsin handlers add {kind} " in page
    for field in fields_of(CHANNELS[kind].settings):
        assert f"--form '{field}=" in page


@each_page
def test_every_option_named_is_one(page: Path):
    known = {f"TOCSIN_{option.name.upper()}" for option in OPTIONS} | {"TOCSIN_URL", "TOCSIN_API_KEY"}
    assert set(re.findall(r"TOCSIN_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8"))) - known == set()


@each_page
def test_every_link_leads_somewhere(page: Path):
    text = re.sub(r"(?s)```.*?```|<code>.*?</code>", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@each_page
def test_a_curl_of_the_pages_registers_a_valid_handler(page: Path):
    for kind, form in re.findall(r"--form 'type=(\w+)' \\\n((?:  --form '.*(?:\n|$))+)", page.read_text(encoding="utf-8")):
        values = dict(re.findall(r"--form '(\w+)=(.*)'", form))
        for name, field in fields_of(CHANNELS[kind].settings).items():
            if field.is_optional and name not in values:
                continue
            assert field.check(values[name]) is None or "..." in values[name], name
