"""The keys that encrypt at rest: from TOCSIN_SECRET_KEY, or from the key file of the data directory."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tocsin import files
from tocsin.ports.errors import StoreError
from tocsin.settings import Settings
from tocsin.vault import new_secret_key

KEY_FILE = "secret.key"
BYTE_ORDER_MARK = "\ufeff"  # with which some editors begin a file
MIN_CHARACTERS = 16  # in a key for a new store


def given_keys(settings: Settings) -> list[str] | None:
    """The keys of TOCSIN_SECRET_KEY, the one that encrypts first; None if it is not set. Raises StoreError."""
    return None if settings.secret_key is None else _checked("TOCSIN_SECRET_KEY", settings.secret_key.split(","), "comma")


def read_keys(settings: Settings, *, make: bool = False) -> list[str]:
    """The keys, the one that encrypts first. `make`: for a new store, so a missing key file is created, and a weak key refused.

    Raises StoreError.
    """
    file = settings.data_path / KEY_FILE
    keys = given_keys(settings)
    if make and keys is None and not file.exists():
        return [_make(key_file(settings))]
    if make and (weakness := weakness_of(settings)):
        raise StoreError(f"{weakness}: a new store needs a long random one, such as `openssl rand -hex 32` prints.")
    return keys_in(file) if keys is None else keys


def keys_in(file: Path, opener: Callable[[str, int], int] | None = None) -> list[str]:
    """The keys of a key file. Raises StoreError."""
    return [word for line in _lines(file, opener) for word in line.split()]


def source_of(settings: Settings) -> str:
    """Where the keys come from, for sentences."""
    return "TOCSIN_SECRET_KEY" if settings.secret_key is not None else f"the key file {settings.data_path / KEY_FILE}"


def weakness_of(settings: Settings) -> str | None:
    """Why the keys are too weak for a new store, as the beginning of a sentence. Raises StoreError."""
    keys = given_keys(settings)
    if keys is None:
        keys = _lines(settings.data_path / KEY_FILE)
    where = source_of(settings)
    where = where[0].upper() + where[1:]
    if any(len(key) < MIN_CHARACTERS for key in keys):
        return f"{where} holds a key of fewer than {MIN_CHARACTERS} characters"
    if any(len(key.split()) > 1 for key in keys):
        return f"{where} holds a key with blanks in it"
    return None


def key_file(settings: Settings) -> Path:
    """The key file, where it is a link what that leads to, so that it stays a link when it is written. Raises StoreError."""
    file = settings.data_path / KEY_FILE
    try:
        return files.real(file)
    except OSError as error:
        raise StoreError(f"The key file {file} cannot be written: {error.strerror}.") from error


def write_keys(file: Path, keys: Sequence[str]) -> None:
    """Raises StoreError; the file then has these keys, or its old content. See `key_file`: a link would be replaced by a file."""
    try:
        with files.replaced(file) as new, open(new, "w", encoding="utf-8", opener=files.itself) as out:
            out.write("".join(f"{key}\n" for key in keys))
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror}.") from error


def _lines(file: Path, opener: Callable[[str, int], int] | None = None) -> list[str]:
    """The key file's lines, one key on each. Raises StoreError."""
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise StoreError(f"The key file {file} cannot be read: it is not a file.")  # a pipe would be waited for
        with open(file, encoding="utf-8", opener=opener) as source:
            text = source.read()
    except FileNotFoundError:
        raise StoreError(
            f"The store in {file.parent} cannot be opened: its key file {KEY_FILE} is missing. Put it back, or set TOCSIN_SECRET_KEY."
        ) from None
    except OSError as error:
        raise StoreError(f"The key file {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise StoreError(f"The key file {file} cannot be read: it is not text.") from None
    is_marked, text = text.startswith(BYTE_ORDER_MARK), text.removeprefix(BYTE_ORDER_MARK)
    if not text.strip():
        raise StoreError(f"The key file {file} holds no key: put the key back; if there has never been a store, delete the file.")
    keys = _checked(f"The key file {file}", text.strip().split("\n"), "line")
    return [*keys, f"{BYTE_ORDER_MARK}{keys[0]}"] if is_marked else keys  # version 0.1 took the mark for a part of the key


def _checked(where: str, parts: Sequence[str], between: str) -> list[str]:
    keys = [part.strip() for part in parts]
    if not any(keys):
        raise StoreError(f"{where} holds no key: set the key, or leave it unset.")
    if not all(keys):
        raise StoreError(f"{where} holds an empty key: keep one {between} between two keys.")
    return keys


def _make(file: Path) -> str:
    key = new_secret_key()
    write_keys(file, [key])
    return key
