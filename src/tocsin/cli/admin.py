"""`tocsin users` and `tocsin keys`: work on the store itself, also while the service runs."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tocsin import clock
from tocsin.cli import reading, show
from tocsin.cli.failure import Failure, Usage
from tocsin.cli.moments import read_moment
from tocsin.cli.options import load_settings, set_values
from tocsin.clock import SECOND, Micros
from tocsin.settings import Settings

if TYPE_CHECKING:
    from tocsin.admin import Admin

DataDir = Annotated[str | None, Parameter(help="Folder of the SQLite file and the key file (TOCSIN_DATA_DIR).")]


@contextmanager
def store_of(settings: Settings) -> Generator["Admin", None, None]:
    from tocsin.admin import AdminError, open_admin

    try:
        with open_admin(settings) as admin:
            yield admin
    except AdminError as error:
        raise Failure(show.one_line(str(error))) from None


def add_user(email: str, /, *, admin: bool = False, data_dir: DataDir = None) -> None:
    """Add a user, and print a link that signs them in once.

    Parameters
    ----------
    email
        E-mail address of the user.
    admin
        Whether the user is an administrator.
    """
    settings = load_settings(data_dir=data_dir)
    with store_of(settings) as store:
        _, token = store.add_user(email, admin)
        base = _base_url(settings, store.served_at())
    show.note(f"Added {show.one_line(email)}. This link signs them in once; it is not shown again:")
    if not base:
        show.note("Put the address of the service in front of it; TOCSIN_BASE_URL would name it.")
    show.say(f"{base}/sign-in/{token}")


def set_password(email: str, /, *, data_dir: DataDir = None) -> None:
    """Set a user's password: asked for on a terminal, else the first line of standard input.

    It takes 10 to 1,024 characters and is not one of the common ones. Sessions of the user end, API keys stay valid.

    Parameters
    ----------
    email
        E-mail address of the user.
    """
    with store_of(load_settings(data_dir=data_dir)) as store:
        if not any(user.email.lower() == email.lower() for user in store.users()):
            raise Failure(f"There is no user {show.one_line(email)}.")
        store.set_password(email, _new_password())
    show.note(f"The password of {show.one_line(email)} is set, and they are signed out everywhere. Their API keys stay valid.")


def disable_user(email: str, /, *, yes: bool = False, data_dir: DataDir = None) -> None:
    """Disable a user: their keys and sessions end, their handlers are deleted with all secrets, and waiting deliveries are cancelled.

    Parameters
    ----------
    email
        E-mail address of the user.
    yes
        Do not ask on a terminal.
    """
    with store_of(load_settings(data_dir=data_dir)) as store:
        confirm(f"Disable {show.one_line(email)}? Keys, sessions, handlers and waiting deliveries of theirs end for good.", yes)
        store.disable_user(email)
    show.note(f"{show.one_line(email)} is disabled; the history stays.")


def set_user(
    email: str,
    /,
    *,
    time_zone: str | None = None,
    admin: Annotated[bool | None, Parameter(negative="--no-admin")] = None,
    reset_second_factor: Annotated[bool, Parameter(negative="")] = False,
    unbind: Annotated[bool, Parameter(negative="")] = False,
    data_dir: DataDir = None,
) -> None:
    """Change a user: the time zone of their pages and messages, whether they are an administrator, and how they sign in.

    Parameters
    ----------
    email
        E-mail address of the user.
    time_zone
        A name of the tz database, such as Asia/Seoul or UTC.
    admin
        Whether the user is an administrator.
    reset_second_factor
        Turn their second factor off, so that they can sign in without it and set up another one.
    unbind
        Forget which account of the OpenID provider is theirs: the next one with their verified address will be.
    """
    if time_zone is None and admin is None and not reset_second_factor and not unbind:
        raise Usage("Say what to set: --time-zone, --admin, --no-admin, --reset-second-factor or --unbind.")
    unneeded: list[str] = []
    with store_of(load_settings(data_dir=data_dir)) as store:
        if time_zone is not None or admin is not None:
            store.set_user(email, time_zone, admin)
        if reset_second_factor and not store.reset_second_factor(email):
            unneeded.append("has no second factor")
        if unbind and not store.unbind(email):
            unneeded.append("is bound to no account of a provider")
    if unneeded:
        show.note(f"{show.one_line(email)} {' and '.join(unneeded)}.")
    if len(unneeded) < sum((time_zone is not None, admin is not None, reset_second_factor, unbind)):
        show.note(f"{show.one_line(email)} is changed.")


def delete_user(email: str, /, *, yes: bool = False, data_dir: DataDir = None) -> None:
    """Delete a user and everything that is theirs, including the history.

    Parameters
    ----------
    email
        E-mail address of the user.
    yes
        Do not ask on a terminal.
    """
    with store_of(load_settings(data_dir=data_dir)) as store:
        confirm(f"Delete {show.one_line(email)}? Keys, handlers, notifications and the whole history of theirs go for good.", yes)
        store.delete_user(email)
    show.note(f"{show.one_line(email)} is deleted.")


def list_users(*, json: bool = False, data_dir: DataDir = None) -> None:
    """List the users.

    Parameters
    ----------
    json
        Print JSON instead of a table.
    """
    with store_of(load_settings(data_dir=data_dir)) as store:
        users = store.users()
    if json:
        show.as_json(
            [
                {
                    "id": u.id,
                    "email": u.email,
                    "is_admin": u.is_admin,
                    "time_zone": u.time_zone,
                    "datetime": shown_time(u.created_at),
                    "disabled_datetime": shown_time(u.disabled_at),
                }
                for u in users
            ]
        )
        return
    rows = (
        (
            str(u.id),
            u.email,
            "admin" if u.is_admin else "user",
            u.time_zone or "UTC",
            "enabled" if u.disabled_at is None else "disabled",
            shown_time(u.created_at) or "-",
        )
        for u in users
    )
    show.table(("ID", "E-MAIL", "ROLE", "TIME ZONE", "STATE", "CREATED (UTC)"), rows)


def add_key(
    name: str,
    /,
    *,
    user: str,
    scope: list[str] | None = None,
    expires: str | None = None,
    data_dir: DataDir = None,
) -> None:
    """Add an API key and print it once: it cannot be shown again.

    Parameters
    ----------
    name
        Name of the key.
    user
        E-mail address of its user.
    scope
        A permission: handlers:read, handlers:write, notifications:send, deliveries:read or deliveries:write; may be repeated.
        The default is everything.
    expires
        Last day (2027-01-31) or time (2027-01-31 18:30:00) at which the key works, in UTC. By default it does not expire.
    """
    until = None if expires is None else read_moment(expires, "--expires", is_end=True)
    with store_of(load_settings(data_dir=data_dir)) as store:
        key = store.add_key(user, name, tuple(scope or ()), until)
    show.note("This is the key; it is not shown again:")
    show.say(key)


def list_keys(*, json: bool = False, data_dir: DataDir = None) -> None:
    """List the API keys, by their beginnings.

    Parameters
    ----------
    json
        Print JSON instead of a table.
    """
    with store_of(load_settings(data_dir=data_dir)) as store:
        keys = store.keys()
    if json:
        show.as_json(
            [
                {
                    "id": k.id,
                    "name": k.name,
                    "user": k.email,
                    "beginning": k.shown,
                    "scopes": list(k.scopes),
                    "datetime": shown_time(k.created_at),
                    "last_datetime": shown_time(k.last_used_at),
                    "revoked_datetime": shown_time(k.revoked_at),
                    "expires_datetime": shown_time(k.expires_at),
                }
                for k in keys
            ]
        )
        return
    show.table(
        ("ID", "NAME", "USER", "BEGINS", "SCOPES", "STATE", "EXPIRES (UTC)", "LAST USED (UTC)"),
        (
            (
                str(k.id),
                k.name,
                k.email,
                f"{k.shown}…",
                ", ".join(k.scopes) or "all",
                "revoked" if k.revoked_at is not None else "valid" if k.is_valid(clock.now()) else "expired",
                shown_time(k.expires_at) or "never",
                shown_time(k.last_used_at) or "never",
            )
            for k in keys
        ),
    )


def revoke_key(key: str, /, *, data_dir: DataDir = None) -> None:
    """Revoke an API key; a running service notices within two seconds.

    Parameters
    ----------
    key
        The key's id, its name, or its beginning as `tocsin keys list` shows it.
    """
    with store_of(load_settings(data_dir=data_dir)) as store:
        revoked = store.revoke_key(key)
    show.note(f"The key {show.one_line(revoked.name)} of {show.one_line(revoked.email)} is revoked.")


def _base_url(settings: Settings, served_at: str | None) -> str:
    """The address of the service: as somebody has set it, else where it last listened. Empty: on a Unix socket, which no URL leads to."""
    if settings.base_url or "TOCSIN_URL" in set_values():
        return settings.base_url or settings.url
    if served_at is not None:
        return served_at if served_at.startswith("http") else ""
    if settings.unix_socket:
        return ""
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - shown, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _new_password() -> str:
    if not sys.stdin.isatty():
        return reading.first_line()
    password = reading.hidden("New password: ")
    if reading.hidden("Again: ") != password:
        raise Failure("The two passwords differ.")
    return password


def confirm(question: str, is_confirmed: bool) -> None:
    """Ask on a terminal; there is nobody to ask in a script, which means what it says."""
    if is_confirmed or not sys.stdin.isatty():
        return
    show.note(question)
    if input("yes/no: ").strip().lower() not in {"y", "yes"}:
        raise Failure("Nothing was changed.")


def shown_time(at: Micros | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at / SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S")
