"""The REST API: one table of endpoints, and the small machine that serves it."""

from starlette.types import ASGIApp

from tocsin.api.routing import Api
from tocsin.api.table import PROBES
from tocsin.flow.service import Service


def make_app(service: Service, otherwise: ASGIApp | None = None) -> Api:
    """The ASGI application for /api and the probes; requests for other paths go to `otherwise`."""
    return Api(service, otherwise)


def make_probes(service: Service) -> Api:
    """The same of a process that only delivers: there is nothing but the probes."""
    return Api(service, endpoints=PROBES)
