"""Checks of the meaning of logs, and of the catalog against them.

A log is followed from its beginning into a catalog in memory: that shows whether each record is
possible after those before it. On the way, where the registry's own catalog has come to, all rows
of the two are compared. What the catalog has from notes and layouts that are not there any more is
left out. One space at a time is held in memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.all_rows import (
    OF_LAYOUTS,
    OF_NOTES,
    SINCE_OF_LAYOUTS,
    Rows,
    rows_of_space,
)
from share_registry.catalog.sql import Session
from share_registry.errors import CatalogError, FormatError, ShareRegistryError
from share_registry.look.units import count
from share_registry.names import Digest, SpaceName
from share_registry.registry.audit.walk import Walk
from share_registry.registry.context import Context
from share_registry.registry.log_ends import LOG_ERRORS
from share_registry.registry.log_entries import read_layout
from share_registry.registry.replay import fill_up_to
from share_registry.values.checks import Outcome

CODE: Final = "CATALOG"
# Rows of a table that are named each
_NAMED: Final = 4
_TRIES: Final = 5


def check_meaning(walk: Walk, context: Context, spaces: Sequence[SpaceName]) -> None:
    """Follow every sound log of some spaces, and compare the catalog with it."""
    unsound = walk.unsound_spaces()
    for space in spaces:
        # a log with damage cannot be followed; what is wrong with it is said already
        if space not in unsound:
            with closing(Catalog.in_memory()) as replayed:
                _check_space(walk, context, space, replayed)


def _check_space(walk: Walk, context: Context, space: SpaceName, replayed: Catalog) -> None:
    try:
        # what stands in for the catalog was made of the records just now
        if context.kept is not None and not context.kept.is_in_memory:
            _compare_catalog(walk, context.kept, space, replayed)
        fill_up_to(walk.store, replayed, space, None)
    except FormatError:
        # said already
        pass
    except LOG_ERRORS as error:
        walk.add_of_log(space, "COM-04", f"space {space}", error.message)
    with replayed.begin() as session:
        versions = version_lookups.all_versions(session)
    files = {
        row.ref: walk.files.get((row.note_digest, row.note_task), [None])
        for row in versions
        if row.removed is None
    }
    digests = {digest for named in files.values() for digest in named if digest is not None}
    there = set(filter(walk.store.has, digests))
    # spec NOT-04, NOT-06
    walk.unexportable += [ref for ref, named in files.items() if not there.issuperset(named)]


def _compare_catalog(walk: Walk, catalog: Catalog, space: SpaceName, replayed: Catalog) -> None:
    """Compare the rows of a space with what its log makes, up to the head that a catalog has.

    Raises IntegrityError, FormatError, StoreError as following the log does.
    """
    without = _gone(walk, space)
    try:
        for _ in range(_TRIES):
            with catalog.begin() as session:
                head = lookups.head(session, space)
                if head is None:
                    return
                fill_up_to(walk.store, replayed, space, head.number)
                # notes that were purged behind the catalog's head may be gone
                is_behind = any(number > head.number for number in walk.ledgers[space].purges)
                left_out = without | (OF_NOTES if is_behind else frozenset())
                with replayed.begin() as expected:
                    differences = [*_differences(session, expected, space, left_out)]
                # while somebody commits, its rows are compared again
                if not differences or lookups.head(session, space) == head:
                    break
        else:
            return
    except CatalogError as error:
        differences = [(f"catalog {catalog.safe_url}", f"cannot be read: {error.message}")]
    for subject, message in differences:
        walk.add(CODE, subject, message, outcome=Outcome.CATALOG)


def _differences(
    session: Session, expected: Session, space: SpaceName, without: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """Yield the rows that differ, and how: a few of each table, and how many more there are."""
    tables = zip(
        rows_of_space(session, space, without=without),
        rows_of_space(expected, space, without=without),
        strict=True,
    )
    for (table, actual), (_, recorded) in tables:
        differing = sorted(
            (key for key in {*actual, *recorded} if _differs(actual.get(key), recorded.get(key))),
            key=repr,
        )
        for key in differing[:_NAMED]:
            yield f"{table} {' '.join(map(str, key))}", _difference(key, actual, recorded)
        if len(differing) > _NAMED:
            more = count(len(differing) - _NAMED, "more row")
            yield f"{table} {space}", f"{more} of the space are not what the log says."


def _differs(actual: dict[str, Any] | None, recorded: dict[str, Any] | None) -> bool:
    if actual is None or recorded is None:
        return True
    # a catalog upgraded from its first schema does not know the norm
    return any(
        actual[name] != recorded[name] and not (name == "norm" and actual[name] == 0)
        for name in recorded
    )


def _difference(key: tuple[Any, ...], actual: Rows, recorded: Rows) -> str:
    if key not in actual:
        return "the catalog lacks the row, which the log makes."
    if key not in recorded:
        return "the catalog has the row, which the log does not make."
    row, expected = actual[key], recorded[key]
    name = next(name for name in row if _differs({name: row[name]}, {name: expected[name]}))
    return f"{name} is {row[name]!r} in the catalog, {expected[name]!r} in the log."


def _gone(walk: Walk, space: SpaceName) -> frozenset[str]:
    """Return what cannot be compared, as the notes or layouts that said it are not there."""
    ledger = walk.ledgers[space]
    own = (*ledger.kept.values(), *ledger.removed.values())
    layouts = {Digest(version.entry.layout) for version in own}
    is_readable = all(_can_read(walk, layout) for layout in layouts)
    # a layout that was gone, and came again with a later version
    since = SINCE_OF_LAYOUTS if ledger.removed else frozenset()
    return (OF_NOTES if space in walk.without_notes() else frozenset()) | (
        since if is_readable else OF_LAYOUTS
    )


def _can_read(walk: Walk, layout: Digest) -> bool:
    try:
        read_layout(walk.store, layout)
    except ShareRegistryError:
        return False
    return True
