"""Records of a log as a catalog takes them: with their notes and layouts, in batches.

A record that the next one does not follow is not answered from, however well it reads.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Final, TypeVar

from share_registry.errors import IntegrityError, NotFoundError, ensure
from share_registry.kinds import LARGEST
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.registry.log_ends import (
    BRING_BACK,
    LOG_ERRORS,
    LogError,
    id_of,
    parent_of,
    read_record,
)

if TYPE_CHECKING:
    from share_registry.format.layout import Layout
    from share_registry.format.named_objects import Replaced
    from share_registry.format.notes import Note
    from share_registry.format.records import Record
    from share_registry.store.protocol import Store

_T = TypeVar("_T")
_LOG: Final = logging.getLogger(__name__)
# Entries that are applied in one transaction
BATCH: Final = 256
# Entries that are read one by one, before others are read together behind them: ever more, as
# those behind the last are asked for in vain
_SINGLES: Final = 4
_AT_ONCE: Final = 64
_MAX_JSON_BYTES: Final = 16 << 20
# What a record that replaces objects has in it
_PURGES: Final = b'"kind":"purge"'


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One record of a log with what the catalog needs beside it.

    Attributes:
        replaced: What later records replace.
    """

    record: "Record"
    id: Digest
    note: "Note | None"
    layouts: "dict[Digest, Layout]"
    replaced: "Replaced" = ()

    @property
    def removes(self) -> bool:
        """Whether the record removes versions."""
        return self.record.kind in ("expire", "purge")


def batches(
    store: "Store",
    space: SpaceName,
    first: int,
    until: CommitNumber | None = None,
    replaced: "Replaced" = (),
) -> Iterator[list[LogEntry]]:
    """Yield the entries from a number on, some at a time, and raise the damage that ends them."""
    entries: list[LogEntry] = []
    damage: LogError | None = None
    try:
        for entry in _linked_entries(store, space, first, until, replaced):
            entries.append(entry)
            if len(entries) == BATCH:
                yield entries
                entries = []
    except LOG_ERRORS as error:
        damage = error
    if entries:
        yield entries
    if damage is not None:
        raise damage


def read_replacements(store: "Store", space: SpaceName, until: CommitNumber | None) -> "Replaced":
    """Return what is read in place of objects as of a commit, or of the last one.

    As far as the log can be read: what ends it is whoever's to say that applies it.
    """
    from share_registry.format.named_objects import replacements
    from share_registry.format.records import parse_record

    replaced, number = [], CommitNumber(1)
    with suppress(*LOG_ERRORS):
        while until is None or number <= until:
            content = store.record(space, number)
            if content is None:
                break
            if _PURGES in content:
                replaced.append((number, replacements(parse_record(content))))
            number = CommitNumber(number + 1)
    return replaced


def read_entry(
    store: "Store", space: SpaceName, number: CommitNumber, replaced: "Replaced" = ()
) -> LogEntry | None:
    """Read one record with its note and layouts; None where the log ends before it.

    Raises IntegrityError or FormatError.
    """
    content = read_record(store, space, number)
    if content is None:
        return None
    from share_registry.format.named_objects import read_for
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
    note = read_for(record.note, number, replaced) if record.note else None
    return LogEntry(
        record=record,
        id=id_of(content),
        note=_if_sound(read_note, store, note, "note") if note else None,
        replaced=replaced,
        layouts={digest: layout for digest, layout in layouts.items() if layout is not None},
    )


def read_note(store: "Store", digest: Digest | None) -> "Note | None":
    """Return a note; None where there is none or it was removed."""
    from share_registry.format.notes import Note

    if digest is None:
        return None
    try:
        return Note.from_bytes(store.get(digest, limit=_MAX_JSON_BYTES))
    except NotFoundError:
        return None


def read_layout(store: "Store", digest: Digest) -> "Layout":
    """Return a layout. Raises NotFoundError or Integrity."""
    from share_registry.format.layout import Layout

    return Layout.from_bytes(store.get_or_spare(digest, limit=_MAX_JSON_BYTES))


def _linked_entries(
    store: "Store",
    space: SpaceName,
    first: int,
    until: CommitNumber | None,
    replaced: "Replaced",
) -> Iterator[LogEntry]:
    """Yield the entries from a number on, each once the one behind it is seen to follow it.

    A record that the next one does not follow is not to be trusted, however well it reads. Raises
    IntegrityError, FormatError or StoreError.
    """
    before: LogEntry | None = None
    entries = _read_entries(store, space, first, until, replaced)
    for number in count(first):
        try:
            entry = next(entries, None)
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
        before = entry
    if before is not None:
        yield before


def _read_entries(
    store: "Store",
    space: SpaceName,
    first: int,
    until: CommitNumber | None,
    replaced: "Replaced",
) -> Iterator[LogEntry | None]:
    """Yield the entries from a number on, None behind the last, and raise what cannot be read.

    From a store that is faster that way, several are read at once, once there are several.
    """
    last = until if until is not None else CommitNumber(LARGEST)
    number = first
    more = (min(2**step, _AT_ONCE) for step in count(1)) if store.at_once > 1 else repeat(1)
    for size in chain([1] * _SINGLES, more):
        numbers = [CommitNumber(n) for n in range(number, min(number + size - 1, last) + 1)]
        if not numbers:
            return
        read = partial(read_entry, store, space, replaced=replaced)
        if len(numbers) == 1:
            yield read(numbers[0])
        else:
            with ThreadPoolExecutor(store.at_once) as pool:
                yield from pool.map(read, numbers)
        number += size


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
    except NotFoundError as error:
        # of versions that were removed; verify tells what is missing
        _LOG.info("%s %s is not there: %s", name, digest, error)
        return None
    except IntegrityError as error:
        _LOG.warning("%s %s cannot be read: %s", name, digest, error)
        return None
