"""Bring a catalog up to what the store's logs say: the one path by which records reach a catalog.

Records, notes and layouts are read and parsed outside any transaction; a batch of them is then
applied in one.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeVar

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.engine import BRIEF_S, WAIT_S
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.lookups import Head
from share_registry.errors import (
    CatalogError,
    FormatError,
    IntegrityError,
    NotFoundError,
    ShareRegistryError,
    ensure,
)
from share_registry.names import CommitNumber, Digest, SpaceName

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.format.layout import Layout
    from share_registry.format.records import Note, Record
    from share_registry.store.protocol import Store

_T = TypeVar("_T")
_LOG: Final = logging.getLogger(__name__)
_BATCH: Final = 256
# Records that are laid over a server's tables for every question: each takes it 10 ms
_FEW: Final = 32
_PROBES: Final = tuple(2**power for power in range(21))
_MAX_JSON_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One record of a log with what the catalog needs beside it."""

    record: "Record"
    id: Digest
    note: "Note | None"
    layouts: "dict[Digest, Layout]"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gap:
    """What a catalog and the logs of a store do not have in common.

    Attributes:
        heads: The head of every space that either has, as the catalog knows it.
        lost: Heads that the store does not have, as errors.
        foreign: Spaces whose log in the store is another one.
        behind: Spaces of which the store may have more records.
    """

    heads: dict[SpaceName, Head | None]
    lost: list[IntegrityError]
    foreign: list[SpaceName]
    behind: list[SpaceName]


def follow(
    store: "Store", catalog: Catalog, *, write: bool, wait_s: float = WAIT_S
) -> dict[SpaceName, FormatError] | None:
    """Apply every record that the catalog lacks, up to those of a later release.

    The head that the catalog knows is compared with the store's record of that number, and the
    record behind it is probed: two small reads a space, no listing of objects. A catalog that
    followed another log (a copy from elsewhere, a restored backup) is wiped and filled again; one
    that knows more than the store is evidence, and kept.

    Args:
        store: The store.
        catalog: The catalog.
        write: Whether the catalog may be written. A reader is warned of damage and goes on with
            what can be read; a writer is refused.
        wait_s: How long to wait for the locks of other processes.

    Returns:
        The spaces whose log goes on with records that this release cannot read (spec EVO-05); None
        where the catalog lacks records and may not be written.

    Raises:
        IntegrityError: `write`, and the store's log is damaged, or has lost its end.
        ConflictError: another process held a lock for longer.
    """
    gap = _gap_between(store, catalog, wait_s)
    for lost in gap.lost:
        if write:
            raise lost
        _LOG.warning("%s", lost)
    if not gap.behind and not gap.foreign:
        return {}
    if not write:
        return None
    if gap.foreign:
        rebuild_catalog(store, catalog, wait_s=wait_s)
        _LOG.warning(
            "the catalog had followed another log of %s; it was made again", ", ".join(gap.foreign)
        )
        return {}
    newer: dict[SpaceName, FormatError] = {}
    for space in gap.behind:
        try:
            _apply_new(store, catalog, space, gap.heads[space], wait_s=wait_s)
        except FormatError as error:
            newer[space] = _ended(error, space)
    return newer


def stand_in(
    store: "Store", catalog: Catalog | None, present: Catalog
) -> tuple[Catalog, dict[SpaceName, FormatError]]:
    """Return a catalog that has every record, in place of one that lacks some for now.

    The records are laid over what the catalog has. Where that cannot be done (it cannot be read at
    present, it followed another log, a server lacks many records or grants no temporary
    tables), the whole store is replayed, which takes half a millisecond a record.

    Args:
        store: The store.
        catalog: The catalog, which is not written; None where it cannot even be opened.
        present: What answered before. One in memory goes on from where it was.

    Returns:
        The catalog, and the spaces whose log goes on with records of a later release.
    """
    if present.is_in_memory:
        return present, _advance(store, present)
    if catalog is None:
        return replay_in_memory(store)
    try:
        gap = _gap_between(store, catalog, BRIEF_S)
        if gap.foreign:
            return replay_in_memory(store)
        lacking = {
            space: _read_entries(store, space, head.number + 1 if head else 1)
            for space, head in gap.heads.items()
            if space in gap.behind
        }
        if catalog.is_on_server and sum(len(entries) for entries, _ in lacking.values()) > _FEW:
            return replay_in_memory(store)
        overlaid = catalog.overlaid(
            lambda session: _apply(session, [*chain(*(entries for entries, _ in lacking.values()))])
        )
    except ShareRegistryError as error:
        _LOG.info("the store is read in place of the catalog (%s)", error.message)
        return replay_in_memory(store)
    if overlaid.is_in_memory:
        return overlaid, _advance(store, overlaid)
    return overlaid, _newer_of({space: damage for space, (_, damage) in lacking.items() if damage})


def unchanged(store: "Store", heads: "Mapping[SpaceName, Head]") -> bool:
    """Tell whether the logs of the store are those that end with these heads.

    A listing of the spaces and two small reads for each, no statement.
    """
    if store.spaces(expected=heads) != sorted(heads):
        return False
    for space, head in heads.items():
        content = store.record(space, head.number)
        if content is None or _id_of(content) != head.id or _is_behind(store, space, head):
            return False
    return True


def rebuild_catalog(store: "Store", catalog: Catalog, *, wait_s: float = WAIT_S) -> None:
    """Empty a catalog and fill it from the store alone.

    Each space is one transaction: whoever reads or commits meanwhile sees it as it was, or made
    again. Writers wait for it, and with SQLite's rollback journal also readers of a space whose
    rows outgrow the page cache; ConflictError where it takes longer than 30 s, which is some
    10,000 commits.

    Raises:
        IntegrityError: a log cannot be followed to its end; the catalog is left as it was.
        ConflictError: another process held a lock for longer than `wait_s`.
    """
    from share_registry.catalog.projection.apply import wipe

    spaces = store.spaces()
    for space in spaces:
        _check_log(store, space)
        if not store.read_only:
            store.sync_log(space)
    with catalog.begin(write=True, wait_s=wait_s) as session:
        # listed again under the lock: a space that came meanwhile is not forgotten
        for space in {*lookups.space_names(session)} - {*store.spaces()}:
            wipe(session, space)
    for space in spaces:
        with catalog.begin(write=True, space=space, wait_s=wait_s) as session:
            wipe(session, space)
            for entries in _batches(store, space, 1):
                _apply(session, entries)


def fill(
    store: "Store", catalog: Catalog, *, spaces: Sequence[SpaceName] | None = None
) -> dict[SpaceName, IntegrityError | FormatError]:
    """Fill an empty catalog with what can be read: where a log is damaged, with what comes before.

    Args:
        store: The store.
        catalog: The catalog.
        spaces: Those to fill it with; None for all.

    Returns:
        The damage by space.
    """
    damage: dict[SpaceName, IntegrityError | FormatError] = {}
    for space in store.spaces() if spaces is None else spaces:
        try:
            _apply_new(store, catalog, space)
            _check_hole(space, store.numbers(space))
        except (IntegrityError, FormatError) as error:
            damage[space] = error
    return damage


def forgotten(store: "Store", catalog: Catalog) -> list[str]:
    """Return what a rebuild would forget: heads that the store does not have."""
    return [
        f"{space}/@c{head.number} ({head.id[:8]})"
        for space, head in _heads(store, catalog).items()
        if head and store.record(space, head.number) is None
    ]


def read_entry(store: "Store", space: SpaceName, number: CommitNumber) -> LogEntry | None:
    """Read one record with its note and layouts; None where the log ends before it.

    Raises IntegrityError or FormatError.
    """
    content = store.record(space, number)
    if content is None:
        return None
    from share_registry.format.records import parse_record

    name = f"record c{number} of space {space}"
    try:
        record = parse_record(content, subject=name)
    except IntegrityError as error:
        raise error.amended(
            hint="Run verify, which names all that is damaged; to read the log up to there, "
            "open it with mode 'r'."
        ) from error
    # spec REC-02
    ensure(
        (record.space, record.number) == (space, number),
        IntegrityError(
            f"{name} says it is c{record.number} of space {record.space}.",
            hint="Bring the file back from a copy of the store.",
        ),
    )
    layouts = {
        digest: _if_sound(read_layout, store, digest, "layout")
        for digest in sorted({task.layout for task in getattr(record, "tasks", ())})
    }
    return LogEntry(
        record=record,
        id=_id_of(content),
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


def _heads(
    store: "Store", catalog: Catalog, wait_s: float = WAIT_S
) -> dict[SpaceName, Head | None]:
    try:
        with catalog.begin(wait_s=wait_s) as session:
            heads = lookups.heads(session)
    except CatalogError as error:
        raise error.amended(hint="Run `share-registry rebuild`.") from error
    return {space: heads.get(space) for space in sorted({*store.spaces(), *heads})}


def _gap_between(store: "Store", catalog: Catalog, wait_s: float) -> _Gap:
    heads = _heads(store, catalog, wait_s)
    lost: list[IntegrityError] = []
    foreign: list[SpaceName] = []
    for space, head in heads.items():
        if head is None:
            continue
        content = store.record(space, head.number)
        if content is None:
            # a hash chain cannot show that its last record is gone, a catalog can
            lost.append(
                IntegrityError(
                    f"record c{head.number} of space {space} is not in the store, though the "
                    f"catalog knows it ({head.id[:8]}).",
                    hint="Bring it back from a copy of the store; a rebuild that accepts the loss "
                    "goes on with what the store has.",
                )
            )
        elif _id_of(content) != head.id:
            foreign.append(space)
    behind = [space for space, head in heads.items() if _is_behind(store, space, head)]
    return _Gap(heads=heads, lost=lost, foreign=foreign, behind=behind)


def _advance(store: "Store", catalog: Catalog) -> dict[SpaceName, FormatError]:
    """Apply to a catalog in memory what can be read of the records that it lacks."""
    gap = _gap_between(store, catalog, WAIT_S)
    if gap.foreign:
        rebuild_catalog(store, catalog)
        return {}
    damage: dict[SpaceName, IntegrityError | FormatError] = {}
    for space in gap.behind:
        try:
            _apply_new(store, catalog, space, gap.heads[space])
        except (IntegrityError, FormatError) as error:
            damage[space] = error
    return _newer_of(damage)


def _check_log(store: "Store", space: SpaceName) -> None:
    """Check that a log can be followed from its first record to its last.

    Raises IntegrityError or FormatError.
    """
    numbers = store.numbers(space)
    _check_hole(space, numbers)
    parent = _id_of(store.format_bytes())
    for number in numbers:
        entry = read_entry(store, space, number)
        if entry is None or entry.record.parent != parent:
            raise IntegrityError(
                f"record c{number} of space {space} does not follow the one before it.",
                hint="Bring the right file back from a copy of the store.",
            )
        parent = entry.id


def _id_of(content: bytes) -> Digest:
    return Digest(sha256(content).hexdigest())


def _check_hole(space: SpaceName, numbers: Sequence[CommitNumber]) -> None:
    for missing, number in enumerate(numbers, start=1):
        if number != missing:
            raise _hole(space, missing, numbers[-1])


def check_end(store: "Store", space: SpaceName, number: CommitNumber) -> None:
    """Check, before record `number` is published, that it is not a hole (spec COM-10).

    Probes further and further behind it. Raises IntegrityError.
    """
    behind = store.first_record(space, [CommitNumber(number + step) for step in _PROBES])
    # where the record is there, other writers were faster, and publishing will say so
    if behind is not None and store.record(space, number) is None:
        raise _hole(space, number, behind)


def _hole(space: SpaceName, missing: int, present: int) -> IntegrityError:
    return IntegrityError(
        f"record c{missing} of space {space} is not in the store, though c{present} is.",
        hint="Bring the file back from a copy of the store.",
    )


def _is_behind(store: "Store", space: SpaceName, head: Head | None) -> bool:
    """Tell whether the store may have records that a catalog lacks.

    A space that it does not know has some, even where the first is gone.
    """
    return head is None or store.record(space, CommitNumber(head.number + 1)) is not None


def _apply_new(
    store: "Store",
    catalog: Catalog,
    space: SpaceName,
    head: Head | None = None,
    *,
    wait_s: float = WAIT_S,
) -> None:
    """Apply every record behind the head that a catalog has.

    What another process applies meanwhile changes nothing.
    """
    is_kept = not catalog.is_in_memory
    if head is None and is_kept:
        # before anything is applied: a catalog that stops at a hole would take it for the end
        _check_hole(space, store.numbers(space))
    for entries in _batches(store, space, head.number + 1 if head else 1):
        with catalog.begin(write=True, space=space, wait_s=wait_s) as session:
            if is_kept and not store.read_only:
                # what a catalog keeps must not be lost by the store; under its lock, so that nobody
                # waits here for the flush of a writer that hangs
                store.sync_log(space)
            _apply(session, entries)


def _apply(session: "Session", entries: Sequence[LogEntry]) -> None:
    from share_registry.catalog.projection.apply import apply

    for entry in entries:
        apply(session, record=entry.record, id=entry.id, note=entry.note, layouts=entry.layouts)


def _batches(store: "Store", space: SpaceName, first: int) -> Iterator[list[LogEntry]]:
    """Yield the entries from a number on, some at a time, and raise the damage that ends them."""
    while True:
        entries, damage = _read_entries(store, space, first)
        if entries:
            yield entries
        if damage is not None:
            raise damage
        if len(entries) < _BATCH:
            return
        first += len(entries)


def _read_entries(
    store: "Store", space: SpaceName, first: int
) -> tuple[list[LogEntry], IntegrityError | FormatError | None]:
    """Return the entries from a number on, a batch at most, and the damage that ended them."""
    entries: list[LogEntry] = []
    while len(entries) < _BATCH:
        try:
            entry = read_entry(store, space, CommitNumber(first + len(entries)))
        except (IntegrityError, FormatError) as error:
            return entries, error
        if entry is None:
            break
        entries.append(entry)
    return entries, None


def _if_sound(
    read: "Callable[[Store, Digest], _T]", store: "Store", digest: Digest, name: str
) -> "_T | None":
    """Return what is read; what cannot be read must not hide the log (verify reports it)."""
    try:
        return read(store, digest)
    except (NotFoundError, IntegrityError) as error:
        _LOG.warning("%s %s cannot be read: %s", name, digest, error)
        return None


def replay_in_memory(store: "Store") -> tuple[Catalog, dict[SpaceName, FormatError]]:
    """Return a catalog in memory with what the store has, in place of one that cannot be used.

    Beside it the spaces whose log goes on with records of a later release, as `follow` does.
    """
    catalog = Catalog.in_memory(store.identity)
    return catalog, _newer_of(fill(store, catalog))


def _newer_of(
    damage: Mapping[SpaceName, IntegrityError | FormatError],
) -> dict[SpaceName, FormatError]:
    """Return the spaces that go on in a later format; a reader is warned of real damage."""
    newer: dict[SpaceName, FormatError] = {}
    for space, error in damage.items():
        if isinstance(error, FormatError):
            newer[space] = _ended(error, space)
        else:
            _LOG.warning("space %s is shown as it was before the damage: %s", space, error.message)
    return newer


def _ended(error: FormatError, space: SpaceName) -> FormatError:
    """Return the error of a log that goes on in another format: nothing is damaged."""
    return FormatError(
        f"{error.message.removesuffix('.')}: the newest state of space {space} is not known.",
        hint="Upgrade share_registry. What came before is answered: TASK@vN, @cN, log(before=).",
    )
