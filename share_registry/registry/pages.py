"""Everything of a list, page by page: however long it is, one page at a time is in memory."""

from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from typing import Any, Final, TypeVar

from share_registry import kinds
from share_registry.catalog.sql import MOST
from share_registry.errors import InvalidInputError
from share_registry.kinds import member_of, shown, takes

_T = TypeVar("_T")
_CURSORS: Final = ("before", "after")


@takes(limit=kinds.whole(1, "Give the length of a page.", most=MOST))
def iterate(
    method: Callable[..., Iterable[_T]], /, *arguments: Any, limit: int = 500, **options: Any
) -> Iterator[_T]:
    """Yield what `log` or `tasks` lists, asking for the next page when one is used up.

    Each page is read on its own: commits made meanwhile neither shift nor repeat anything, and are
    not in a log that was begun before.

    Args:
        method: `registry.log`, `registry.tasks`, or that of a space.
        arguments, options: What it is to be called with.
        limit: The length of a page.

    Raises:
        InvalidInputError: something that has no pages.
    """
    cursor = _cursor_of(method)
    page = list(method(*arguments, limit=limit, **options))
    yield from page
    while len(page) == limit:
        page = list(method(*arguments, limit=limit, **options | {cursor: page[-1]}))
        yield from page


def _cursor_of(method: object) -> str:
    try:
        parameters = signature(method).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        # nothing that can be called
        parameters = {}  # type: ignore[assignment]
    for name in _CURSORS:
        if name in parameters:
            return name
    raise InvalidInputError(
        f"{member_of(method, '__name__') or shown(method)!r} lists no pages.",
        hint="Give registry.log or registry.tasks.",
    )
