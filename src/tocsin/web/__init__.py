"""The pages: server-rendered, complete without JavaScript, in English and Korean."""

from starlette.types import ASGIApp

from tocsin.flow.service import Service
from tocsin.web.site import Site


def make_pages(service: Service) -> ASGIApp:
    """The ASGI application for every path that is not the API's."""
    return Site(service)
