"""Publish one record: the commit protocol (spec COM-01 to COM-09).

The exclusive creation of record n+1 in the store is the commit: of any number of writers exactly
one can create it. Everything the record names is durable before, so that no reader ever follows it
into a gap; everything after, the catalog included, follows from it and can be made again.

An attempt catches the catalog up with the store and then, in one transaction that keeps other
writers of the space waiting, builds the record upon the head (preconditions are checked on that
very head), flushes the log it builds upon, applies the record, and creates it. Only then may that
transaction commit: what no catalog could follow is never published. Writers that share a catalog
so never lose a race; one that lost to a writer with another catalog tries again upon the new head,
after a growing pause.

Past the creation nothing is ever cleaned up or called a failure. A catalog that cannot follow is a
warning; a store that fails in the middle leaves the outcome unknown, and a retry with the same
idempotency key finds out what happened.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from typing import Any, Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.log import commit_at
from share_registry.catalog.sql import Session
from share_registry.errors import (
    CommitStateUnknownError,
    ConflictError,
    ConnectionLostError,
    InvalidInputError,
    ShareRegistryError,
    ensure,
)
from share_registry.exchange.adapter import Adapter
from share_registry.format.canonical import MAX_JSON_BYTES, sha256
from share_registry.format.layout import Layout
from share_registry.format.named_objects import objects_of_note, objects_of_record
from share_registry.format.notes import Note
from share_registry.format.records import Record, parse_record
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, first_and_more
from share_registry.registry.commands.interrupts import note_attempt, tells_of_interrupts
from share_registry.registry.commands.preconditions import commit_of_key
from share_registry.registry.context import Context, with_basis_size
from share_registry.registry.evidence import require_unreplaced
from share_registry.registry.log_ends import check_end
from share_registry.registry.log_entries import LogEntry
from share_registry.registry.replay import apply_entry, replay_in_memory
from share_registry.store.protocol import KeptHead, PublishStateUnknownError, Store
from share_registry.times import timestamp
from share_registry.values.commits import Commit

_LOG: Final = logging.getLogger(__name__)
_ATTEMPTS: Final = 200
_MAX_PAUSE_S: Final = 0.5

# The members of a record that say where in the chain it stands, its key and its note
Place = dict[str, Any]
# Check the preconditions upon the present head and build the record, or return an earlier commit
# that already says so.
Build = Callable[[Session, Place], "Record | CommitNumber"]


def idempotency_key(context: Context, key: str | None) -> str:
    """Return the caller's key or a fresh one. Raises InvalidInputError."""
    if key is None:
        return context.outside.token()
    ensure(
        isinstance(key, str) and 1 <= len(key) <= 128 and all("!" <= sign <= "~" for sign in key),
        InvalidInputError(
            f"idempotency key {str(key)[:80]!r} is not 1 to 128 printable ASCII characters "
            "without blanks.",
            hint="Use a UUID or a run id.",
        ),
    )
    return key


@tells_of_interrupts
def publish(
    context: Context,
    space: SpaceName,
    build: Build,
    *,
    key: str | None = None,
    note: Note | None = None,
    layouts: Mapping[Digest, Layout] | None = None,
    adapters: Mapping[TaskName, Adapter] | None = None,
    needs: Collection[Digest] = (),
) -> Commit:
    """Publish one record upon the head of a space, trying again where another writer was faster.

    Args:
        context: The registry.
        space: The space.
        build: Builds the record upon a head.
        key: Its idempotency key; a fresh one where None.
        note: Its note; one that says nothing is not stored.
        layouts: The layouts that its tasks name.
        adapters: Those it brings; None where an earlier commit with the key need not have them.
        needs: What its objects refer to.

    Returns:
        The commit; `created` is False where the key or `build` named an earlier one.

    Raises:
        ConflictError: other writers won every race, `build` found its precondition gone, or the
            key made a commit of other adapters.
        CommitInterrupted: in place of KeyboardInterrupt; it says whether the record is there.
        CommitStateUnknownError: the store failed in the middle of publishing.
        StoreError: the store failed before publishing; nothing was committed.
    """
    context.require_writable()
    key = idempotency_key(context, key)
    note = None if note == Note() else note
    note_digest = None
    if note is not None:
        content = note.to_bytes()
        ensure(
            len(content) <= MAX_JSON_BYTES,
            InvalidInputError(
                f"space {space!r}: message, labels, metrics and remarks of the commit come to"
                f" {len(content)} bytes, more than the limit of {MAX_JSON_BYTES}.",
                hint="Give fewer labels and metrics, or commit fewer adapters at once.",
            ),
        )
        # what no reader would take is never published (spec COM-09)
        Note.from_bytes(content)
        note_digest = sha256(content)
        context.store.put(content, note_digest)
    for attempt in range(_ATTEMPTS):
        try:
            with context.locked():
                published = _attempt(
                    context, space, build, key, note, note_digest, layouts or {}, adapters, needs
                )
        except ConnectionLostError as error:
            # it was lost before the record was created: nothing is committed
            _LOG.info("publishing to space %s again: %s", space, error)
            ensure(attempt + 1 < _ATTEMPTS, error)
            published = None
        if published is not None:
            number, created = published
            if created:
                context.outside.at("commit.ack")
            return read_commit(context, space, number, created=created)
        # growing, and different in every process
        spread = 0.5 + int(context.outside.token()[:4], 16) / 0x10000
        context.outside.wait(min(_MAX_PAUSE_S, 0.005 * (attempt + 1)) * spread)
    raise ConflictError(
        f"space {space!r}: other writers were faster {_ATTEMPTS} times.", hint="Run it again."
    )


def read_commit(
    context: Context, space: SpaceName, number: CommitNumber, *, created: bool
) -> Commit:
    """Return a commit as the catalog has it or, where that lags behind, the store (spec COM-06)."""
    try:
        with context.catalog.begin() as session:
            commit = commit_at(session, space, number, created=created)
    except ShareRegistryError as error:
        _LOG.warning("the catalog does not show %s/@c%d yet: %s", space, number, error)
        with closing(replay_in_memory(context.store)[0]) as catalog, catalog.begin() as session:
            commit = commit_at(session, space, number, created=created)
    # after publishing nothing of the store is asked any more: the commit stands whatever fails
    return commit if created else with_basis_size(context, commit)


def _attempt(
    context: Context,
    space: SpaceName,
    build: Build,
    key: str,
    note: Note | None,
    note_digest: Digest | None,
    layouts: Mapping[Digest, Layout],
    adapters: Mapping[TaskName, Adapter] | None,
    needs: Collection[Digest],
) -> tuple[CommitNumber, bool] | None:
    """Build the record that follows the head, apply it to the catalog, and create it in the store.

    What no catalog could follow must never be published (spec COM-04), so the catalog has it first
    and keeps it only when it is created.

    Returns:
        The commit, and whether it was made now; None where a writer with another catalog was
        faster.
    """
    context.catch_up()
    context.require_end(space)
    created: CommitNumber | None = None
    try:
        with context.catalog.begin(write=True, space=space) as session:
            head = lookups.head(session, space)
            if head is None and context.store.record(space, CommitNumber(1)) is not None:
                # the catalog was emptied since it caught up
                return None
            earlier = commit_of_key(session, space, key, adapters) if head is not None else None
            place = _place_after(context, space, head, key, note_digest)
            record = build(session, place) if earlier is None else earlier
            # whoever published the head may have died before it was durable; from here on it is
            # built upon or acknowledged
            context.store.sync_log(space)
            if isinstance(record, int):
                return record, False
            brought = {Digest(entry.adapter) for entry in getattr(record, "tasks", ())}
            require_unreplaced(context, session, space, needs, brought)
            entry = LogEntry(record=record, id=record.id, note=note, layouts={**layouts})
            apply_entry(session, context.store, entry)
            _check_closure(context.store, record, note, needs)
            context.outside.at("commit.publish")
            if not _create_record(context, record):
                session.rollback()
                return None
            created = CommitNumber(record.number)
            _keep_head(context, record)
            context.outside.at("commit.catalog")
    except ShareRegistryError as error:
        if created is None:
            raise
        # it is committed whatever happens to the catalog (spec COM-06)
        _LOG.warning(
            "committed to space %s, but the catalog could not follow yet (%s); "
            "it will at the next opening",
            space,
            error,
        )
    return created, True


def _keep_head(context: Context, record: Record) -> None:
    """Note beside the log what was published; the commit stands whatever becomes of that."""
    head = KeptHead(number=CommitNumber(record.number), id=record.id)
    try:
        context.store.keep_head(SpaceName(record.space), head)
    except ShareRegistryError as error:
        _LOG.info("the end of the log of space %s could not be noted: %s", record.space, error)


def _place_after(
    context: Context, space: SpaceName, head: lookups.Head | None, key: str, note: Digest | None
) -> Place:
    now = timestamp(context.outside.now())
    place: Place = {"space": space, "key": key, "note": note}
    if head is None:
        return place | {"number": 1, "parent": sha256(context.store.format_bytes()), "time": now}
    return place | {"number": head.number + 1, "parent": head.id, "time": max(now, head.time)}


def _check_closure(
    store: Store, record: Record, note: Note | None, needs: Collection[Digest]
) -> None:
    """Check that all that a record names is there still (spec COM-01).

    Under the lock of the catalog, which a collector of garbage takes too (spec MNT-05). Raises
    ConflictError.
    """
    named = {*needs, *(digest for digest, _ in objects_of_record(record))}
    if note is not None:
        named.update(digest for digest, _ in objects_of_note(note))
    gone = store.missing(named)
    ensure(
        not gone,
        ConflictError(
            f"c{record.number} of space {record.space!r} needs objects that were removed before it "
            f"was published: {first_and_more(gone)}.",
            hint="Run it again: what is missing is stored anew.",
        ),
    )


def _create_record(context: Context, record: Record) -> bool:
    """Create the record's file, the one step that commits; False where the number is taken.

    Raises CommitStateUnknownError where the store cannot tell (spec COM-07): a flush that failed
    proves nothing when tried again, so the record is only compared, never cleaned up.
    """
    space, number, content = SpaceName(record.space), CommitNumber(record.number), record.to_bytes()
    check_end(context.store, space, number)
    # spec COM-09
    parse_record(content, subject=f"record c{number} of space {space}")
    note_attempt(record, content)
    try:
        return context.store.publish(space, number, content)
    except PublishStateUnknownError as cause:
        unknown = CommitStateUnknownError(
            f"space {space!r}: whether c{number} was committed is not known: {cause.message}",
            key=record.key,
        )
        try:
            present = context.store.record(space, number)
        except ShareRegistryError as error:
            raise unknown from error
        if present is None or present == content:
            raise unknown from cause
        return False
