import ipaddress
import os
import re
import socket
from pathlib import Path

import pytest

from tocsin.cli.options import example, shown_options
from tocsin.settings import OPTIONS, Settings, SettingsError, load, raw_values

ROOT = Path(__file__).parents[2]
NONE = Path(os.devnull)


def complaints(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(environ, NONE)
    return str(caught.value).splitlines()


# ---------------------------------------------------------------------------------------------------------- the options


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load({}, NONE)
    assert (settings.host, settings.port, settings.data_dir) == ("127.0.0.1", 8700, "./data")
    assert settings.retry_schedule == (5, 30, 300, 1800, 7200, 21600, 43200)
    assert (settings.max_parts, settings.retention_days, settings.x_daily_limit, settings.rate_limit) == (5, 30, 50, 0)
    assert (settings.x_links, settings.unknown, settings.allow_networks) == (True, "retry", ())
    assert settings.telegram_api_url == "https://api.telegram.org"
    assert settings.url == "http://127.0.0.1:8700"
    unset = ("base_url", "secret_key", "smtp_url", "email_from", "proxy", "metrics_token", "api_key", "bootstrap_api_key")
    assert [getattr(settings, name) for name in unset] == [None] * len(unset)


def test_options_and_settings_are_the_same_list() -> None:
    assert tuple(option.name for option in OPTIONS) == Settings.__struct_fields__


def test_every_option_has_a_sentence_and_a_default_that_can_be_read() -> None:
    for option in OPTIONS:
        assert option.sentence.endswith(".") and option.sentence[0].isupper(), option.variable
        assert option.default is None or option.read(option.default) is not None


def test_the_example_file_is_true_to_the_options() -> None:
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == example()


def test_the_example_file_with_all_its_comments_opened_is_readable(tmp_path: Path) -> None:
    opened = tmp_path / ".env"
    opened.write_text(re.sub(r"(?m)^# (TOCSIN_)", r"\1", example()), encoding="utf-8")
    assert set(raw_values({}, opened)) == {option.variable for option in OPTIONS if option.default}
    assert load({}, opened) == load({}, NONE)


# -------------------------------------------------------------------------------------------------------- where from


def test_the_environment_wins_over_dotenv_and_the_command_line_over_both(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("TOCSIN_PORT=1111\nTOCSIN_HOST=10.0.0.1\nTOCSIN_EMAIL_FROM='tocsin <a@b.example>'\n")
    settings = load({"TOCSIN_PORT": "2222", "TOCSIN_HOST": "10.0.0.2"}, dotenv, host="10.0.0.3", data_dir=None)
    assert (settings.port, settings.host, settings.email_from) == (2222, "10.0.0.3", "tocsin <a@b.example>")
    assert settings.data_dir == "./data"


def test_dotenv_is_looked_for_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("TOCSIN_PORT=1111\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOCSIN_PORT", raising=False)
    assert load({}).port == 1111


def test_the_process_environment_is_read_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_PORT", "3333")
    assert load(dotenv=NONE).port == 3333


def test_dotenv_values_are_taken_literally(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("TOCSIN_SECRET_KEY='a$HOME-${HOME}-b'\n")
    assert load({"HOME": "/root"}, dotenv).secret_key == "a$HOME-${HOME}-b"


@pytest.mark.parametrize("name", ["TOCSIN_PORT", "TOCSIN_SMTP_URL", "TOCSIN_ALLOW_NETWORKS", "TOCSIN_X_LINKS"])
def test_an_empty_variable_counts_as_unset(name: str) -> None:
    assert load({name: ""}, NONE) == load({}, NONE)


def test_an_empty_variable_does_not_hide_what_dotenv_says(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("TOCSIN_PORT=1111\n")
    assert load({"TOCSIN_PORT": ""}, dotenv).port == 1111


def test_other_programs_variables_are_left_alone() -> None:
    assert raw_values({"PATH": "/bin", "TOCSIN_PORT": "1"}, NONE) == {"TOCSIN_PORT": "1"}
    assert load({"TOCSIN_NO_SUCH_THING": "1"}, NONE) == load({}, NONE)


# ---------------------------------------------------------------------------------------------------- secrets in files

SECRETS = [option for option in OPTIONS if option.secret and option.default is None]


@pytest.mark.parametrize("option", SECRETS, ids=lambda option: option.variable)
def test_every_secret_can_come_from_a_file(option, tmp_path: Path) -> None:
    value = {"smtp_url": "smtps://u:p@h", "proxy": "http://proxy:3128", "bootstrap_api_key": "tk_" + "a" * 24}.get(option.name, "s3cret")
    file = tmp_path / "secret"
    file.write_text(f"{value}\n", encoding="utf-8")
    assert getattr(load({f"{option.variable}_FILE": str(file)}, NONE), option.name) == value


def test_a_secret_and_its_file_at_once_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from-file")
    [line] = complaints({"TOCSIN_API_KEY": "from-variable", "TOCSIN_API_KEY_FILE": str(file)})
    assert line == "TOCSIN_API_KEY and TOCSIN_API_KEY_FILE are both set: keep one"


def test_a_secret_file_that_cannot_be_read_is_named_by_its_variable(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "missing", tmp_path, tmp_path / "binary"):
        [line] = complaints({"TOCSIN_SECRET_KEY_FILE": str(file)})
        assert line.startswith("TOCSIN_SECRET_KEY cannot be read from the file that TOCSIN_SECRET_KEY_FILE names")


def test_what_is_no_secret_is_not_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "port"
    file.write_text("1234")
    assert load({"TOCSIN_PORT_FILE": str(file)}, NONE).port == 8700


# ------------------------------------------------------------------------------------------------------------ bad values

BAD = [
    ("TOCSIN_PORT", ["x", "-1", "65536", "80.5", "8_0", "１２"]),
    ("TOCSIN_X_LINKS", ["maybe", "2", "ja"]),
    ("TOCSIN_RETENTION_DAYS", ["0", "forever"]),
    ("TOCSIN_MAX_PARTS", ["0", "21"]),
    ("TOCSIN_SMTP_RATE", ["-1", "fast", "1e3", "nan"]),
    ("TOCSIN_ALLOW_NETWORKS", ["10.0.0.1/8", "localhost", "10.0.0.0/33"]),
    ("TOCSIN_TRUSTED_PROXIES", ["proxy.example", "300.0.0.0/8"]),
    ("TOCSIN_RETRY_SCHEDULE", ["5x", "5s,,1m", "soon", "-5s", "5s,9999999d", "3153600001s"]),
    ("TOCSIN_UNKNOWN", ["ignore"]),
    ("TOCSIN_LOG_LEVEL", ["loud"]),
    ("TOCSIN_UNIX_SOCKET", ["/run/" + "s" * 103, "/" + "소" * 36]),
    (
        "TOCSIN_BASE_URL",
        [
            "https://user:pass@example.com",
            "https://user@example.com/tocsin",
            "example.com",
            "ftp://example.com",
            "https://example.com/?a=1",
            "https://",
        ],
    ),
    ("TOCSIN_URL", ["127.0.0.1:8700", "http://h#x"]),
    ("TOCSIN_SMTP_URL", ["mail.example.com", "http://mail", "smtp://", "smtp://h?tls=none", "smtp://h:port"]),
    ("TOCSIN_BOOTSTRAP_API_KEY", ["secret", "tk_short", "tk_" + "!" * 30]),
    ("TOCSIN_DATABASE_URL", ["mysql://h/db", "h/db", "postgresql:h"]),
    ("TOCSIN_ENGINE_URL", ["nats://h"]),
    ("TOCSIN_ROLE", ["boss", "worker"]),
]


@pytest.mark.parametrize(("variable", "value"), [(variable, value) for variable, values in BAD for value in values])
def test_a_bad_value_is_refused_in_one_line_that_names_its_variable(variable: str, value: str) -> None:
    [line] = complaints({variable: value})
    assert line.split()[0] == variable
    assert len(line.split()) > 3


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    environ = {variable: values[0] for variable, values in BAD} | {"TOCSIN_API_KEY_FILE": str(tmp_path / "missing")}
    assert {line.split()[0] for line in complaints(environ)} == {variable for variable, _ in BAD} | {"TOCSIN_API_KEY"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TOCSIN_SMTP_URL", "smtp://user:hunter2@host?tls=never"),
        ("TOCSIN_SMTP_URL", "smtp://user:hunter2@host:hunter2"),
        ("TOCSIN_SMTP_URL", "smtp://user:hunter2/@host"),
        ("TOCSIN_SMTP_URL", "smtp://user:hunter2\u2100@host"),
        ("TOCSIN_PROXY", "http://user:hunter2/@proxy"),
        ("TOCSIN_PROXY", "socks://user:hunter2@proxy"),
        ("TOCSIN_DATABASE_URL", "mysql://user:hunter2@db"),
        ("TOCSIN_ENGINE_URL", "nats://user:hunter2@host"),
        ("TOCSIN_BOOTSTRAP_API_KEY", "hunter2"),
        ("TOCSIN_BASE_URL", "https://user:hunter2@example.com"),
    ],
)
def test_a_complaint_does_not_repeat_a_secret(variable: str, value: str) -> None:
    assert "hunter2" not in "\n".join(complaints({variable: value}))


# ------------------------------------------------------------------------------------------------------------ good values


@pytest.mark.parametrize("word", ["1", "true", "YES", "On"])
def test_words_for_on(word: str) -> None:
    assert load({"TOCSIN_X_LINKS": word}, NONE).x_links is True


@pytest.mark.parametrize("word", ["0", "False", "no", "OFF"])
def test_words_for_off(word: str) -> None:
    assert load({"TOCSIN_X_LINKS": word}, NONE).x_links is False


def test_waits_carry_their_unit() -> None:
    assert load({"TOCSIN_RETRY_SCHEDULE": "0.5s, 2, 1m,1min,2h ,1d"}, NONE).retry_schedule == (0.5, 2, 60, 60, 7200, 86400)


def test_networks_of_both_families() -> None:
    networks = load({"TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8, ::1/128,10.1.2.3,"}, NONE).allow_networks
    assert networks == tuple(map(ipaddress.ip_network, ("127.0.0.0/8", "::1/128", "10.1.2.3/32")))


def test_addresses_lose_their_last_slash_and_choices_their_case() -> None:
    settings = load({"TOCSIN_BASE_URL": "https://alarm.example.com/t/", "TOCSIN_UNKNOWN": "STOP"}, NONE)
    assert (settings.base_url, settings.unknown) == ("https://alarm.example.com/t", "stop")


def test_the_data_folder_knows_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load({"TOCSIN_DATA_DIR": "~/alarms"}, NONE).data_path == Path("/home/somebody/alarms")


# ------------------------------------------------------------------------------------------------------ nothing is shown


def test_the_repr_shows_nothing() -> None:
    settings = load({"TOCSIN_SECRET_KEY": "hunter2", "TOCSIN_SMTP_URL": "smtps://u:hunter2@h", "TOCSIN_API_KEY": "hunter2"}, NONE)
    assert f"{settings!r} {settings} {[settings]}" == "Settings(...) Settings(...) [Settings(...)]"


def test_the_list_of_settings_shows_no_secret_and_no_userinfo() -> None:
    values = {option.variable: "hunter2" for option in OPTIONS if option.secret} | {
        "TOCSIN_BASE_URL": "https://u:hunter2@alarm.example.com"
    }
    shown = {option.variable: option for option in shown_options(values, {"TOCSIN_API_KEY": "hunter2"})}
    assert "hunter2" not in repr(shown)
    assert (shown["TOCSIN_API_KEY"].value, shown["TOCSIN_API_KEY"].origin) == ("set", "environment")
    assert (shown["TOCSIN_SECRET_KEY"].value, shown["TOCSIN_SECRET_KEY"].origin) == ("set", ".env")
    assert shown["TOCSIN_BASE_URL"].value == "https://••••@alarm.example.com"
    assert (shown["TOCSIN_PORT"].value, shown["TOCSIN_PORT"].default) == (None, "8700")


def test_a_secret_from_a_file_is_listed_by_that() -> None:
    shown = {option.variable: option for option in shown_options({"TOCSIN_API_KEY_FILE": "/run/key"}, {})}
    assert (shown["TOCSIN_API_KEY"].value, shown["TOCSIN_API_KEY"].origin) == ("set", "TOCSIN_API_KEY_FILE in .env")


def test_a_unix_socket_may_have_as_long_a_path_as_the_system_takes() -> None:
    path = "/run/" + "s" * 102
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(FileNotFoundError):  # and not "AF_UNIX path too long"
        one.connect(path)
    assert load({"TOCSIN_UNIX_SOCKET": path}, NONE).unix_socket == path
