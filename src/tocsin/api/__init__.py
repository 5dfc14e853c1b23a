"""The REST API: one table of endpoints, and the small machine that serves it."""

from starlette.types import ASGIApp

from tocsin.api.routing import Api
from tocsin.flow.service import Service


def make_app(service: Service, otherwise: ASGIApp | None = None) -> Api:
    """The ASGI application for /api and the probes; requests for other paths go to `otherwise`."""
    return Api(service, otherwise)
