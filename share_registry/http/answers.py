"""What is sent back: JSON, errors as JSON, and files with ranges.

An answer names no path of this machine and has no traceback: what is wrong inside is in the log.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Final

from starlette.responses import FileResponse, JSONResponse
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from share_registry.errors import (
    CatalogError,
    ConflictError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
)
from share_registry.escapes import json_text, one_line

_LOG: Final = logging.getLogger(__name__)
# Of the error family; every other is a fault of the server
_STATUSES: Final[Mapping[type[ShareRegistryError], int]] = {
    InvalidInputError: 400,
    NotFoundError: 404,
    RefusedError: 422,
    CatalogError: 503,
    ConflictError: 503,
    StoreError: 503,
}
_FAULT: Final = 500
_UNAVAILABLE: Final = 503
_RETRY_S: Final = "5"
# What begins like a path of this machine; references begin with a name, our own paths like these
_PLACE: Final = re.compile(
    r"""(?<![\w/.)\]-])/(?!v1/|openapi\.json)[^\s/'"`]|\b[A-Za-z]:\\|\bfile:/"""
)
_END_OF_WORD: Final = re.compile(r"""[\s'"`]|$""")
_SEE_LOG: Final = "The log of the server has the reason."
_JSON_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class JsonAnswer(JSONResponse):
    """A JSON document, in which nothing reorders letters or drives a terminal."""

    def __init__(
        self, content: object, *, status_code: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(content, status_code, headers={**_JSON_HEADERS, **(headers or {})})

    @override
    def render(self, content: object) -> bytes:
        return json_text(content).encode()


class FileAnswer(FileResponse):
    """A file, whole or in ranges. A range that it does not have is refused as JSON."""

    chunk_size = 1 << 20

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused: list[JsonAnswer] = []

        async def pass_on(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused.append(_no_such_range(message))
            if not refused:
                await send(message)

        await super().__call__(scope, receive, pass_on)
        for answer in refused:
            await answer(scope, receive, send)


def error_answer(
    error: ShareRegistryError, *, status: int, headers: Mapping[str, str] | None = None
) -> JsonAnswer:
    """Return an error as the command line prints it with `--json`."""
    document = {
        "error": error.public_name,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }
    return JsonAnswer(document, status_code=status, headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is said of a request that failed, and with which status."""

    status: int
    told: ShareRegistryError

    @property
    def headers(self) -> Mapping[str, str]:
        """When to try again, where that helps."""
        return {"Retry-After": _RETRY_S} if self.status == _UNAVAILABLE else {}


def failure_answer(error: Exception, *, asked: str) -> JsonAnswer:
    """Return what is said of a request that failed, as JSON; see `failure_of`."""
    failure = failure_of(error, asked=asked)
    return error_answer(failure.told, status=failure.status, headers=failure.headers)


def failure_of(
    error: Exception, *, asked: str, typed: Iterable[str] = (), stores: Sequence[str] = ()
) -> Failure:
    """Return what is said of a request that failed.

    What would name a path of this machine is only logged, unless it is the client's own text.

    Args:
        error: Why. What is not the client's fault is logged, and of that only damage and newer
            formats are told.
        asked: What was asked for.
        typed: What else the client wrote.
        stores: Under which names the directory of the store goes: its files are told without.
    """
    if not isinstance(error, ShareRegistryError):
        _LOG.error("%s is not served", one_line(asked), exc_info=error)
        told = ShareRegistryError(f"{asked} cannot be served.", hint=_SEE_LOG)
        return Failure(status=_FAULT, told=told)
    kinds = (kind for kind in _STATUSES if isinstance(error, kind))
    status = _STATUSES.get(next(kinds, type(error)), _FAULT)
    told = relative(error, stores)
    names_place = _names_place(told, (asked, *typed))
    if status < _FAULT and not names_place:
        return Failure(status=status, told=told)
    _LOG.warning("%s is not served: %s", one_line(asked), error)
    if status < _FAULT:
        told = type(error)(f"{asked} cannot be answered.", hint=_SEE_LOG)
        return Failure(status=status, told=told)
    if status == _UNAVAILABLE:
        told = type(error)(f"{asked} cannot be read now.", hint=f"Try again. {_SEE_LOG}")
        return Failure(status=status, told=told)
    if names_place or not isinstance(error, IntegrityError | FormatError):
        told = type(error)(f"{asked} is damaged, or of a newer format.", hint=_SEE_LOG)
    else:
        told = told.amended(prefix=f"{asked} cannot be read: ")
    return Failure(status=status, told=told)


def relative(error: ShareRegistryError, stores: Sequence[str]) -> ShareRegistryError:
    """Return an error that names files of the store relative to it."""
    told = copy(error)
    told.message = inside(error.message, stores)
    told.hint = inside(error.hint, stores)
    return told


def inside(text: str, stores: Sequence[str]) -> str:
    """Return a text in which files of the store are named relative to it."""
    for store in stores:
        text = text.replace(f"{store}/", "")
    return text


def _names_place(error: ShareRegistryError, asked: Iterable[str]) -> bool:
    """Tell whether an error names a path that nobody asked about."""
    for text in (error.message, error.hint):
        for match in _PLACE.finditer(text):
            end = _END_OF_WORD.search(text, match.start())
            place = text[match.start() : end.start() if end else None].rstrip(".,:;)")
            if not any(place in each for each in asked):
                return True
    return False


def _no_such_range(start: Message) -> JsonAnswer:
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in start["headers"]
        if name == b"content-range"
    }
    error = InvalidInputError(
        "the file has no such range.", hint="Ask with HEAD for its size, or leave out Range."
    )
    return error_answer(error, status=start["status"], headers=headers)
