"""Everything that goes wrong at once, for as long as a test may take: see `bench/matrix`. `make soak` does it for ten minutes."""

import subprocess
import sys

import pytest

SEEDS = (1, 2, 3)  # odd ones on a small disk of their own, where one can be had


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("store", ["", "postgresql"])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_accepted_id_is_reconciled_after_everything_that_goes_wrong(pytestconfig: pytest.Config, seed: int, store: str) -> None:
    command = [sys.executable, "-m", "bench.matrix", "--seed", str(seed), "--seconds", "30", *([f"--{store}"] if store else [])]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=390, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
