"""The application: which path is answered with what.

What waits for the registry, computes or reads whole files runs in a few threads of its own; what
only looks at a file, and the sending of files, in those of the server.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from share_registry.errors import NotFoundError, ShareRegistryError, StoreError
from share_registry.escapes import printable
from share_registry.http.answers import FileAnswer, JsonAnswer, error_answer, failure_answer
from share_registry.http.gate import HEALTH, Gate
from share_registry.http.releases import Release, Releases
from share_registry.registry.checkout.checkout import base_label
from share_registry.registry.delivery.alias_targets import AliasTarget, alias_targets
from share_registry.registry.delivery.served_index import is_served_name
from share_registry.serving.served_adapters import ServedAdapters

# Requests that compute or read whole files at a time: each may have an adapter in memory
_THREADS: Final = 4
# What has its digest in its name never changes
_FOREVER: Final = "max-age=31536000, immutable"
_ABSENT: Final = 404


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the paths are answered from.

    Attributes:
        adapters: The registry.
        releases: Its files.
        alias: What stands behind it is listed.
        heavy: Bounds the requests that compute at a time.
    """

    adapters: ServedAdapters
    releases: Releases
    alias: str
    heavy: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_THREADS))


def application(service: Service, *, host: str, token: str | None) -> Starlette:
    """Return the application, for an ASGI server.

    Args:
        service: What it answers from.
        host: Where the server listens.
        token: What requests must bring; None asks for none.
    """
    app = Starlette(
        routes=release_routes(service),
        middleware=[Middleware(Gate, host=host, token=token)],
        exception_handlers={
            _ABSENT: _no_such_path,
            ShareRegistryError: _failure,
            Exception: _failure,
        },
    )
    # to an address that the request made up
    app.router.redirect_slashes = False
    return app


def release_routes(service: Service) -> list[Route]:
    """Return which path is answered with what."""
    return [
        Route(HEALTH, _health),
        Route("/v1/models", partial(_models, service)),
        Route("/v1/resolve/{ref:path}", partial(_resolve, service)),
        Route("/v1/adapters/{name}/{file}", partial(_download, service)),
    ]


async def _health(_: Request) -> Response:
    return JsonAnswer({"status": "ok"})


async def _models(service: Service, _: Request) -> Response:
    return JsonAnswer(await run_sync(_list_models, service, limiter=service.heavy))


async def _resolve(service: Service, request: Request) -> Response:
    ref = request.path_params["ref"]
    row, release = await run_sync(service.releases.resolve, ref, limiter=service.heavy)
    return JsonAnswer({"ref": row.ref, **_document(release)})


async def _download(service: Service, request: Request) -> Response:
    name, file = request.path_params["name"], request.path_params["file"]
    if not is_served_name(name):
        raise NotFoundError(
            "this is no immutable name of a version.",
            hint="Ask /v1/resolve/REF, which says it.",
        )
    release = service.releases.recall(name)
    if release is None:
        release = await run_sync(service.releases.load, name, limiter=service.heavy)
    if file not in release.files:
        raise NotFoundError(
            f"{name} has no such file.", hint=f"It has {', '.join(map(printable, release.files))}."
        )
    headers = {
        "Cache-Control": _FOREVER,
        "ETag": f'"{release.files[file].sha256}"',
        "X-Content-Type-Options": "nosniff",
    }
    if _has_already(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    path = await _place(service, release, file)
    # never as what a browser would show: the file is somebody else's
    return FileAnswer(path, headers=headers, media_type="application/octet-stream")


async def _place(service: Service, release: Release, file: str) -> Path:
    """Return where a file is, the directory put right or made again where it must be."""
    path = await run_sync(service.releases.path, release, file)
    if path is None:
        release = await run_sync(service.releases.load, release.name, limiter=service.heavy)
        path = await run_sync(service.releases.path, release, file)
    if path is None:
        raise StoreError(
            f"{release.name} does not stay in the cache.", hint="Give the cache more room."
        )
    return path


async def _no_such_path(_: Request, __: Exception) -> Response:
    absent = NotFoundError(
        "there is nothing under this path.",
        hint="Ask /v1/models, /v1/resolve/REF or /v1/adapters/NAME/FILE.",
    )
    return error_answer(absent, status=_ABSENT)


async def _failure(request: Request, error: Exception) -> Response:
    return failure_answer(error, asked=request.url.path)


def _has_already(request: Request, tag: str) -> bool:
    """Tell whether a client says that it has a file."""
    tags = ",".join(request.headers.getlist("if-none-match")).split(",")
    return any(each.strip().removeprefix("W/") in (tag, "*") for each in tags)


def _document(release: Release) -> Mapping[str, object]:
    return {
        "name": release.name,
        "digest": release.digest,
        "files": [
            {
                "path": name,
                "size": file.size_bytes,
                "sha256": file.sha256,
                "url": f"/v1/adapters/{release.name}/{quote(name, safe='')}",
            }
            for name, file in sorted(release.files.items())
        ],
    }


def _list_models(service: Service) -> Mapping[str, object]:
    """Return what is behind the alias, in the shape in which servers list models.

    Nothing is decoded for it: digests are those of the catalog, compared with the log.
    """
    context, space = service.adapters.registry()
    try:
        targets = alias_targets(context, service.alias, space=space)
    except NotFoundError:
        # no task has the alias yet
        targets = []
    label_of = cache(partial(base_label, context))
    return {
        "object": "list",
        "data": [
            {
                "id": _id(target, service.alias),
                "object": "model",
                "created": int(datetime.fromisoformat(row.time).timestamp()),
                "owned_by": row.space,
                "root": row.ref,
                "parent": label_of(row.space),
                "tensors": row.tensors_digest,
                "url": f"/v1/resolve/{row.ref}",
            }
            for target in targets
            if (row := target.row) is not None and row.live
        ],
        "unreadable": [_id(target, service.alias) for target in targets if target.row is None],
    }


def _id(target: AliasTarget, alias: str) -> str:
    return f"{target.space}/{target.task}@{alias}"
