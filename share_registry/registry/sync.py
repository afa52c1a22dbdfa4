"""Bring a catalog up to what the store's logs say: the one path by which records reach a catalog.

Records, notes and layouts are read and parsed outside any transaction; a batch of them is then
applied in one.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Final

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.engine import BRIEF_S, WAIT_S
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.lookups import Head
from share_registry.errors import (
    CatalogError,
    IntegrityError,
    ShareRegistryError,
)
from share_registry.names import CommitNumber, SpaceName, first_and_more
from share_registry.registry.log_ends import (
    LOG_ERRORS,
    LogEnds,
    LogError,
    check_hole,
    compare_heads,
    ended,
    hole,
    id_of,
    is_end,
    kept_end,
    probes,
)
from share_registry.registry.log_entries import BATCH, LogEntry, batches, read_entry
from share_registry.store.protocol import KeptHead
from share_registry.values.sheet import count

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.store.protocol import Store

_LOG: Final = logging.getLogger(__name__)
# Records that are laid over a server's tables for every question: each takes it 10 ms
_FEW: Final = 32


def follow(
    store: "Store", catalog: Catalog, *, write: bool, wait_s: float = WAIT_S
) -> LogEnds | None:
    """Apply every record that the catalog lacks, up to those that cannot be read.

    The head that the catalog knows is compared with the store's record of that number, and the
    records behind it are probed: two small reads a space, no listing of objects. A catalog that
    followed another log of a space (a copy from elsewhere, a restored backup) has that space filled
    again; one that knows more than the store is evidence, and kept. What is wrong with one space
    costs the others nothing.

    Args:
        store: The store.
        catalog: The catalog.
        write: Whether the catalog may be written.
        wait_s: How long to wait for the locks of other processes.

    Returns:
        The spaces whose end is not known or lost; None where the catalog lacks records and may not
        be written.

    Raises:
        ConflictError: another process held a lock for longer.
    """
    heads = _heads(store, catalog, wait_s)
    ends, behind, foreign = compare_heads(store, catalog, heads)
    if not write:
        return None if foreign or _can_follow(store, behind, ends) else ends
    for space in foreign:
        try:
            _refill(store, catalog, space, wait_s=wait_s)
        except LOG_ERRORS as error:
            ends.unknown[space] = ended(error, space, CommitNumber(0))
        else:
            _LOG.warning("the catalog had followed another log of %s; it was made again", space)
    for space, head in behind.items():
        try:
            _apply_new(store, catalog, space, head, wait_s=wait_s)
        except LOG_ERRORS as error:
            ends.unknown[space] = ended(error, space, _last(catalog, space))
    if heads and not any(heads.values()) and not catalog.is_in_memory:
        _warn_of_missing(store, catalog)
    return ends


def stand_in(store: "Store", catalog: Catalog | None, present: Catalog) -> tuple[Catalog, LogEnds]:
    """Return a catalog that has every record, in place of one that lacks some for now.

    The records are laid over what the catalog has. Where that cannot be done (it cannot be read at
    present, it followed another log, a server lacks many records or grants no temporary
    tables), the whole store is replayed, which takes half a millisecond a record.

    Args:
        store: The store.
        catalog: The catalog, which is not written; None where it cannot even be opened.
        present: What answered before. One in memory goes on from where it was.

    Returns:
        The catalog, and how the logs end, as `follow` does.
    """
    if present.is_in_memory:
        return present, _advance(store, present)
    if catalog is None:
        return replay_in_memory(store)
    try:
        heads = _heads(store, catalog, BRIEF_S)
        ends, behind, foreign = compare_heads(store, catalog, heads)
        if foreign:
            return replay_in_memory(store)
        lacking = [_read_behind(store, space, head, ends) for space, head in behind.items()]
        if catalog.is_on_server and sum(map(len, lacking)) > _FEW:
            return replay_in_memory(store)
        overlaid = catalog.overlaid(lambda session: _apply(session, [*chain(*lacking)]))
    except ShareRegistryError as error:
        _LOG.info("the store is read in place of the catalog (%s)", error.message)
        return replay_in_memory(store)
    return overlaid, _advance(store, overlaid) if overlaid.is_in_memory else ends


def _warn_of_missing(store: "Store", catalog: Catalog) -> None:
    """Warn of objects that are not there, once a catalog was made: the store may be a copy."""
    with catalog.begin() as session:
        named = lookups.object_digests(session)
    missing = sorted(digest for digest in named if not store.has(digest))
    if missing:
        _LOG.warning(
            "%s that records name %s not in the store (%s): if it is a copy, it is not whole. "
            "`share-registry verify` names what depends on them, `share-registry repair --from "
            "DIRECTORY` brings them back.",
            count(len(missing), "object"),
            "is" if len(missing) == 1 else "are",
            first_and_more([digest[:12] for digest in missing], 3),
        )


def unchanged(store: "Store", heads: "Mapping[SpaceName, Head]") -> bool:
    """Tell whether the logs of the store are those that end with these heads.

    A listing of the spaces and two small reads for each, no statement.
    """
    if store.spaces(expected=heads) != sorted(heads):
        return False
    return all(is_end(store, space, head) for space, head in heads.items())


def rebuild_catalog(store: "Store", catalog: Catalog, *, wait_s: float = WAIT_S) -> None:
    """Empty a catalog and fill it from the store alone.

    Each space is one transaction: whoever reads or commits meanwhile sees it as it was, or made
    again. Writers wait for it, and with SQLite's rollback journal also readers of a space whose
    rows outgrow the page cache; ConflictError where it takes longer than 30 s, which is some
    10,000 commits.

    Raises:
        IntegrityError, FormatError, StoreError: the log of a space cannot be followed to its end;
            that space is left as it was, the others are made again.
        ConflictError: another process held a lock for longer than `wait_s`.
    """
    from share_registry.catalog.projection.apply import wipe

    damage: dict[SpaceName, LogError] = {}
    spaces = store.spaces()
    with catalog.begin(write=True, wait_s=wait_s) as session:
        # listed again under the lock: a space that came meanwhile is not forgotten
        for space in {*lookups.space_names(session)} - {*store.spaces()}:
            wipe(session, space)
    for space in spaces:
        try:
            _refill(store, catalog, space, wait_s=wait_s)
        except LOG_ERRORS as error:
            damage[space] = error
    if damage:
        space, first = min(damage.items())
        more = f" (and {count(len(damage) - 1, 'more space')})" if len(damage) > 1 else ""
        raise type(first)(
            f"{first.message.removesuffix('.')}{more}: the catalog of space {space} is left as it "
            "was, that of the sound ones is made again.",
            hint=first.hint,
        )


def _refill(store: "Store", catalog: Catalog, space: SpaceName, *, wait_s: float) -> None:
    """Empty and fill the rows of one space. Raises as `_check_log`."""
    _check_log(store, space)
    if not store.read_only:
        store.sync_log(space)
    with catalog.begin(write=True, space=space, wait_s=wait_s) as session:
        fill_again(session, store, space)


def fill_again(session: "Session", store: "Store", space: SpaceName) -> None:
    """Empty the rows of one space and fill them from its log, in a transaction of the caller.

    Raises IntegrityError, FormatError or StoreError.
    """
    from share_registry.catalog.projection.apply import wipe

    wipe(session, space)
    for entries in batches(store, space, 1):
        _apply(session, entries)


def sound_end(store: "Store", space: SpaceName) -> tuple[CommitNumber, LogError | None]:
    """Return the last commit up to which a log is sound, 0 for none, and what is wrong behind."""
    with closing(Catalog.in_memory(store.identity)) as catalog:
        damage = fill(store, catalog, spaces=[space])
        return _last(catalog, space), damage.get(space)


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
            _apply_new(store, catalog, space)
        except LOG_ERRORS as error:
            damage[space] = error
    return damage


def keep_heads(store: "Store", catalog: Catalog) -> None:
    """Note in the store how its logs end, as a catalog that was just made of them knows."""
    with catalog.begin() as session:
        heads = lookups.heads(session)
    for space, head in heads.items():
        store.keep_head(space, KeptHead(number=head.number, id=head.id))


def forgotten(store: "Store", catalog: Catalog) -> list[str]:
    """Return what a rebuild would forget: heads that the store does not have, or cannot give."""
    heads = _heads(store, catalog)
    ends, _, _ = compare_heads(store, catalog, heads)
    lost: dict[SpaceName, Head | KeptHead] = {
        space: head for space in sorted(ends.lost) if (head := heads[space]) is not None
    }
    for space in sorted({*heads} - {*lost}):
        kept = store.kept_head(space)
        if kept is not None and store.record(space, kept.number) is None:
            lost[space] = kept
    return [f"{space}/@c{head.number} ({head.id[:8]})" for space, head in lost.items()]


def _heads(
    store: "Store", catalog: Catalog, wait_s: float = WAIT_S
) -> dict[SpaceName, Head | None]:
    try:
        with catalog.begin(wait_s=wait_s) as session:
            heads = lookups.heads(session)
    except CatalogError as error:
        raise error.amended(hint="Run `share-registry rebuild`.") from error
    return {space: heads.get(space) for space in sorted({*store.spaces(), *heads})}


def _check_log(store: "Store", space: SpaceName) -> None:
    """Check that a log can be followed from its first record to its last.

    Raises IntegrityError or FormatError.
    """
    numbers = store.numbers(space)
    check_hole(space, numbers)
    kept = kept_end(store, space, CommitNumber(0))
    if kept is not None and kept[0] < len(numbers):
        raise kept[1]
    parent = id_of(store.format_bytes())
    for number in numbers:
        entry = read_entry(store, space, number)
        if entry is None or entry.record.parent != parent:
            raise IntegrityError(
                f"record c{number} of space {space} does not follow the one before it.",
                hint="Bring the right file back from a copy of the store.",
            )
        parent = entry.id


def _advance(store: "Store", catalog: Catalog) -> LogEnds:
    """Apply to a catalog in memory what can be read of the records that it lacks."""
    return follow(store, catalog, write=True) or LogEnds()


def _read_behind(
    store: "Store", space: SpaceName, head: Head | None, ends: LogEnds
) -> list[LogEntry]:
    """Return the first entries behind a head, a batch at most; note in `ends` what ends them."""
    first = CommitNumber(head.number + 1 if head else 1)
    entries: list[LogEntry] = []
    try:
        kept = kept_end(store, space, CommitNumber(first - 1))
        following = batches(store, space, first, kept[0] if kept else None)
        entries = next(following, [])
        if len(entries) < BATCH:
            # raises what ended them
            next(following, None)
            _check_ended(store, space, head, CommitNumber(first - 1 + len(entries)), kept)
    except LOG_ERRORS as error:
        ends.unknown[space] = ended(error, space, CommitNumber(first - 1 + len(entries)))
    return entries


def _check_ended(
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


def _can_follow(store: "Store", behind: "Mapping[SpaceName, Head | None]", ends: LogEnds) -> bool:
    """Tell whether any log goes on with what can be read; the ends of the others are not known."""
    followed = False
    for space, head in behind.items():
        last = CommitNumber(0) if head is None else head.number
        try:
            read_entry(store, space, CommitNumber(last + 1))
        except LOG_ERRORS as error:
            ends.unknown[space] = ended(error, space, last)
        else:
            followed = True
    return followed


def _last(catalog: Catalog, space: SpaceName) -> CommitNumber:
    """Return the last commit of a space that a catalog has, 0 where it has none."""
    with catalog.begin() as session:
        head = lookups.head(session, space)
    return CommitNumber(0) if head is None else head.number


def _apply_new(
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
    _check_ended(store, space, head, last, kept)


def fill_up_to(
    store: "Store", catalog: Catalog, space: SpaceName, last: CommitNumber | None
) -> None:
    """Apply the records of a space that a catalog lacks, up to a number; None for all.

    Raises what ends the log before: IntegrityError, FormatError, StoreError.
    """
    _apply_all(store, catalog, space, _last(catalog, space), until=last)


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
            _apply_some(store, catalog, space, entries, wait_s)
        except IntegrityError:
            # one of them does not follow: those before it do
            for entry in entries:
                _apply_some(store, catalog, space, [entry], wait_s)
        last = CommitNumber(last + len(entries))
    return last


def _check_visible(store: "Store", space: SpaceName) -> None:
    """Check that a catalog which stops at a hole will see, by a probe, that the log goes on.

    Raises IntegrityError.
    """
    numbers = store.numbers(space)
    missing = next((n for n, number in enumerate(numbers, start=1) if n != number), None)
    if missing is not None and store.first_record(space, probes(CommitNumber(missing))) is None:
        raise hole(space, missing, numbers[-1])


def _apply_some(
    store: "Store",
    catalog: Catalog,
    space: SpaceName,
    entries: Sequence[LogEntry],
    wait_s: float,
) -> None:
    """Apply entries in one transaction."""
    with catalog.begin(write=True, space=space, wait_s=wait_s) as session:
        if not catalog.is_in_memory and not store.read_only:
            # what a catalog keeps must not be lost by the store; under its lock, so that nobody
            # waits here for the flush of a writer that hangs
            store.sync_log(space)
        _apply(session, entries)


def _apply(session: "Session", entries: Sequence[LogEntry]) -> None:
    from share_registry.catalog.projection.apply import apply

    for entry in entries:
        apply(session, record=entry.record, id=entry.id, note=entry.note, layouts=entry.layouts)


def replay_in_memory(store: "Store") -> tuple[Catalog, LogEnds]:
    """Return a catalog in memory with what the store has, in place of one that cannot be used.

    Beside it how the logs end, as `follow` does.
    """
    catalog = Catalog.in_memory(store.identity)
    damage = fill(store, catalog)
    unknown = {space: ended(error, space, _last(catalog, space)) for space, error in damage.items()}
    return catalog, LogEnds(unknown=unknown)
