"""Replay logs into a catalog: the one path by which records reach its rows.

Records, notes and layouts are read and parsed outside any transaction; a batch of them is then
applied in one.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.engine import WAIT_S
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.lookups import Head
from share_registry.errors import IntegrityError
from share_registry.names import CommitNumber, SpaceName
from share_registry.registry.log_ends import (
    LOG_ERRORS,
    LogEnds,
    LogError,
    check_hole,
    ended,
    hole,
    kept_end,
    probes,
)
from share_registry.registry.log_entries import LogEntry, batches, read_replacements

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.store.protocol import Store


def replay_in_memory(store: "Store") -> tuple[Catalog, LogEnds]:
    """Return a catalog in memory with what the store has, in place of one that cannot be used.

    Beside it how the logs end, as `follow` does.
    """
    catalog = Catalog.in_memory(store.identity)
    damage = fill(store, catalog)
    unknown = {
        space: ended(error, space, last_commit(catalog, space)) for space, error in damage.items()
    }
    return catalog, LogEnds(unknown=unknown)


def sound_end(store: "Store", space: SpaceName) -> tuple[CommitNumber, LogError | None]:
    """Return the last commit up to which a log is sound, 0 for none, and what is wrong behind."""
    with closing(Catalog.in_memory(store.identity)) as catalog:
        damage = fill(store, catalog, spaces=[space])
        return last_commit(catalog, space), damage.get(space)


def fill(
    store: "Store", catalog: Catalog, *, spaces: Sequence[SpaceName] | None = None
) -> dict[SpaceName, LogError]:
    """Fill an empty catalog with what can be read: where a log is damaged, with what comes before.

    Args:
        store: The store.
        catalog: The catalog.
        spaces: Those to fill it with; None for all.

    Returns:
        The damage by space.
    """
    damage: dict[SpaceName, LogError] = {}
    for space in store.spaces() if spaces is None else spaces:
        try:
            apply_new(store, catalog, space)
        except LOG_ERRORS as error:
            damage[space] = error
    return damage


def fill_again(session: "Session", store: "Store", space: SpaceName) -> None:
    """Empty the rows of one space and fill them from its log, in a transaction of the caller.

    Raises IntegrityError, FormatError or StoreError.
    """
    from share_registry.catalog.projection.apply import wipe

    wipe(session, space)
    for entries in batches(store, space, 1):
        apply_entries(session, store, entries)


def fill_up_to(
    store: "Store", catalog: Catalog, space: SpaceName, last: CommitNumber | None
) -> None:
    """Apply the records of a space that a catalog lacks, up to a number; None for all.

    Raises what ends the log before: IntegrityError, FormatError, StoreError.
    """
    _apply_all(store, catalog, space, last_commit(catalog, space), until=last)


def apply_new(
    store: "Store",
    catalog: Catalog,
    space: SpaceName,
    head: Head | None = None,
    *,
    wait_s: float = WAIT_S,
) -> None:
    """Apply every record behind the head that a catalog has, and raise what ends the log.

    What another process applies meanwhile changes nothing.
    """
    if head is None and not catalog.is_in_memory:
        _check_visible(store, space)
    last = head.number if head else CommitNumber(0)
    kept = kept_end(store, space, last)
    until = kept[0] if kept else None
    last = _apply_all(store, catalog, space, last, until=until, wait_s=wait_s)
    check_ended(store, space, head, last, kept)


def last_commit(catalog: Catalog, space: SpaceName) -> CommitNumber:
    """Return the last commit of a space that a catalog has, 0 where it has none."""
    with catalog.begin() as session:
        head = lookups.head(session, space)
    return CommitNumber(0) if head is None else head.number


def _check_visible(store: "Store", space: SpaceName) -> None:
    """Check that a catalog which stops at a hole will see, by a probe, that the log goes on.

    Raises IntegrityError.
    """
    numbers = store.numbers(space)
    missing = next((n for n, number in enumerate(numbers, start=1) if n != number), None)
    if missing is not None and store.first_record(space, probes(CommitNumber(missing))) is None:
        raise hole(space, missing, numbers[-1])


def check_ended(
    store: "Store",
    space: SpaceName,
    head: Head | None,
    last: CommitNumber,
    kept: tuple[CommitNumber, IntegrityError] | None,
) -> None:
    """Check that a log ends where it was read to. Raises IntegrityError."""
    if kept is not None:
        raise kept[1]
    if head is None:
        check_hole(space, store.numbers(space))
    present = store.first_record(space, probes(CommitNumber(last + 1)))
    # the very next one has come meanwhile
    if present is not None and present != last + 1:
        raise hole(space, last + 1, present)


def _apply_all(
    store: "Store",
    catalog: Catalog,
    space: SpaceName,
    before: CommitNumber,
    *,
    until: CommitNumber | None = None,
    wait_s: float = WAIT_S,
) -> CommitNumber:
    """Apply the records behind a number, up to another; return the last. Raises what ends them."""
    last = before
    for entries in batches(store, space, before + 1, until):
        try:
            _apply_some(store, catalog, space, entries, until, wait_s)
        except IntegrityError:
            # one of them does not follow: those before it do
            for entry in entries:
                _apply_some(store, catalog, space, [entry], until, wait_s)
        last = CommitNumber(last + len(entries))
    return last


def _apply_some(
    store: "Store",
    catalog: Catalog,
    space: SpaceName,
    entries: Sequence[LogEntry],
    until: CommitNumber | None,
    wait_s: float,
) -> None:
    """Apply entries in one transaction."""
    with catalog.begin(write=True, space=space, wait_s=wait_s) as session:
        if not catalog.is_in_memory and not store.read_only:
            # what a catalog keeps must not be lost by the store; under its lock, so that nobody
            # waits here for the flush of a writer that hangs
            store.sync_log(space)
        apply_entries(session, store, entries, until)


def apply_entries(
    session: "Session",
    store: "Store",
    entries: Sequence[LogEntry],
    until: CommitNumber | None = None,
) -> None:
    """Apply entries, in a transaction of the caller. Arguments and errors as of `apply_entry`."""
    for entry in entries:
        apply_entry(session, store, entry, until)


def apply_entry(
    session: "Session", store: "Store", entry: LogEntry, until: CommitNumber | None = None
) -> None:
    """Apply one entry, in a transaction of the caller.

    What earlier records said of a task that was purged is nowhere any more, and rows do not show
    from which note they are. So where an entry replaces notes or objects that rows name, the space
    is filled again, with what is read in their place from the beginning: what a catalog holds
    follows from the records and from what is left of the notes, whenever it was made.

    Args:
        session: The transaction.
        store: The store.
        entry: The entry.
        until: The last commit that is applied; None for the last of the log. Replacements up to
            there are known at once, so that a space with many is filled once.

    Raises:
        IntegrityError, FormatError, StoreError: the space has to be filled again, and cannot.
    """
    from share_registry.catalog.projection.apply import is_stale, wipe
    from share_registry.format.named_objects import replacements

    space, number = SpaceName(entry.record.space), CommitNumber(entry.record.number)
    if not entry.removes or not _is_next(session, entry) or not is_stale(session, entry.record):
        _apply_one(session, entry)
        return
    replaced = [*read_replacements(store, space, until)]
    last = CommitNumber(max((purge for purge, _ in replaced), default=0))
    if last < number:
        # about to be published
        entry = replace(entry, replaced=[*replaced, (number, replacements(entry.record))])
        last, replaced = CommitNumber(number - 1), [*entry.replaced]
    wipe(session, space)
    for entries in batches(store, space, 1, last, replaced):
        for earlier in entries:
            _apply_one(session, earlier)
    # is there already, where the log has it
    _apply_one(session, entry)


def _is_next(session: "Session", entry: LogEntry) -> bool:
    head = lookups.head(session, entry.record.space)
    return head is not None and head.number + 1 == entry.record.number


def _apply_one(session: "Session", entry: LogEntry) -> None:
    from share_registry.catalog.projection.apply import apply

    apply(
        session,
        record=entry.record,
        id=entry.id,
        note=entry.note,
        layouts=entry.layouts,
        replaced=entry.replaced,
    )
