"""How many examples a property test gets is what was asked for."""

import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from conftest import REQUESTS  # as many tests do: it must not change the profile

ROOT = Path(__file__).parents[2]
EXAMPLES = {"quick": 100, "thorough": 2000}


def test_the_profile_that_was_asked_for_is_in_use(request: pytest.FixtureRequest) -> None:
    profile = request.config.getoption("--hypothesis-profile") or "quick"
    assert hypothesis.settings.get_current_profile_name() == profile and profile in REQUESTS
    assert hypothesis.settings().max_examples == EXAMPLES[profile]


@pytest.mark.parametrize(("profile", "workers"), [pytest.param("quick", "0", marks=pytest.mark.long), ("thorough", "1")])
def test_it_is_so_in_a_run_of_each_profile(profile: str, workers: str) -> None:
    this = f"{Path(__file__)}::test_the_profile_that_was_asked_for_is_in_use"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", workers, f"--hypothesis-profile={profile}", this]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout
