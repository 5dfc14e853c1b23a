"""What every test may use: settings of its own, a store of its own."""

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from support import postgresql
from support.ports import held_port
from support.store import STORES, OpenStore
from tocsin.model import Severity
from tocsin.settings import Settings, load
from tocsin.vault import Vault

gc.set_threshold(50_000, 20, 100)  # thousands of collected tests are no garbage: looking through them costs a sixth of collecting

# Children would inherit what a shell ignores for what runs in the background, and `nohup` for what outlives a terminal.
for number, usual in {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}.items():
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# The same examples every time: a run says something about the code, not about luck. `--hypothesis-profile` chooses another count.
for profile, count in {"quick": 100, "thorough": 2000}.items():
    hypothesis.settings.register_profile(profile, derandomize=True, deadline=None, max_examples=count)


def pytest_configure(config: pytest.Config) -> None:
    """Not at import: tests import this module a second time, and would take back what the option has chosen."""
    if not config.getoption("--hypothesis-profile"):
        hypothesis.settings.load_profile("quick")


# How many requests are made from the OpenAPI document, for each of its operations: those with a whole message take seconds to make one.
REQUESTS = {"quick": (8, 2), "thorough": (125, 33)}

# Files, and folders of such, whose tests share what takes long to make: one worker runs all of such a file.
WHOLE = (
    "tests/api/test_openapi.py",
    "tests/e2e/test_channels_for_real.py",
    "tests/e2e/test_cli.py",
    "tests/e2e/test_delivery.py",
    "tests/e2e/test_health.py",
    "tests/e2e/test_hostile.py",
    "tests/e2e/test_pacing.py",
    "tests/e2e/test_quotas.py",
    "tests/e2e/test_scale.py",
    "tests/e2e/test_strangers.py",
    "tests/store/test_power_loss.py",
    "tests/web/",
)

# Where a test takes milliseconds: handing out each case of it by itself would take as long.
SMALL = ("tests/channels/", "tests/unit/")

# What takes longest begins first, then whatever takes seconds: at the end there is something left for every worker.
FIRST = (
    "tests/web/test_journeys.py",
    "tests/e2e/test_delivery.py",
    "tests/e2e/test_selftest.py::test_every_promise",
    "tests/web/test_operating.py",
)
THEN = ("tests/e2e/", "tests/web/")


class ByFile(LoadScopeScheduling):
    """Hands out single tests, small ones with all their cases, and whole files. `xdist_group` would do, but with pytest 9.2 pytest-xdist
    3.8 silently ignores it (https://github.com/pytest-dev/pytest-xdist/issues/1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith(WHOLE):
            return file
        return nodeid.partition("[")[0] if file.startswith(SMALL) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    config.option.loadscopereorder = False  # by the number of tests, which says nothing about how long they take
    return ByFile(config, log)


COLLECTED = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[COLLECTED] = [item.nodeid for item in items]
    items.sort(key=lambda item: _turn(item.nodeid))


def _turn(nodeid: str) -> int:
    for turn, begin in enumerate((*FIRST, THEN)):
        if nodeid.startswith(begin):
            return turn
    return len(FIRST) + 1


@pytest.fixture
def collected(request: pytest.FixtureRequest) -> list[str]:
    """Every test that was found, including those that `-m` leaves out of this run."""
    return request.config.stash[COLLECTED]


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings on a folder of the test's own: `make_settings(TOCSIN_UNKNOWN="stop")`."""

    def make(**variables: str) -> Settings:
        environ = {"TOCSIN_DATA_DIR": str(tmp_path / "data"), "TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8,::1/128", **variables}
        return load(environ, dotenv=tmp_path / "none.env")

    return make


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


@pytest.fixture
def own_port() -> Iterator[int]:
    """A loopback port on which nothing listens, unless the test starts a server there."""
    with held_port() as port:
        yield port


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def postgresql_server(run_folder: Path) -> None:
    """The server that all workers of this run share; `support.postgresql` knows it from now on."""
    postgresql.share(run_folder)


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """A test that takes this runs once for each kind of store: `async with open_store() as store`."""
    if request.param == "postgresql":
        request.getfixturevalue("postgresql_server")
    yield partial(STORES[request.param], tmp_path)
    postgresql.drop_databases()


@pytest.fixture
def open_postgresql(postgresql_server: None, tmp_path: Path) -> Iterator[OpenStore]:
    """The same for what only PostgreSQL can be asked. Opened twice at once, it is what two processes have."""
    yield partial(STORES["postgresql"], tmp_path)
    postgresql.drop_databases()


@pytest.fixture
def open_sqlite(tmp_path: Path) -> OpenStore:
    """The same for what only SQLite can be asked, such as its plans."""
    return partial(STORES["sqlite"], tmp_path)


@pytest.fixture
def vault() -> Vault:
    return Vault(["test key"])


SEVERITIES = list(Severity)
