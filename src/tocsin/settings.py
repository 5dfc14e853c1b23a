"""Every TOCSIN_* option, once: its sentence, its unit, its default and how its text is read.

Values come from the environment, else from a `.env` in the working directory; a secret also from the file that `NAME_FILE` names.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from msgspec import Struct

from tocsin import readings
from tocsin.readings import MAX_PORT, Networks, Ports

ROLES = ("all", "api", "worker")


class SettingsError(Exception):
    """One or more options cannot be used; the message has one line for each."""


# ------------------------------------------------------------------------------------------------------------- options


class Option(Struct, frozen=True):
    """One option. `default` is its text form; None means not set."""

    name: str
    default: str | None
    sentence: str
    read: Callable[[str], Any] = readings.text
    secret: bool = False

    @property
    def variable(self) -> str:
        return f"TOCSIN_{self.name.upper()}"


OPTIONS: tuple[Option, ...] = (
    Option("host", "127.0.0.1", "Address the service listens on; `::` means every IPv4 and IPv6 address."),
    Option("port", "8700", "Port the service listens on; 0 takes a free one.", readings.whole(0, MAX_PORT)),
    Option("unix_socket", None, "Unix socket the service listens on, instead of host and port.", readings.socket_path),
    Option("data_dir", "./data", "Folder of the SQLite file and the key file."),
    Option(
        "database_url",
        "",
        "PostgreSQL database of the store, postgresql://user:password@host/database; empty: SQLite in the data folder.",
        readings.database_url,
        secret=True,
    ),
    Option(
        "role", "all", "What this process does: api, worker or all; only with PostgreSQL may it be other than all.", readings.choice(*ROLES)
    ),
    Option("egress", "", "Name of the address that requests leave from, where the processes on one store have several."),
    Option(
        "base_url", None, "Address under which clients reach the service, for links; unset: taken from the request.", readings.public_url
    ),
    Option(
        "allowed_hosts", "", "Host names under which the pages are served besides those of the base URL and of loopback.", readings.hosts
    ),
    Option("trusted_proxies", "", "Networks (CIDR) whose X-Forwarded-* headers are believed.", readings.networks),
    Option("secret_key", None, "Key that encrypts settings at rest; comma-separated list for rotation, the first encrypts.", secret=True),
    Option("bootstrap_email", None, "E-mail address of the first user, made on an empty store."),
    Option("bootstrap_api_key", None, "API key of the first user, made on an empty store.", readings.api_key, secret=True),
    Option("bootstrap_password", None, "Password of the first user, made on an empty store.", secret=True),
    Option("session_days", "30", "Days after which a session on the pages ends, however much it is used.", readings.whole(1, 3650)),
    Option(
        "require_second_factor",
        "none",
        "Who must set up a second factor to use the pages: none, admins or all. Who is signed in by a provider or a proxy is exempt.",
        readings.choice("none", "admins", "all"),
    ),
    Option("oidc_issuer", None, "OpenID provider that people sign in with, as it names itself; unset: none.", readings.issuer),
    Option("oidc_client_id", None, "Client id of this service at the OpenID provider."),
    Option("oidc_client_secret", None, "Client secret of this service there; unset: a public client, by PKCE alone.", secret=True),
    Option("oidc_name", None, "What the button for it says: Sign in with ...; unset: the provider's host."),
    Option("oidc_scopes", "openid email profile", "What the OpenID provider is asked for."),
    Option(
        "oidc_domains",
        "",
        "Domains of e-mail addresses that may sign in with the OpenID provider, separated by commas; *: any; empty: only users that exist.",
        readings.domains,
    ),
    Option(
        "oidc_create",
        "on",
        "Whether somebody from these domains becomes a user by signing in; off: they must be invited.",
        readings.boolean,
    ),
    Option("oidc_admin_claim", None, "Who of them is an administrator, name=value, such as groups=tocsin-admins.", readings.claim),
    Option("oidc_verified_claim", "email_verified", "Claim by which the OpenID provider says that an e-mail address is verified."),
    Option(
        "remote_user_header",
        None,
        "Header in which a proxy of TOCSIN_TRUSTED_PROXIES names the e-mail address of whom it has signed in; unset: none.",
        readings.header_name,
    ),
    Option("remote_user_create", "on", "Whether people it names become users by themselves; off: they must be invited.", readings.boolean),
    Option(
        "remote_user_admins",
        "",
        "E-mail addresses of those it names that are administrators; empty: it decides nothing.",
        readings.addresses,
    ),
    Option("remote_user_sign_out_url", None, "Where they sign out at the proxy, such as /oauth2/sign_out.", readings.sign_out_url),
    Option("smtp_url", None, "Mail server, smtp://user:pass@host:587 (STARTTLS) or smtps://host.", readings.smtp_url, secret=True),
    Option(
        "smtp_oauth_token_url",
        None,
        "Where access tokens for the mail account come from (OAuth); unset: log in by password.",
        readings.token_url,
    ),
    Option("smtp_oauth_client_id", None, "Client id of this service at that address."),
    Option("smtp_oauth_client_secret", None, "Client secret of this service at that address.", secret=True),
    Option("smtp_oauth_scope", None, "Scope of the token, as the provider calls it."),
    Option("smtp_oauth_refresh_token", None, "First refresh token, if tokens belong to a user and not to the service itself.", secret=True),
    Option("smtp_rate", "0", "Maximum e-mails per second; 0: no pacing.", readings.number),
    Option(
        "ca_file",
        None,
        "File (PEM) of certificate authorities that are trusted in addition to the system's, for HTTPS and for mail.",
        readings.ca_file,
    ),
    Option("email_from", None, "Sender of e-mails, such as `tocsin <alarm@example.com>`."),
    Option(
        "email_trusted_domains",
        "",
        "Domains of e-mail addresses that nobody needs to confirm, separated by commas; *: any.",
        readings.domains,
    ),
    Option("allow_networks", "", "Private networks (CIDR) that handlers' URLs may reach, for all users.", readings.networks),
    Option("allow_ports", "80,443,1024-65535", "Ports that handlers' URLs may name, for all users: numbers and ranges.", readings.ports),
    Option("proxy", None, "HTTP proxy for outgoing requests, http://host:port.", readings.base_url, secret=True),
    Option("no_proxy", "", "Hosts and networks (CIDR) that are reached without the proxy.", readings.no_proxy),
    Option("proxy_resolves", "off", "Whether the proxy looks up names that do not resolve here.", readings.boolean),
    Option("telegram_api_url", "https://api.telegram.org", "Telegram Bot API server.", readings.base_url),
    Option("x_api_url", "https://api.x.com", "X API server.", readings.base_url),
    Option("x_links", "on", "Whether posts on X carry links (a post with a link costs more).", readings.boolean),
    Option("x_daily_limit", "50", "Maximum posts per day for each X access token.", readings.whole(0, 100_000)),
    Option("max_parts", "5", "Maximum number of parts of a long message.", readings.whole(1, 20)),
    Option("retry_schedule", "5s,30s,5m,30m,2h,6h,12h", "Waits between the attempts of a delivery.", readings.schedule),
    Option("unknown", "retry", "What to do after an attempt whose answer was lost: retry or stop.", readings.choice("retry", "stop")),
    Option(
        "disable_after_failures",
        "5",
        "Failed deliveries since the last success after which a handler is switched off; 0: never.",
        readings.whole(0, 100_000),
    ),
    Option("disable_after", "3d", "How long a handler must have been failing before that.", readings.time),
    Option("retention_days", "30", "Days after which settled notifications are deleted.", readings.whole(1, 36_500)),
    Option("audit_days", "400", "Days after which entries of the audit log are deleted.", readings.whole(2, 36_500)),
    Option("rate_limit", "0", "Requests a minute for each key; 0: no limit.", readings.whole(0, 1_000_000)),
    Option("quota_handlers", "500", "Handlers of a user who is no administrator; 0: any number.", readings.whole(0, 1_000_000)),
    Option("quota_keys", "50", "API keys of such a user that are not revoked; 0: any number.", readings.whole(0, 1_000_000)),
    Option(
        "quota_stored_mb", "500", "Megabytes of notifications that are kept for such a user; 0: any number.", readings.whole(0, 100_000_000)
    ),
    Option("quota_notifications_minute", "600", "Notifications a minute of such a user; 0: any number.", readings.whole(0, 100_000_000)),
    Option("quota_notifications_day", "100000", "Notifications a day (UTC) of such a user; 0: any number.", readings.whole(0, 900_000_000)),
    Option("quota_mails_day", "1000", "E-mails a day (UTC) of such a user; 0: any number.", readings.whole(0, 900_000_000)),
    Option(
        "quota_mails_address_day",
        "200",
        "E-mails a day (UTC) of such a user to one mailbox; 0: any number.",
        readings.whole(0, 900_000_000),
    ),
    Option("metrics_token", None, "Bearer token that /metrics asks for; unset: open.", secret=True),
    Option("log_level", "info", "Lowest level of log lines that are written.", readings.choice("debug", "info", "warning", "error")),
    Option("log_format", "auto", "Log lines as json or text; auto: text on a terminal.", readings.choice("auto", "json", "text")),
    Option("url", "http://127.0.0.1:8700", "Service that the client commands talk to.", readings.base_url),
    Option("api_key", None, "API key of the client commands.", secret=True),
)
_GONE = {"TOCSIN_ENGINE_URL": "does not exist: processes on several machines share one store, see TOCSIN_DATABASE_URL and TOCSIN_ROLE"}


class Settings(Struct, frozen=True, kw_only=True):
    """The options' values. The repr shows none of them: some are secrets."""

    host: str
    port: int
    unix_socket: str | None
    data_dir: str
    database_url: str
    role: str
    egress: str
    base_url: str | None
    allowed_hosts: tuple[str, ...]
    trusted_proxies: Networks
    secret_key: str | None
    bootstrap_email: str | None
    bootstrap_api_key: str | None
    bootstrap_password: str | None
    session_days: int
    require_second_factor: str
    oidc_issuer: str | None
    oidc_client_id: str | None
    oidc_client_secret: str | None
    oidc_name: str | None
    oidc_scopes: str
    oidc_domains: tuple[str, ...]
    oidc_create: bool
    oidc_admin_claim: tuple[str, str] | None
    oidc_verified_claim: str
    remote_user_header: str | None
    remote_user_create: bool
    remote_user_admins: tuple[str, ...]
    remote_user_sign_out_url: str | None
    smtp_url: str | None
    smtp_oauth_token_url: str | None
    smtp_oauth_client_id: str | None
    smtp_oauth_client_secret: str | None
    smtp_oauth_scope: str | None
    smtp_oauth_refresh_token: str | None
    smtp_rate: float
    ca_file: str | None
    email_from: str | None
    email_trusted_domains: tuple[str, ...]
    allow_networks: Networks
    allow_ports: Ports
    proxy: str | None
    no_proxy: tuple[str, ...]
    proxy_resolves: bool
    telegram_api_url: str
    x_api_url: str
    x_links: bool
    x_daily_limit: int
    max_parts: int
    retry_schedule: tuple[float, ...]
    unknown: str
    disable_after_failures: int
    disable_after: float
    retention_days: int
    audit_days: int
    rate_limit: int
    quota_handlers: int
    quota_keys: int
    quota_stored_mb: int
    quota_notifications_minute: int
    quota_notifications_day: int
    quota_mails_day: int
    quota_mails_address_day: int
    metrics_token: str | None
    log_level: str
    log_format: str
    url: str
    api_key: str | None

    def __repr__(self) -> str:
        return "Settings(...)"

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir).expanduser()


def raw_values(environ: Mapping[str, str] | None = None, dotenv: Path | None = None) -> dict[str, str]:
    """The texts that are set, by variable name, the environment before `.env`.

    An empty variable counts as unset. Unknown names are ignored here: `check` reports typos.
    """
    found = {name: value for name, value in dotenv_values(dotenv or Path(".env"), interpolate=False).items() if value}
    found.update({name: value for name, value in (os.environ if environ is None else environ).items() if value})
    return {name: value for name, value in found.items() if name.startswith("TOCSIN_")}


def load(environ: Mapping[str, str] | None = None, dotenv: Path | None = None, **given: object) -> Settings:
    """Read every option; `given` (from the command line) wins. Raises SettingsError naming everything that is wrong."""
    texts = raw_values(environ, dotenv)
    values: dict[str, Any] = {}
    complaints: list[str] = []
    for option in OPTIONS:
        try:
            text = _value_of(option, texts)
            values[option.name] = None if text is None else option.read(text)
        except (ValueError, OSError) as error:
            complaints.append(f"{option.variable} {error}")
    complaints += [f"{variable} {sentence}" for variable, sentence in _GONE.items() if texts.get(variable)]
    values.update({name: value for name, value in given.items() if value is not None})
    if not complaints and values["role"] != "all" and not values["database_url"]:
        complaints.append(
            "TOCSIN_ROLE must be all, unless TOCSIN_DATABASE_URL names a PostgreSQL database: one process serves a SQLite store"
        )
    complaints += _together(values)
    if complaints:
        raise SettingsError("\n".join(complaints))
    return Settings(**values)


def _together(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with options beside each other. Those that cannot be read are missing."""
    found: list[str] = []
    if values.get("oidc_issuer") and not values.get("oidc_client_id"):
        found.append("TOCSIN_OIDC_ISSUER needs TOCSIN_OIDC_CLIENT_ID beside it")
    if values.get("oidc_issuer") and "openid" not in str(values.get("oidc_scopes")).split():
        found.append("TOCSIN_OIDC_SCOPES must contain openid")
    if values.get("remote_user_header") and "trusted_proxies" in values:
        proxies: Networks = values["trusted_proxies"]
        if not proxies:
            found.append("TOCSIN_REMOTE_USER_HEADER needs TOCSIN_TRUSTED_PROXIES beside it: from anybody else the header is not believed")
        elif any(network.prefixlen == 0 for network in proxies):
            found.append(
                "TOCSIN_REMOTE_USER_HEADER must not be used where TOCSIN_TRUSTED_PROXIES is every address: anybody could be anybody"
            )
    return found


def _value_of(option: Option, texts: Mapping[str, str]) -> str | None:
    file = texts.get(f"{option.variable}_FILE") if option.secret else None
    if file is None:
        return texts.get(option.variable, option.default)
    if option.variable in texts:
        raise ValueError(f"and {option.variable}_FILE are both set: keep one")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read from the file that {option.variable}_FILE names: {type(error).__name__}") from None
