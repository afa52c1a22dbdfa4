"""Publish one record.

The exclusive creation of record n+1 in the store is the commit (spec COM-01 to COM-09).

Objects are durable before. A lost race is tried again upon the new head; after an attempt whose
outcome is unknown nothing is cleaned up, and the idempotency key finds out what happened.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from share_registry.catalog import leases
from share_registry.catalog.projection.apply import apply
from share_registry.catalog.queries import lookups
from share_registry.errors import (
    CommitStateUnknownError,
    ConflictError,
    InvalidInputError,
    ShareRegistryError,
    StoreError,
)
from share_registry.format.canonical import sha256
from share_registry.format.layout import Layout
from share_registry.format.records import Note, Record
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.registry.context import Context
from share_registry.registry.sync import check_end
from share_registry.store.protocol import PublishStateUnknownError
from share_registry.times import timestamp

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session

_LOG: Final = logging.getLogger(__name__)
_ATTEMPTS: Final = 200
_MAX_PAUSE_S: Final = 0.5
_LEASE: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Where a record goes: everything its members share with its place in the chain."""

    space: SpaceName
    number: CommitNumber
    parent: Digest
    time: str
    key: str
    note: Digest | None

    def members(self) -> dict[str, object]:
        """Return the members as keyword arguments of a record."""
        return {
            "space": self.space,
            "number": self.number,
            "parent": self.parent,
            "time": self.time,
            "key": self.key,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A record that is in the log: made now, or found by its key."""

    space: SpaceName
    number: CommitNumber
    created: bool


Build = Callable[["Session", Link], "Record | CommitNumber"]
"""Check the preconditions upon the present head and make the record, or return an earlier commit that already says so."""


def idempotency_key(context: Context, key: str | None) -> str:
    """Return the caller's key or a fresh one. Raises InvalidInputError."""
    if key is None:
        return context.outside.token()
    if (
        not isinstance(key, str)
        or not 1 <= len(key) <= 128
        or not all("!" <= sign <= "~" for sign in key)
    ):
        raise InvalidInputError(
            f"idempotency key {str(key)[:80]!r} is not 1 to 128 printable ASCII characters without blanks.",
            hint="Use a UUID or a run id.",
        )
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One record to be published.

    Attributes:
        build: Makes it upon a head.
        key: Its idempotency key.
        note: Its note, where it has one.
        layouts: The layouts that its tasks name.
    """

    build: Build
    key: str
    note: Note | None = None
    layouts: Mapping[Digest, Layout] = field(default_factory=dict)


def publish(context: Context, space: SpaceName, request: Request) -> Published:
    """Publish one record upon the head of a space, trying again where another writer was faster.

    Raises:
        ConflictError: other writers won every race, or `build` found its precondition gone.
        CommitStateUnknownError: the store failed in the middle of publishing.
        StoreError: the store failed before publishing; nothing was committed.
    """
    context.require_writable()
    note = put_note(context, request.note)
    turn = False
    try:
        for attempt in range(_ATTEMPTS):
            with context.locked():
                done = _attempt(context, space, request, note)
            if done is not None:
                return done
            turn = turn or _take_turn(context, space, request.key)
            if not turn:
                context.outside.wait(_pause(context, attempt))
    finally:
        if turn:
            _give_turn(context, space, request.key)
    raise ConflictError(
        f"space {space!r}: other writers were faster {_ATTEMPTS} times.", hint="Run it again."
    )


def _take_turn(context: Context, space: SpaceName, key: str) -> bool:
    """After a lost race, take the space's lease, so that other losers wait.

    No promise rests on it.
    """
    now = context.outside.now()
    try:
        with context.catalog.begin(write=True) as session:
            return leases.take(
                session,
                space=space,
                holder=key,
                now=timestamp(now),
                expires=timestamp(now + _LEASE),
            )
    except ShareRegistryError as error:
        _LOG.debug("no lease of space %s: %s", space, error)
        return False


def _give_turn(context: Context, space: SpaceName, key: str) -> None:
    try:
        with context.catalog.begin(write=True) as session:
            leases.release(session, space=space, holder=key)
    except ShareRegistryError as error:
        _LOG.debug("lease of space %s is left to expire: %s", space, error)


def _pause(context: Context, attempt: int) -> float:
    """Return how long to wait before the next attempt, in seconds.

    Growing, and different in every process.
    """
    return min(_MAX_PAUSE_S, 0.005 * (attempt + 1)) * (
        0.5 + int(context.outside.token()[:4], 16) / 0x10000
    )


def put_note(context: Context, note: Note | None) -> Digest | None:
    """Store a note; None for one that says nothing."""
    if note is None or note == Note():
        return None
    content = note.to_bytes()
    digest = sha256(content)
    context.store.put(content, digest)
    return digest


def _attempt(
    context: Context, space: SpaceName, request: Request, note: Digest | None
) -> Published | None:
    context.catch_up()
    with context.catalog.begin() as session:
        known = lookups.head(session, space)
        earlier = lookups.commit_of_key(session, space, request.key) if known else None
        made = (
            earlier
            if earlier is not None
            else request.build(session, _link(context, space, known, request.key, note))
        )
    context.store.sync_log(
        space
        # whoever published the head may have died before it was durable; from here on it is built upon
        # or acknowledged
    )
    if isinstance(made, int):
        return Published(space=space, number=made, created=False)
    if not _published(context, made, request):
        return None
    context.outside.at("commit.ack")
    return Published(space=space, number=CommitNumber(made.number), created=True)


def _published(context: Context, record: Record, request: Request) -> bool:
    """Apply a record to the catalog, publish it, and only then let the catalog keep it.

    What no catalog could follow must never be published (spec COM-04).

    Returns:
        False where another writer's record has come in between.
    """
    done = False
    try:
        with context.catalog.begin(write=True) as session:
            known = lookups.head(session, record.space)
            if (
                known is None
                if record.number == 1
                else known is not None and known.id == record.parent
            ):
                apply(
                    session,
                    record=record,
                    id=record.id,
                    note=request.note if record.note else None,
                    layouts=request.layouts,
                )
                context.outside.at("commit.publish")
                done = _publish(context, record)
            if done:
                context.outside.at("commit.catalog")
            else:
                session.rollback()
    except ShareRegistryError as error:
        if not done:
            raise
        _LOG.warning(  # it is committed whatever happens to the catalog (spec COM-06)
            "committed to space %s, but the catalog could not follow yet (%s); it will at the next opening",
            record.space,
            error,
        )
    return done


def _link(
    context: Context, space: SpaceName, known: lookups.Head | None, key: str, note: Digest | None
) -> Link:
    now = timestamp(context.outside.now())
    if known is None:
        return Link(
            space=space,
            number=CommitNumber(1),
            parent=sha256(context.store.format_bytes()),
            time=now,
            key=key,
            note=note,
        )
    return Link(
        space=space,
        number=CommitNumber(known.number + 1),
        parent=known.id,
        time=max(now, known.time),
        key=key,
        note=note,
    )


def _publish(context: Context, record: Record) -> bool:
    space, number = SpaceName(record.space), CommitNumber(record.number)
    content = record.to_bytes()
    check_end(context.store, space, number)
    try:
        return context.store.publish(space, number, content)
    except PublishStateUnknownError as error:
        return _find_out(context, record, content, error)


def _find_out(context: Context, record: Record, content: bytes, cause: StoreError) -> bool:
    """After a failure past the link.

    Never clean up, ask the store, and say so where it cannot tell (spec COM-07). A flush that
    failed proves nothing when tried again.
    """
    unknown = CommitStateUnknownError(
        f"space {record.space!r}: whether c{record.number} was committed is not known: {cause.message}",
        key=record.key,
    )
    try:
        found = context.store.record(SpaceName(record.space), CommitNumber(record.number))
    except ShareRegistryError as error:
        raise unknown from error
    if found is None or found == content:
        raise unknown from cause
    return False
