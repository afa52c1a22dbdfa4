"""The site: pages for people, documents for programs, both of a registry that is only read.

Pages are plain HTML of one request each, made in threads. htmx, where a browser runs it, puts part
of a page in place of the same part of another one: there is no second kind of answer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from share_registry import __version__
from share_registry.errors import InvalidInputError, NotFoundError, ShareRegistryError
from share_registry.http.answers import error_answer, failure_of
from share_registry.http.application import release_routes
from share_registry.http.gate import Gate
from share_registry.http.server import ServeRequest, opened, run_application, token_of
from share_registry.names import SpaceName
from share_registry.outside.files import Outside
from share_registry.registry.registry import Registry
from share_registry.ui.bundle import Assets, read_assets
from share_registry.ui.json_api import add_documents
from share_registry.ui.rendering import templates
from share_registry.ui.safe_headers import SafeHeaders
from share_registry.ui.telemetry import Meter, Telemetry, registry_lines
from share_registry.ui.views.page import Page, Site, View
from share_registry.ui.views.page_table import PAGES

_FOREVER: Final = "public, max-age=31536000, immutable"
_ABSENT: Final = 404
_OK: Final = 200
_BAD: Final = 400
_METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"
_DOCUMENTS: Final = "/v1/"


def run_site(request: ServeRequest, *, outside: Outside, tell: Callable[[str], object]) -> None:
    """Answer requests until the process is asked to end; as `run_server`."""
    with site_of(request, outside) as app:
        run_application(app, request, tell=tell)


@contextmanager
def site_of(request: ServeRequest, outside: Outside) -> Iterator[ASGIApp]:
    """Yield the application over an open registry. Raises as `run_server`."""
    token = token_of(request, outside)
    with opened(request, outside) as service:
        context, space = service.adapters.registry()
        registry = Registry(context, None if space is None else SpaceName(space))
        if space is not None:
            _require_space(registry, space)
        bundle = read_assets(outside)
        telemetry = Telemetry()
        # of a path its end: where it is on this machine is nobody else's matter
        stores = () if context.beside is None else _names_of(context.beside, outside)
        site = Site(registry=registry, service=service, stores=stores)
        pages = templates(bundle, name=registry.location.rstrip("/").rpartition("/")[2])
        app = _documents(site)
        app.router.routes += [
            *release_routes(service),
            Route("/metrics", partial(_metrics, site, telemetry)),
            Route("/assets/{name}", partial(_asset, bundle)),
            *(Route(path, partial(_answer, site, pages, view)) for path, view in PAGES.items()),
        ]
        fail = partial(_failure, site, pages)
        app.exception_handlers |= {
            _ABSENT: partial(_absent, site, pages),
            RequestValidationError: _malformed,
            ShareRegistryError: fail,
            Exception: fail,
        }
        gate = Gate(app, host=request.host, token=token, basic=True)
        meter = Meter(gate, telemetry=telemetry, outside=outside, routes=app.router.routes)
        yield SafeHeaders(meter)


def _require_space(registry: Registry, space: str) -> None:
    """Raise NotFoundError where there is no such space; what else is wrong with it, pages say."""
    try:
        registry.space(space)
    except NotFoundError:
        raise
    except ShareRegistryError:
        return


def _names_of(folder: Path, outside: Outside) -> tuple[str, ...]:
    """Return what messages may call a directory, the longest first."""
    names = {str(folder), str(outside.absolute(folder)), str(outside.resolved(folder))}
    return tuple(sorted(names - {"."}, key=len, reverse=True))


def _documents(site: Site) -> FastAPI:
    """Return an application that answers with documents, and describes them."""
    app = FastAPI(
        title="share-registry",
        version=__version__,
        description="The documents that `share-registry VERB --json` prints.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.site = site
    add_documents(app)
    # described before HEAD is answered too
    app.openapi()
    for route in app.router.routes:
        if isinstance(route, APIRoute):
            route.methods = {*(route.methods or ()), "HEAD"}
    return app


async def _answer(site: Site, pages: Environment, view: View, request: Request) -> Response:
    limiter = site.heavy if view.is_heavy else site.light
    page = await run_sync(view.show, site, request, limiter=limiter)
    render = partial(_html, pages, page, path=request.url.path)
    return await run_sync(render, limiter=site.light)


def _html(
    pages: Environment, page: Page, *, path: str, status: int = 200, **options: Any
) -> HTMLResponse:
    members = {"title": page.title, "path": path, **page.members}
    text = pages.get_template(page.template).render(members)
    return HTMLResponse(text, status_code=status, **options)


async def _asset(bundle: Assets, request: Request) -> Response:
    asset = bundle.files.get(request.path_params["name"])
    if asset is None:
        raise NotFoundError("there is no such file.", hint="Load the page again.")
    headers = {"Cache-Control": _FOREVER}
    return Response(asset.content, media_type=asset.media_type, headers=headers)


async def _metrics(site: Site, telemetry: Telemetry, _: Request) -> Response:
    lines = await run_sync(registry_lines, site.registry, limiter=site.light)
    return Response("\n".join([*telemetry.lines(), *lines, ""]), media_type=_METRICS)


async def _absent(site: Site, pages: Environment, request: Request, _: Exception) -> Response:
    error = NotFoundError(
        "there is nothing under this path.", hint="Begin at the first page, or at /openapi.json."
    )
    return await _failure(site, pages, request, error)


async def _malformed(_: Request, error: Exception) -> Response:
    """Refuse arguments of a document that are none."""
    faults = error.errors() if isinstance(error, RequestValidationError) else ()
    said = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in faults)
    refused = InvalidInputError(f"{said}.", hint="/openapi.json says what is asked for.")
    return error_answer(refused, status=_BAD)


async def _failure(site: Site, pages: Environment, request: Request, error: Exception) -> Response:
    path = request.url.path
    typed = request.query_params.values()
    failure = failure_of(error, asked=path, typed=typed, stores=site.stores)
    if path.startswith(_DOCUMENTS):
        return error_answer(failure.told, status=failure.status, headers=failure.headers)
    page = Page(template="error.html", title="Not shown", members={"error": failure.told})
    # a list that is fetched anew is replaced by what was wrong, which only a success is let to do
    is_part = request.headers.get("HX-Request") == "true"
    status = _OK if is_part else failure.status
    return _html(pages, page, path=path, status=status, headers=failure.headers)
