"""A server of a registry: from the options of `serve` to a process that answers."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from share_registry.errors import InvalidInputError, NotFoundError, ensure
from share_registry.http.application import Service, application
from share_registry.http.connections import WatchedConnection
from share_registry.http.gate import check_token
from share_registry.http.releases import Releases
from share_registry.kinds import FilePath
from share_registry.names import alias_name
from share_registry.outside.files import Outside
from share_registry.outside.listening import listen, port_of
from share_registry.registry.checkout.version_export import ExportOptions
from share_registry.registry.delivery.alias_targets import live_refs
from share_registry.registry.location import locate, require_apart
from share_registry.serving.adapter_cache import AdapterCache
from share_registry.serving.served_adapters import ServedAdapters, ServingPlaces

TOKEN: Final = "SHARE_REGISTRY_SERVE_TOKEN"
_MAX_TOKEN_BYTES: Final = 4096
_GIGABYTE: Final = 10**9
# From the finding of a file to its opening; an open file outlives its name
_KEEP_S: Final = 60.0
_MOST_CONNECTIONS: Final = 512
_ENDING_S: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """What is to be served, where and to whom.

    Attributes:
        registry: Place of the registry; None for the library's default.
        store: Place of its store, with a catalog's URL.
        space: Of one space alone; None for all.
        alias: What stands behind it is listed.
        profile: Of the exports; None for the first that the target reads rightly, else native.
        target: The server that they are for; None for any.
        base_config: config.json of the base model, for llama.cpp.
        base_model: What the configs name as base model; None for what they named.
        host: Where to listen.
        port: 0 for any that is free.
        token_file: Has what requests must bring.
        cache: Directory for what was exported; None for a temporary one.
        cache_gb: What it may hold, in 10^9 bytes.
    """

    registry: FilePath | None
    store: FilePath | None
    space: str | None
    alias: str = "prod"
    profile: str | None = None
    target: str | None = None
    base_config: FilePath | None = None
    base_model: str | None = None
    host: str
    port: int
    token_file: FilePath | None
    cache: FilePath | None = None
    cache_gb: float = 20.0


def run_server(request: ServeRequest, *, outside: Outside, tell: Callable[[str], object]) -> None:
    """Answer requests until the process is asked to end.

    Args:
        request: What and where.
        outside: Files.
        tell: Called with a line about the alias, where nothing has it, and one with the address,
            once it is listened at.

    Raises:
        InvalidInputError: an option, the token or the address cannot be used.
        RefusedError: other machines can reach it and there is no token.
        ShareRegistryError: the registry cannot be opened.
    """
    with served(request, outside, tell) as app:
        run_application(app, request, tell=tell)


def run_application(app: ASGIApp, request: ServeRequest, *, tell: Callable[[str], object]) -> None:
    """Answer requests with an application. Arguments and errors as of `run_server`."""
    with closing(listen(request.host, request.port)) as listener:
        host = f"[{request.host}]" if ":" in request.host else request.host
        tell(f"serving at http://{host}:{port_of(listener)}; Ctrl-C ends it")
        # the server repeats the signal that ended it
        with suppress(KeyboardInterrupt):
            uvicorn.Server(server_config(app)).run(sockets=[listener])


def server_config(app: ASGIApp) -> uvicorn.Config:
    """Return how an application is served: to so many connections, and none that is idle."""
    return uvicorn.Config(
        app,
        http=WatchedConnection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_ENDING_S,
    )


@contextmanager
def served(
    request: ServeRequest, outside: Outside, tell: Callable[[str], object]
) -> Iterator[Starlette]:
    """Yield the application over an open registry. Arguments and errors as of `run_server`."""
    token = token_of(request, outside)
    with opened(request, outside) as service:
        context, space = service.adapters.registry()
        try:
            live_refs(context, service.alias, space=space)
        except NotFoundError as error:
            # it may be set while this runs
            tell(f"{error.message} /v1/models lists nothing until one has. {error.hint}")
        yield application(service, host=request.host, token=token)


@contextmanager
def opened(request: ServeRequest, outside: Outside) -> Iterator[Service]:
    """Yield what is answered from: an open registry, and a cache. Raises as `run_server`."""
    alias = alias_name(request.alias)
    places = ServingPlaces(
        registry=request.registry,
        store=request.store,
        space=request.space,
        options=ExportOptions(
            profile=request.profile, target=request.target, base_config=request.base_config
        ),
        relabel=request.base_model is not None,
    )
    ensure(
        0 < request.cache_gb < float("inf"),
        InvalidInputError(
            f"a cache of {request.cache_gb} gigabytes holds nothing.",
            hint="Give cache_gb=20, or leave it out.",
        ),
    )
    place = locate(request.registry, store=request.store, outside=outside)
    with _cache_folder(request, outside) as root:
        require_apart(root, place, outside)
        cache = AdapterCache(
            root,
            limit_bytes=int(request.cache_gb * _GIGABYTE),
            keep_s=_KEEP_S,
            outside=outside,
            hold=False,
        )
        with closing(ServedAdapters(places, cache, outside)) as adapters:
            # what cannot be opened is said now
            adapters.registry()
            releases = Releases(adapters, cache, base_model=request.base_model, outside=outside)
            yield Service(adapters=adapters, releases=releases, alias=alias)


def token_of(request: ServeRequest, outside: Outside) -> str | None:
    """Return the token that requests must bring. Raises InvalidInputError, RefusedError."""
    if request.token_file is None:
        return check_token(outside.environment(TOKEN), host=request.host)
    # a secret that is mounted is a link
    path = outside.resolved(Path(request.token_file))
    content = outside.read(path, limit=_MAX_TOKEN_BYTES)
    return check_token(content.decode("ascii", errors="replace"), host=request.host)


@contextmanager
def _cache_folder(request: ServeRequest, outside: Outside) -> Iterator[Path]:
    if request.cache is not None:
        yield Path(request.cache)
        return
    root = outside.temporary_directory("share-registry-serve-")
    try:
        yield root
    finally:
        outside.remove_tree(root)
