"""`tocsin serve`, `tocsin demo` and `tocsin selftest`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from tocsin.cli.numbers import Port
from tocsin.cli.start import start

Role = Literal["all", "api", "worker"]


def serve(
    *,
    host: str | None = None,
    port: Port | None = None,
    unix_socket: str | None = None,
    data_dir: str | None = None,
    role: Role | None = None,
) -> int:
    """Run the service until SIGINT or SIGTERM: API, pages and delivery in one process, or one of them beside others on one database.

    Parameters
    ----------
    host
        Address to listen on (TOCSIN_HOST).
    port
        Port to listen on; 0 takes a free one (TOCSIN_PORT).
    unix_socket
        Unix socket to listen on, instead of host and port (TOCSIN_UNIX_SOCKET).
    data_dir
        Folder of the SQLite file and the key file (TOCSIN_DATA_DIR).
    role
        What this process does, with PostgreSQL as the store (TOCSIN_ROLE): api takes requests, worker delivers.
    """
    return start(host, port, unix_socket, data_dir, role)


def selftest(*, quick: bool = False, json: bool = False, postgresql: bool = False, many: bool = False) -> int:
    """Test the promises on this machine: kill, hang, throttle and restart the service, and count what arrives. Takes up to two minutes.

    Everything happens in a throw-away store on loopback and is removed afterwards. Exit code 1 if a promise was broken.

    Parameters
    ----------
    postgresql
        Make the stores in the database that TOCSIN_DATABASE_URL names, each in a schema of its own. Nothing else in it is touched.
    many
        Test several processes on one PostgreSQL database, in about a minute. The server comes with pip install 'tocsin[selftest]'. Where
        TOCSIN_DATABASE_URL names another one, the database is made and dropped there, and that server is not stopped.
    quick
        Run a shorter form of about 20 seconds.
    json
        Print JSON instead of a table.
    """
    from tocsin.cli.options import load_settings
    from tocsin.cli.selftest.command import run_selftest

    if many:
        return run_selftest(quick, json, load_settings().database_url, many=True)
    return run_selftest(quick, json, _database_url() if postgresql else "")


def _database_url() -> str:
    from tocsin.cli.failure import Failure
    from tocsin.cli.options import load_settings

    if url := load_settings().database_url:
        return url
    raise Failure("--postgresql needs TOCSIN_DATABASE_URL: set it to the database to make the stores in.")


def demo(*, port: Annotated[Port, Parameter(env_var="TOCSIN_PORT", show_env_var=False)] = 8700, once: bool = False) -> int:
    """Show everything without any account: a throw-away store, local receivers for all types, and traffic.

    Parameters
    ----------
    port
        Port of the service (TOCSIN_PORT); another free one is taken if it is in use.
    once
        Stop as soon as every type has received one delivery; exit code 1 if that takes more than 30 seconds.
    """
    from tocsin.cli.demo.stage import run_demo

    return run_demo(port, once)
