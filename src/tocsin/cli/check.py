"""`tocsin check`: what is misconfigured, and how to fix it."""

import asyncio
import contextlib
import difflib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tocsin import clock
from tocsin import settings as options
from tocsin.cli import show
from tocsin.cli.options import set_values
from tocsin.ports.errors import Finding
from tocsin.settings import OPTIONS, Settings, SettingsError

NETWORK_FILE_SYSTEMS = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"))
OWN_PATHS = frozenset(
    ("account", "api", "deliveries", "docs", "handlers", "healthz", "keys", "ko", "log", "metrics", "notifications", "readyz", "send")
) | {"audit", "confirm", "sign-in", "sign-out", "static", "unsubscribe", "users", "workers"}
_MOUNT_POINT = 4  # its field of a line: https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
_MIN_FREE_BYTES = 200_000_000


def check(*, json: bool = False, data_dir: str | None = None) -> int:
    """Say what is misconfigured and how to fix it; exit code 1 if there is a problem.

    Parameters
    ----------
    json
        Print JSON: what each finding is about, its level (wrong or note) and its sentence.
    data_dir
        Folder of the SQLite file and the key file (TOCSIN_DATA_DIR).
    """
    values = set_values()
    findings = [("settings", finding) for finding in (*names(values), *_unusable(values))]
    settings = _usable(values, data_dir)
    for what, looks in LOOKS.items():
        findings += [(what, finding) for look in looks for finding in look(settings)]
    distinct: dict[str, tuple[str, Finding]] = {}
    for what, finding in findings:
        distinct.setdefault(finding.text, (what, finding))  # two checks may find the same
    found = sorted(distinct.values(), key=lambda one: not one[1].is_fault)
    faults = sum(finding.is_fault for _, finding in found)
    if json:
        show.as_json([{"what": what, "level": one.level, "sentence": show.one_line(one.text)} for what, one in found])
        return 1 if faults else 0
    for _, finding in found:
        show.console().print(f"{finding.level:<5}  {show.one_line(finding.text)}", soft_wrap=True)
    show.say(_summary(faults, settings))
    return 1 if faults else 0


def _summary(faults: int, settings: Settings) -> str:
    if faults:
        return f"{faults} problem{'s' if faults > 1 else ''} found."
    return "No problems found." if _has_store(settings) else "No problems found in the settings; there is no store to check."


def _has_store(settings: Settings) -> bool:
    """Or something in its place, which others look at."""
    from tocsin.datadir import home_of
    from tocsin.ports.errors import StoreError

    with contextlib.suppress(StoreError):
        return home_of(settings).is_there()
    return True


def names(values: Mapping[str, str]) -> Iterator[Finding]:
    """Names that are not options: most likely typos."""
    known = {option.variable for option in OPTIONS} | {f"{option.variable}_FILE" for option in OPTIONS if option.secret}
    plain_files = {f"{option.variable}_FILE": option.variable for option in OPTIONS if not option.secret}
    for name in sorted(set(values) - known):
        if name in plain_files:
            yield Finding(f"{name} has no effect: only secrets are read from files, set {plain_files[name]} itself.")
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        yield Finding(f"{name} is not a setting" + (f": did you mean {close[0]}?" if close else "; `tocsin settings` lists them all."))


def _unusable(values: Mapping[str, str]) -> list[Finding]:
    try:
        options.load(values, Path(os.devnull))
    except SettingsError as error:
        return [Finding(f"{line}.") for line in str(error).splitlines()]
    return []


def _usable(values: Mapping[str, str], data_dir: str | None) -> Settings:
    """The settings, with unreadable ones left at their defaults, so that everything else can be checked."""
    broken = {finding.text.split()[0] for finding in _unusable(values)}
    kept = {name: value for name, value in values.items() if not {name, name.removesuffix("_FILE")} & broken}
    return options.load(kept, Path(os.devnull), data_dir=data_dir)


# ------------------------------------------------------------------------------------------------------- what is looked at


def data_folder(settings: Settings) -> Iterator[Finding]:
    from tocsin.datadir import STORE_FILE, check_reachable
    from tocsin.keyfile import KEY_FILE
    from tocsin.ports.errors import StoreError

    folder = settings.data_path
    try:
        check_reachable(folder)
    except StoreError as error:
        yield Finding(str(error))
        return
    present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(present, os.W_OK | os.X_OK):
        yield Finding(f"TOCSIN_DATA_DIR: {present} is not writable for this user; change its owner or choose another folder.")
        return
    for file, mode, what in ((folder / STORE_FILE, os.R_OK | os.W_OK, "written"), (folder / KEY_FILE, os.R_OK, "read")):
        if file.exists() and not os.access(file, mode):
            yield Finding(f"{file} cannot be {what} by this user; change its owner.")


def owners(settings: Settings) -> Iterator[Finding]:
    """Files that root created, which the service's user cannot read or write."""
    from tocsin import files
    from tocsin.datadir import OWN_FILES, check_reachable
    from tocsin.ports.errors import StoreError

    folder = settings.data_path
    try:
        check_reachable(folder)
    except StoreError:  # others say so
        return
    if not folder.is_dir():
        return
    user, group = files.owner_of(folder / "none")
    for file in (one for name in OWN_FILES if (one := folder / name).is_file() and one.stat().st_uid != user):
        yield Finding(
            f"{file} belongs to user {file.stat().st_uid}, and the data directory to user {user}: run `chown {user}:{group} {file}`."
        )


def file_system(settings: Settings) -> Iterator[Finding]:
    """On a network file system neither locks nor what is written can be relied on: https://www.sqlite.org/faq.html#q5."""
    folder = settings.data_path.absolute()
    kind = mounted_as(folder, Path("/proc/self/mountinfo"))
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding(f"TOCSIN_DATA_DIR: {folder} is on a network file system ({kind}), which may damage the store: use a local disk.")


def mounted_as(folder: Path, mounts: Path) -> str | None:
    """The type of the file system that a folder is on, or will be on; None if the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found, longest = None, -1
    for line in lines:
        mounted, _, rest = line.partition(" - ")
        fields, kind = mounted.split(" "), rest.partition(" ")[0]
        if len(fields) < _MOUNT_POINT + 1:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[_MOUNT_POINT])
        if len(point) >= longest and Path(os.path.realpath(folder)).is_relative_to(point):
            found, longest = kind, len(point)
    return found


def secret_key(settings: Settings) -> Iterator[Finding]:
    """Whether the key that opens the store is there, correct, strong, and unreadable for others."""
    from tocsin.datadir import check_reachable, examine, home_of
    from tocsin.flow.handlers.sealed import complaint, is_sealed
    from tocsin.keyfile import KEY_FILE, weakness_of
    from tocsin.ports.errors import StoreError

    folder = settings.data_path
    file = folder / KEY_FILE
    try:
        check_reachable(folder)
        if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
            yield Finding(f"{file} can be read by others: run `chmod 600 {file}`.")
        if (settings.secret_key is not None or file.exists()) and (weakness := weakness_of(settings)):
            yield Finding(f"{weakness}: take a long random one, with `tocsin secrets rotate`.")
        if folder.is_dir() or settings.database_url:
            vault = examine(settings)
            if vault is not None and (count := home_of(settings).count_sealed(partial(is_sealed, vault=vault))):
                yield Finding(complaint(count))
    except StoreError as error:
        yield Finding(str(error))


def store_is_there(settings: Settings) -> Iterator[Finding]:
    """An operator who names another folder or database than the service uses would be told that all is well."""
    from tocsin.datadir import home_of

    if not _has_store(settings):
        yield Finding(f"There is no store in {home_of(settings).where} yet: the first start of `tocsin serve` makes one.", is_fault=False)


def first_password(settings: Settings) -> Iterator[Finding]:
    """Whether the first user can have the password that is set for them; once there are users it has no effect."""
    from tocsin.admin import AdminError, open_admin
    from tocsin.bootstrap import weakness_of_password

    if (weakness := weakness_of_password(settings)) is None:
        return
    with contextlib.suppress(AdminError), open_admin(settings) as admin:  # there is no store, or others say what is wrong with it
        if admin.users():
            return
    yield Finding(weakness)


def store_health(settings: Settings) -> Iterator[Finding]:
    """Whether the store is sound, and the disk has room for it to grow."""
    import shutil

    from tocsin.datadir import home_of
    from tocsin.ports.errors import StoreError

    folder = settings.data_path
    try:
        home = home_of(settings)
        if folder.is_dir() and (free := shutil.disk_usage(folder).free) < _MIN_FREE_BYTES:
            yield Finding(
                f"Only {free / 1e6:.0f} MB are free where {folder} is: make room, or nothing can be accepted once they are used up."
            )
        if settings.database_url or home.is_readable():
            yield from home.findings()
    except StoreError as error:
        yield Finding(str(error))


def _kept(settings: Settings, name: str) -> bytes | None:
    """What the store keeps by that name; why it cannot be read is said by others."""
    from tocsin.datadir import home_of
    from tocsin.ports.errors import StoreError

    with contextlib.suppress(StoreError):
        home = home_of(settings)
        if home.is_readable():
            return home.value(name)
    return None


def old_rows(settings: Settings) -> Iterator[Finding]:
    """Whether old rows are deleted, and as fast as new ones arrive."""
    from tocsin.clock import SECOND
    from tocsin.flow.housekeeping import BEHIND_AFTER, STATE, read_state

    state = read_state(_kept(settings, STATE))
    if state.doubted:
        yield Finding(
            "The system's clock jumped, so nothing old is deleted for now: set the clock right, or wait until the service has run a day.",
            is_fault=False,
        )
    if state.behind > BEHIND_AFTER:
        yield Finding(
            f"Old notifications are deleted more slowly than they come, {state.behind / SECOND / 3600:.0f} h late: "
            "use a faster disk, send less, or expect the store to grow."
        )


def mail(settings: Settings) -> Iterator[Finding]:
    from tocsin.flow.mail_health import STATE, read_state
    from tocsin.net.mail import complaints, notes

    for complaint in complaints(settings):
        yield Finding(_sentence(complaint), is_fault=settings.smtp_url is not None)
    for note in notes(settings):
        yield Finding(_sentence(note), is_fault=False)
    if settings.smtp_url is not None:
        for complaint in read_state(_kept(settings, STATE)).complaints(clock.now()):
            yield Finding(complaint)


def links(settings: Settings) -> Iterator[Finding]:
    """Whether addresses can be confirmed, and unsubscribed from. It matters most where there are users who are no administrators."""
    from tocsin.admin import AdminError, open_admin

    if settings.smtp_url is None or (settings.base_url or "").startswith("https:"):
        return
    if settings.base_url is not None:
        yield Finding("TOCSIN_BASE_URL is not https, so e-mails carry no link to unsubscribe with one click.", is_fault=False)
        return
    has_strangers = False
    with contextlib.suppress(AdminError), open_admin(settings) as admin:  # there is no store, or others say what is wrong with it
        has_strangers = any(not user.is_admin and user.disabled_at is None for user in admin.users())
    yield Finding(
        "Set TOCSIN_BASE_URL: without it no link can be mailed to confirm an address, so nothing is mailed for users who are no "
        "administrators, and nobody can unsubscribe with one click.",
        is_fault=has_strangers,
    )


def trusted(_: Settings) -> Iterator[Finding]:
    """Whose certificates are trusted."""
    from tocsin.net import trust

    for complaint in trust.complaints():
        yield Finding(_sentence(complaint))
    for note in trust.notes():
        yield Finding(_sentence(note), is_fault=False)


def reach(settings: Settings) -> Iterator[Finding]:
    """Where the service listens, and what it trusts about the origin of requests."""
    if any(network.prefixlen == 0 for network in settings.trusted_proxies):
        yield Finding("TOCSIN_TRUSTED_PROXIES trusts every address: name only the networks of your own proxies.")
    elif settings.trusted_proxies and settings.base_url is None:
        yield Finding(
            "Behind a proxy the links in answers are made from what it forwards: set TOCSIN_BASE_URL to be sure of them.", is_fault=False
        )
    first = urlsplit(settings.base_url or "").path.strip("/").partition("/")[0]
    if first in OWN_PATHS:
        yield Finding(f"TOCSIN_BASE_URL: the path /{first} is one of the service's own; choose another one.")
    if settings.unix_socket and not Path(settings.unix_socket).parent.is_dir():
        yield Finding(f"TOCSIN_UNIX_SOCKET: the folder {Path(settings.unix_socket).parent} does not exist.")
    is_open = not settings.unix_socket and settings.host not in {"localhost", "::1"} and not settings.host.startswith("127.")
    if is_open and not settings.trusted_proxies and not (settings.base_url or "").startswith("https:"):
        yield Finding(
            f"TOCSIN_HOST: on {settings.host} API keys travel unencrypted; "
            "put a TLS proxy in front and set TOCSIN_BASE_URL and TOCSIN_TRUSTED_PROXIES.",
            is_fault=False,
        )


def egress(settings: Settings) -> Iterator[Finding]:
    if any(network.prefixlen == 0 for network in settings.allow_networks):
        yield Finding("TOCSIN_ALLOW_NETWORKS opens every network to all users: name only the ones that handlers must reach.")
    if settings.proxy:
        from tocsin.net.proxies import Direct, complaint
        from tocsin.net.routes import place_of

        place = place_of(settings.telegram_api_url)
        past = place is not None and Direct(settings).has(place.host)
        if not past and (why := complaint(settings.proxy, settings.telegram_api_url)):
            yield Finding(f"TOCSIN_PROXY: {why}. Until that is fixed, nothing is delivered through it.")


def sign_on(settings: Settings) -> Iterator[Finding]:
    """Whether people can sign in elsewhere, and what has to be said there."""
    given = {option.variable for option in OPTIONS if option.name.startswith("oidc_")} & set(set_values())
    if settings.oidc_issuer is None and given:
        yield Finding(f"{', '.join(sorted(given))}: without TOCSIN_OIDC_ISSUER this has no effect.")
    if settings.oidc_issuer is not None:
        yield from _openid(settings)
    if settings.remote_user_header:
        yield Finding(
            f"Anyone who can reach this service from {', '.join(map(str, settings.trusted_proxies))} can sign in as anybody, by the header "
            f"{settings.remote_user_header}: let only the proxy do so, and let it take the header away from what clients send.",
            is_fault=False,
        )


def _openid(settings: Settings) -> Iterator[Finding]:
    if settings.base_url is None:
        yield Finding("TOCSIN_OIDC_ISSUER: set TOCSIN_BASE_URL, from which the redirect URI is made that the provider has to know.")
    else:
        yield Finding(
            f"The OpenID provider has to know the redirect URI {settings.base_url}/sign-in/openid/callback and, for signing out there, "
            f"{settings.base_url}/sign-in.",
            is_fault=False,
        )
    if not settings.oidc_domains:
        yield Finding("TOCSIN_OIDC_DOMAINS is empty: only users that exist can sign in with the OpenID provider.", is_fault=False)
    if "*" in settings.oidc_domains and settings.oidc_create:
        yield Finding(
            "TOCSIN_OIDC_DOMAINS is *: everybody with an account at the OpenID provider can become a user here.",
            is_fault=False,
        )
    if why := asyncio.run(_unusable_provider(settings)):
        yield Finding(f"TOCSIN_OIDC_ISSUER: {why}.")


async def _unusable_provider(settings: Settings) -> str | None:
    """Why the OpenID provider cannot be used from here."""
    from tocsin.net.http import HttpWire
    from tocsin.net.openid import Provider, Unusable, client_of

    wire = HttpWire(settings)
    try:
        await Provider(client_of(settings), wire.send).check()
    except Unusable as unusable:
        return str(unusable).rstrip(".")
    finally:
        await wire.close()
    return None


LOOKS: Mapping[str, tuple[Callable[[Settings], Iterator[Finding]], ...]] = {
    "data directory": (data_folder, owners, file_system),
    "key": (secret_key,),
    "first user": (first_password,),
    "store": (store_is_there, store_health, old_rows),
    "mail": (mail, links),
    "certificates": (trusted,),
    "listening": (reach,),
    "outgoing": (egress,),
    "signing in": (sign_on,),
}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
