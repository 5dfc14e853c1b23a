"""Starts the service once the options are known."""

from tocsin.cli import show
from tocsin.cli.check import names
from tocsin.cli.options import load_settings, set_values


def start(
    host: str | None = None,
    port: int | None = None,
    unix_socket: str | None = None,
    data_dir: str | None = None,
    role: str | None = None,
) -> int:
    """Serve until told to stop; returns the exit code. Raises Failure if the settings cannot be used."""
    settings = load_settings(host=host, port=port, unix_socket=unix_socket, data_dir=data_dir, role=role)
    for typo in names(set_values()):
        show.complain(typo.text)
    from tocsin import serving

    return serving.serve(settings)
