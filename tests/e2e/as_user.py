"""`python -m e2e.as_user UID serve`: `tocsin` as another user, also where that user could not read the interpreter or the code.

Everything is imported first, as root; then root's rights go, and what tests ask of files is asked of that user.
"""

import importlib
import os
import pkgutil
import sys

import tocsin
from tocsin import cli
from tocsin.web import assets, language

_LATER = (
    "concurrent.futures.thread",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "stringprep",
)
"""What is imported only when it is needed."""


def _load(path: list[str], prefix: str) -> None:
    for found in pkgutil.walk_packages(path, prefix):
        if not found.name.startswith(("tocsin.cli.demo", "tocsin.cli.selftest")) and not found.name.endswith(
            ("__main__", "migrations.env")
        ):
            importlib.import_module(found.name)


def main() -> None:
    _load(list(tocsin.__path__), "tocsin.")
    for name in _LATER:
        importlib.import_module(name)
    assets.version()
    for one in language.LANGUAGES:
        language.translations(one)
    user = int(sys.argv.pop(1))
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
