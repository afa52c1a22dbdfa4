"""Bring a catalog up to what the store's logs say: the one path by which records reach a catalog.

Records, notes and layouts are read and parsed outside any transaction; a batch of them is then
applied in one.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.lookups import Head
from share_registry.errors import (
    CatalogError,
    IntegrityError,
    NotFoundError,
    ensure,
)
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.registry.log_ends import (
    BRING_BACK,
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
    parent_of,
    probes,
    read_record,
)
from share_registry.store.protocol import KeptHead
from share_registry.values.sheet import count

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.format.layout import Layout
    from share_registry.format.records import Note, Record
    from share_registry.store.protocol import Store

_T = TypeVar("_T")
_LOG: Final = logging.getLogger(__name__)
_BATCH: Final = 256
_MAX_JSON_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One record of a log with what the catalog needs beside it."""

    record: "Record"
    id: Digest
    note: "Note | None"
    layouts: "dict[Digest, Layout]"


def follow(store: "Store", catalog: Catalog, *, write: bool) -> LogEnds | None:
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

    Returns:
        The spaces whose end is not known or lost; None where the catalog lacks records and may not
        be written.
    """
    ends, behind, foreign = compare_heads(store, catalog, _heads(store, catalog))
    if not write:
        return None if foreign or _can_follow(store, behind, ends) else ends
    for space in foreign:
        try:
            _refill(store, catalog, space)
        except LOG_ERRORS as error:
            ends.unknown[space] = ended(error, space, CommitNumber(0))
        else:
            _LOG.warning("the catalog had followed another log of %s; it was made again", space)
    for space, head in behind.items():
        try:
            _apply_new(store, catalog, space, head)
        except LOG_ERRORS as error:
            ends.unknown[space] = ended(error, space, _last(catalog, space))
    return ends


def unchanged(store: "Store", heads: "Mapping[SpaceName, Head]") -> bool:
    """Tell whether the logs of the store are those that end with these heads.

    A listing of the spaces and two small reads for each, no statement.
    """
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


def _refill(store: "Store", catalog: Catalog, space: SpaceName) -> None:
    """Empty and fill the rows of one space. Raises as `_check_log`."""
    _check_log(store, space)
    if not store.read_only:
        store.sync_log(space)
    with catalog.begin(write=True, space=space) as session:
        fill_again(session, store, space)


def fill_again(session: "Session", store: "Store", space: SpaceName) -> None:
    """Empty the rows of one space and fill them from its log, in a transaction of the caller.

    Raises IntegrityError, FormatError or StoreError.
    """
    from share_registry.catalog.projection.apply import wipe

    wipe(session, space)
    for entries in _batches(store, space, 1):
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


def read_entry(store: "Store", space: SpaceName, number: CommitNumber) -> LogEntry | None:
    """Read one record with its note and layouts; None where the log ends before it.

    Raises IntegrityError or FormatError.
    """
    content = read_record(store, space, number)
    if content is None:
        return None
    from share_registry.format.records import parse_record

    name = f"record c{number} of space {space}"
    try:
        record = parse_record(content, subject=name)
    except IntegrityError as error:
        raise error.amended(hint=BRING_BACK) from error
    # spec REC-02
    ensure(
        (record.space, record.number) == (space, number),
        IntegrityError(
            f"{name} says it is c{record.number} of space {record.space}.",
            hint=BRING_BACK,
        ),
    )
    layouts = {
        digest: _if_sound(read_layout, store, digest, "layout")
        for digest in sorted({task.layout for task in getattr(record, "tasks", ())})
    }
    return LogEntry(
        record=record,
        id=id_of(content),
        note=_if_sound(read_note, store, record.note, "note") if record.note else None,
        layouts={digest: layout for digest, layout in layouts.items() if layout is not None},
    )


def read_note(store: "Store", digest: Digest | None) -> "Note | None":
    """Return a note; None where there is none or it was removed."""
    from share_registry.format.records import Note

    if digest is None:
        return None
    try:
        return Note.from_bytes(store.get(digest, limit=_MAX_JSON_BYTES))
    except NotFoundError:
        return None


def read_layout(store: "Store", digest: Digest) -> "Layout":
    """Return a layout. Raises NotFoundError or Integrity."""
    from share_registry.format.layout import Layout

    return Layout.from_bytes(store.get(digest, limit=_MAX_JSON_BYTES))


def _heads(store: "Store", catalog: Catalog) -> dict[SpaceName, Head | None]:
    try:
        with catalog.begin() as session:
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
    store: "Store", catalog: Catalog, space: SpaceName, head: Head | None = None
) -> None:
    """Apply every record behind the head that a catalog has, and raise what ends the log.

    What another process applies meanwhile changes nothing.
    """
    if not store.read_only:
        # what a catalog keeps must not be lost by the store
        store.sync_log(space)
    if head is None and not catalog.is_in_memory:
        _check_visible(store, space)
    last = head.number if head else CommitNumber(0)
    kept = kept_end(store, space, last)
    last = _apply_all(store, catalog, space, last, kept[0] if kept else None)
    if kept is not None:
        raise kept[1]
    if head is None:
        check_hole(space, store.numbers(space))
    present = store.first_record(space, probes(CommitNumber(last + 1)))
    # the very next one has come meanwhile
    if present is not None and present != last + 1:
        raise hole(space, last + 1, present)


def fill_up_to(
    store: "Store", catalog: Catalog, space: SpaceName, last: CommitNumber | None
) -> None:
    """Apply the records of a space that a catalog lacks, up to a number; None for all.

    Raises what ends the log before: IntegrityError, FormatError, StoreError.
    """
    _apply_all(store, catalog, space, _last(catalog, space), last)


def _apply_all(
    store: "Store",
    catalog: Catalog,
    space: SpaceName,
    before: CommitNumber,
    until: CommitNumber | None = None,
) -> CommitNumber:
    """Apply the records behind a number, up to another; return the last. Raises what ends them."""
    last = before
    for entries in _batches(store, space, before + 1, until):
        _apply_some(catalog, space, entries)
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


def _apply_some(catalog: Catalog, space: SpaceName, entries: Sequence[LogEntry]) -> None:
    """Apply entries in one transaction; where one of them does not follow, those before it."""
    try:
        with catalog.begin(write=True, space=space) as session:
            _apply(session, entries)
    except IntegrityError:
        for entry in entries:
            with catalog.begin(write=True, space=space) as session:
                _apply(session, [entry])


def _apply(session: "Session", entries: Sequence[LogEntry]) -> None:
    from share_registry.catalog.projection.apply import apply

    for entry in entries:
        apply(session, record=entry.record, id=entry.id, note=entry.note, layouts=entry.layouts)


def _batches(
    store: "Store", space: SpaceName, first: int, until: CommitNumber | None = None
) -> Iterator[list[LogEntry]]:
    """Yield the entries from a number on, some at a time, and raise the damage that ends them."""
    entries: list[LogEntry] = []
    damage: LogError | None = None
    try:
        for entry in _linked_entries(store, space, first, until):
            entries.append(entry)
            if len(entries) == _BATCH:
                yield entries
                entries = []
    except LOG_ERRORS as error:
        damage = error
    if entries:
        yield entries
    if damage is not None:
        raise damage


def _linked_entries(
    store: "Store", space: SpaceName, first: int, until: CommitNumber | None
) -> Iterator[LogEntry]:
    """Yield the entries from a number on, each once the one behind it is seen to follow it.

    A record that the next one does not follow is not to be trusted, however well it reads. Raises
    IntegrityError, FormatError or StoreError.
    """
    before: LogEntry | None = None
    number = CommitNumber(first)
    while until is None or number <= until:
        try:
            entry = read_entry(store, space, number)
        except LOG_ERRORS:
            if before is not None:
                yield before
            raise
        if entry is None:
            break
        if before is not None and entry.record.parent != before.id:
            error = IntegrityError(
                f"record c{number} of space {space} is not published behind what c{number - 1} is "
                "now: one of them is damaged.",
                hint=BRING_BACK,
            )
            if _is_refuted(store, space, entry):
                yield before
            raise error
        if before is not None:
            yield before
        before, number = entry, CommitNumber(number + 1)
    if before is not None:
        yield before


def _is_refuted(store: "Store", space: SpaceName, entry: LogEntry) -> bool:
    """Tell whether what follows a record, or was noted of it, shows that it has changed."""
    number = entry.record.number
    kept = store.kept_head(space)
    if kept is not None and kept.number == number:
        return kept.id != entry.id
    try:
        further = store.record(space, CommitNumber(number + 1))
    except LOG_ERRORS:
        return False
    return further is not None and parent_of(further) not in (entry.id, None)


def _if_sound(
    read: "Callable[[Store, Digest], _T]", store: "Store", digest: Digest, name: str
) -> "_T | None":
    """Return what is read; what cannot be read must not hide the log (verify reports it)."""
    try:
        return read(store, digest)
    except (NotFoundError, IntegrityError) as error:
        _LOG.warning("%s %s cannot be read: %s", name, digest, error)
        return None


def replay_in_memory(store: "Store") -> tuple[Catalog, LogEnds]:
    """Return a catalog in memory with what the store has, in place of one that cannot be used.

    Beside it how the logs end, as `follow` does.
    """
    catalog = Catalog.in_memory(store.identity)
    damage = fill(store, catalog)
    unknown = {space: ended(error, space, _last(catalog, space)) for space, error in damage.items()}
    return catalog, LogEnds(unknown=unknown)
