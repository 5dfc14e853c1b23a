"""`tocsin settings`: every option, its meaning, and whether it is set."""

import os
import re
from collections.abc import Mapping

from msgspec import Struct

from tocsin import settings
from tocsin.cli import show
from tocsin.cli.failure import Failure
from tocsin.model import MASK


class Shown(Struct, frozen=True):
    """One option as anybody may see it. `value` is None if nothing is set; for a secret it only says that one is set."""

    variable: str
    sentence: str
    default: str | None
    value: str | None
    origin: str | None


def load_settings(
    host: str | None = None,
    port: int | None = None,
    unix_socket: str | None = None,
    data_dir: str | None = None,
    role: str | None = None,
) -> settings.Settings:
    """settings.load with every fault as a Failure; values from the command line win."""
    try:
        if unix_socket is None and (host is not None or port is not None):
            unix_socket = ""  # a socket from the settings gives way
        return settings.load(host=host, port=port, unix_socket=unix_socket, data_dir=data_dir, role=role)
    except settings.SettingsError as error:
        raise Failure(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"The file .env cannot be read: {type(error).__name__}.") from None


def set_values() -> dict[str, str]:
    """The TOCSIN_* texts of the environment and .env, the environment first."""
    try:
        return settings.raw_values()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"The file .env cannot be read: {type(error).__name__}.") from None


def shown_options(values: Mapping[str, str], environ: Mapping[str, str]) -> list[Shown]:
    return [_shown(option, values, environ) for option in settings.OPTIONS]


def _shown(option: settings.Option, values: Mapping[str, str], environ: Mapping[str, str]) -> Shown:
    file = f"{option.variable}_FILE"
    name = file if option.secret and file in values else option.variable
    if name not in values:
        return Shown(option.variable, option.sentence, option.default, None, None)
    origin = "environment" if environ.get(name) else ".env"
    value = "set" if option.secret else re.sub(r"(?<=://)[^/@]*@", f"{MASK}@", values[name])
    return Shown(option.variable, option.sentence, option.default, value, f"{name} in {origin}" if name == file else origin)


def list_settings(*, json: bool = False) -> None:
    """List every setting, its default, and whether it is set.

    Secrets are never shown: of a secret it says only "set".

    Parameters
    ----------
    json
        Print JSON instead of a table.
    """
    options = shown_options(set_values(), os.environ)
    if json:
        show.as_json(options)
        return
    rows = [(o.variable, "-" if o.value is None else f"{o.value} ({o.origin})", o.default or "-", o.sentence) for o in options]
    show.table(("VARIABLE", "SET TO", "DEFAULT", "MEANING"), rows)


def example() -> str:
    """The text of .env.example: every option, commented out, with its sentence and default."""
    head = (
        "# Settings of tocsin. Copy this file to .env and uncomment what you need; the environment wins over .env.\n"
        "# A secret can come from a file instead: NAME_FILE=/run/secrets/name in place of NAME=...\n"
    )
    return head + "".join(_example_of(option) for option in settings.OPTIONS)


def _example_of(option: settings.Option) -> str:
    secret = " Secret." if option.secret else ""
    return f"\n# {option.sentence}{secret}\n# {option.variable}={option.default or ''}\n"
