"""The guides of the channels are served, so that they can be read without the project's files and without a network."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tocsin.channels.registry import CHANNELS
from web.conftest import Surfer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", CHANNELS)
def test_the_form_of_each_type_leads_to_its_guide(shared_surfer: Surfer, kind: str) -> None:
    assert f'href="/docs/channels/{kind}"' in shared_surfer.get(f"/handlers/add/{kind}").text
    page = shared_surfer.get(f"/docs/channels/{kind}")
    assert page.status == 200
    assert f"type={kind}" in page.text and 'id="answers-and-what-tocsin-does"' in page.text
    assert shared_surfer.base in page.text  # the examples name this service
    assert not re.search(r"\sstyle=|\]\(|href=\"[^\"/#h?]", page.text)  # nothing inline, and no link into the project's files


def test_guides_are_for_everybody_and_for_known_types_only(shared_base: str) -> None:
    stranger = Surfer(shared_base)
    korean = stranger.get("/docs/channels/slack?lang=ko").text
    assert "이 안내는 영어로 되어 있습니다." in korean and 'lang="en"' in korean
    assert "/handlers/add/slack" not in korean
    assert stranger.get("/docs/channels/README").status == 404
    assert 'href="/docs/channels/slack"' in stranger.get("/docs").text


def test_the_package_has_them(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        assert {f"tocsin/web/guides/{kind}.md" for kind in CHANNELS} <= names
        assert packed.read("tocsin/web/guides/slack.md") == (ROOT / "docs" / "channels" / "slack.md").read_bytes()
