"""The pages: complete, and true where that can be checked."""

import re
import tomllib
from pathlib import Path

import pytest

from tocsin.channels.contract import fields_of
from tocsin.channels.registry import CHANNELS
from tocsin.settings import OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = ROOT / "src" / "tocsin"
CODE_PAGES = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def unknown_paths(page: Path, text: str) -> list[str]:
    """What looks like a path of this repository, in backticks, but is not there. In a row about folders, files are looked for in them."""
    unknown: list[str] = []
    for line in re.sub(r"(?s)```.*?```", "", text).split("\n"):
        rooms = [CODE / name for name in re.findall(r"`([\w/]+/)`", line.split("|")[1])] if line.startswith("| ") else []
        words = " ".join(re.findall(r"`([^`]+)`", line)).split()
        unknown += [word for word in words if not is_there(re.sub(r"<\w+>", "*", word.partition("::")[0]), page, rooms)]
    return unknown


def is_there(name: str, page: Path, rooms: list[Path]) -> bool:
    """True of what is no path of this repository, too: those of addresses begin with a slash or a host, what commands make with a dot."""
    first, slash, _ = name.partition("/")
    if not re.fullmatch(r"[\w.*/-]+", name) or (slash and (not first or "." in first)):
        return True
    if slash:
        return any(any(folder.glob(name)) for folder in (ROOT, CODE, page.parent, *rooms))
    if (
        not re.search(r"\w\.(?:py|md|html|po|txt|toml|js|css|svg|json)$", name)
        or (ROOT / name).exists()
        or (rooms and (CODE / name).exists())
    ):
        return True
    return any(any(folder.rglob(name)) for folder in rooms or (CODE, ROOT / "tests", ROOT / "bench"))


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


@pytest.mark.parametrize("page", CODE_PAGES, ids=[str(page.relative_to(ROOT)) for page in CODE_PAGES])
def test_every_path_named_exists(page: Path):
    assert unknown_paths(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "name",
    [
        "flow/nowhere.py",
        "nowhere.py",
        "src/tocsin/nowhere/",
        "nowhere/*.txt",
        "src/tocsin/channels/<type>_old.py",
        ".venv/bin/x nowhere/a.py",
    ],
)
def test_a_path_that_is_not_there_is_found(name: str):
    assert unknown_paths(ROOT / "ARCHITECTURE.md", f"Look into `{name}` and `flow/pace.py`.") == [name.split()[-1]]


def test_a_file_is_looked_for_in_its_room():
    page = ROOT / "ARCHITECTURE.md"
    assert unknown_paths(page, "| `engine/` | `lanes.py` |\n| `engine/` | `writer.py` |\n| `clock.py`, `net/` | `http.py` |") == [
        "writer.py"
    ]


def test_every_room_is_named():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = text[text.index("## The rooms") : text.index("Import order")]
    there = [
        f"{one.name}/" if one.is_dir() else one.name for one in CODE.iterdir() if (one / "__init__.py").exists() or one.suffix == ".py"
    ]
    assert [one for one in sorted(there) if f"`{one}" not in rooms and not one.startswith("__")] == []


def test_the_import_order_is_the_one_that_is_checked():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    [line] = re.findall(r"(?s)Import order, from the top: (.*?)\. Within", text)
    told = [set(re.findall(r"\w+", layer)) for layer in line.split(">")]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    [layers] = [one["layers"] for one in contracts if one.get("containers") == ["tocsin"]]
    assert told == [set(re.findall(r"\w+", layer)) for layer in layers]
