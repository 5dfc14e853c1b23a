"""Tests that run inside network and mount namespaces of their own: there they may do as root does, and nobody else notices.

`@in_a_namespace` runs the test again in there, where loopback is all the network that there is.
"""

import functools
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

INSIDE = "TOCSIN_TEST_INSIDE"
UNSHARE = ("unshare", "--map-root-user", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


@functools.cache
def cannot_unshare() -> str:
    """Why there can be no namespace here; empty if there can."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "unshare and ip (util-linux and iproute2) are not installed"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"no network namespace can be made here: {tried.stderr.strip()}" if tried.returncode else ""


def in_a_namespace(test: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(test)
    def again(request: pytest.FixtureRequest, **given: Any) -> None:
        if INSIDE in os.environ:
            test(**given)
            return
        if why := cannot_unshare():
            pytest.skip(why)
        command = [*UNSHARE, sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", request.node.nodeid]
        ran = subprocess.run(
            command, env=os.environ | {INSIDE: "1"}, cwd=request.config.rootpath, capture_output=True, text=True, timeout=120, check=False
        )
        assert ran.returncode == 0, ran.stdout[-4000:]

    again.__signature__ = _with_request(test)  # type: ignore[attr-defined]
    return again


def _with_request(test: Callable[..., None]) -> Any:
    signature = inspect.signature(test)
    request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return signature.replace(parameters=[request, *signature.parameters.values()])
