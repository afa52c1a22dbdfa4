"""Bring a catalog up to what the store's logs say, or let another stand in for it."""

import logging
from collections.abc import Mapping
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
from share_registry.look.units import count
from share_registry.names import CommitNumber, SpaceName, first_and_more
from share_registry.registry.log_ends import (
    LOG_ERRORS,
    Lag,
    LogEnds,
    LogError,
    check_hole,
    compare_heads,
    ended,
    id_of,
    is_end,
    kept_end,
)
from share_registry.registry.log_entries import (
    BATCH,
    LogEntry,
    batches,
    read_entry,
)
from share_registry.registry.replay import (
    apply_entries,
    apply_new,
    check_ended,
    fill_again,
    last_commit,
    replay_in_memory,
)
from share_registry.store.protocol import KeptHead

if TYPE_CHECKING:
    from share_registry.store.protocol import Store

_LOG: Final = logging.getLogger(__name__)
# Records that are laid over a server's tables for every question: each takes it 10 ms
_FEW: Final = 32


def follow(store: "Store", catalog: Catalog, *, write: bool, wait_s: float = WAIT_S) -> Lag:
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
        How the logs end, and what the catalog still lacks: nothing, where it may be written.

    Raises:
        ConflictError: another process held a lock for longer.
    """
    indexed = _indexed_heads(catalog, wait_s)
    if store.read_only and store.ends_with(_as_kept(indexed)):
        return Lag(ends=LogEnds())
    heads = _with_new(store, indexed)
    lag = compare_heads(store, catalog, heads)
    ends = lag.ends
    if not write:
        return Lag(ends=ends, behind=_readable(store, lag), foreign=lag.foreign)
    for space in lag.foreign:
        try:
            _refill(store, catalog, space, wait_s=wait_s)
        except LOG_ERRORS as error:
            ends.unknown[space] = ended(error, space, CommitNumber(0))
        else:
            _LOG.warning("the catalog had followed another log of %s; it was made again", space)
    for space, head in lag.behind.items():
        try:
            apply_new(store, catalog, space, head, wait_s=wait_s)
        except LOG_ERRORS as error:
            ends.unknown[space] = ended(error, space, last_commit(catalog, space))
    if heads and not any(heads.values()) and not catalog.is_in_memory:
        _warn_of_missing(store, catalog)
    return Lag(ends=ends)


def stand_in(
    store: "Store", catalog: Catalog | None, present: Catalog, *, lag: Lag | None
) -> tuple[Catalog, LogEnds]:
    """Return a catalog that has every record, in place of one that lacks some for now.

    The records are laid over what the catalog has. Where that cannot be done (it cannot be read at
    present, it followed another log, a server lacks many records, or some that remove versions),
    the whole store is replayed, which takes half a millisecond a record.

    Args:
        store: The store.
        catalog: The catalog, which is not written; None where it cannot even be opened.
        present: What answered before. One in memory goes on from where it was.
        lag: How the catalog compares; None where that is not known.

    Returns:
        The catalog, and how the logs end, as `follow` does.
    """
    if present.is_in_memory:
        return present, _advance(store, present)
    if catalog is None:
        return replay_in_memory(store)
    try:
        lag = lag or compare_heads(store, catalog, _heads(store, catalog, BRIEF_S))
        if lag.foreign:
            return replay_in_memory(store)
        ends = lag.ends
        lacking = [_read_behind(store, space, head, ends) for space, head in lag.behind.items()]
        is_removing = any(entry.removes for entry in chain(*lacking))
        if catalog.is_on_server and (is_removing or sum(map(len, lacking)) > _FEW):
            return replay_in_memory(store)
        overlaid = catalog.overlaid(
            lambda session: apply_entries(session, store, [*chain(*lacking)])
        )
    except ShareRegistryError as error:
        _LOG.info("the store is read in place of the catalog (%s)", error.message)
        return replay_in_memory(store)
    return overlaid, _advance(store, overlaid) if overlaid.is_in_memory else ends


def _warn_of_missing(store: "Store", catalog: Catalog) -> None:
    """Warn of objects that are not there, once a catalog was made: the store may be a copy."""
    with catalog.begin() as session:
        named = lookups.object_digests(session)
    missing = store.missing(named)
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

    One look, or a listing of the spaces and two small reads for each; no statement.
    """
    if store.ends_with(_as_kept(heads)):
        return True
    if store.spaces(expected=heads) != sorted(heads):
        return False
    return all(is_end(store, space, head) for space, head in heads.items())


def rebuild_catalog(store: "Store", catalog: Catalog) -> None:
    """Empty a catalog and fill it from the store alone.

    Each space is one transaction: whoever reads or commits meanwhile sees it as it was, or made
    again. Writers wait for it, and with SQLite's rollback journal also readers of a space whose
    rows outgrow the page cache; ConflictError where it takes longer than 30 s, which is some
    10,000 commits.

    Raises:
        IntegrityError, FormatError, StoreError: the log of a space cannot be followed to its end;
            that space is left as it was, the others are made again.
        ConflictError: another process held a lock for too long.
    """
    from share_registry.catalog.projection.apply import wipe

    damage: dict[SpaceName, LogError] = {}
    spaces = store.spaces()
    with catalog.begin(write=True) as session:
        # listed again under the lock: a space that came meanwhile is not forgotten
        for space in {*lookups.space_names(session)} - {*store.spaces()}:
            wipe(session, space)
    for space in spaces:
        try:
            _refill(store, catalog, space)
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


def _refill(store: "Store", catalog: Catalog, space: SpaceName, *, wait_s: float = WAIT_S) -> None:
    """Empty and fill the rows of one space. Raises as `_check_log`."""
    _check_log(store, space)
    if not store.read_only:
        store.sync_log(space)
    with catalog.begin(write=True, space=space, wait_s=wait_s) as session:
        fill_again(session, store, space)


def keep_heads(store: "Store", catalog: Catalog) -> None:
    """Note in the store how its logs end, as a catalog that was just made of them knows."""
    with catalog.begin() as session:
        heads = lookups.heads(session)
    for space, head in heads.items():
        store.keep_head(space, KeptHead(number=head.number, id=head.id))


def forgotten(store: "Store", catalog: Catalog) -> list[str]:
    """Return what a rebuild would forget: heads that the store does not have, or cannot give."""
    heads = _heads(store, catalog)
    ends = compare_heads(store, catalog, heads).ends
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
    return _with_new(store, _indexed_heads(catalog, wait_s))


def _indexed_heads(catalog: Catalog, wait_s: float) -> dict[SpaceName, Head]:
    try:
        with catalog.begin(wait_s=wait_s) as session:
            return lookups.heads(session)
    except CatalogError as error:
        raise error.amended(hint="Run `share-registry rebuild`.") from error


def _with_new(store: "Store", heads: "Mapping[SpaceName, Head]") -> dict[SpaceName, Head | None]:
    """Return the heads that a catalog has, with None for spaces that only the store has."""
    return {space: heads.get(space) for space in sorted({*store.spaces(expected=heads), *heads})}


def _as_kept(heads: "Mapping[SpaceName, Head]") -> dict[SpaceName, KeptHead]:
    return {space: KeptHead(number=head.number, id=head.id) for space, head in heads.items()}


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
    return follow(store, catalog, write=True).ends


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
            check_ended(store, space, head, CommitNumber(first - 1 + len(entries)), kept)
    except LOG_ERRORS as error:
        ends.unknown[space] = ended(error, space, CommitNumber(first - 1 + len(entries)))
    return entries


def _readable(store: "Store", lag: Lag) -> dict[SpaceName, Head | None]:
    """Return the logs that go on with what can be read; the ends of the others are not known."""
    readable: dict[SpaceName, Head | None] = {}
    for space, head in lag.behind.items():
        last = CommitNumber(0) if head is None else head.number
        try:
            read_entry(store, space, CommitNumber(last + 1))
        except LOG_ERRORS as error:
            lag.ends.unknown[space] = ended(error, space, last)
        else:
            readable[space] = head
    return readable
