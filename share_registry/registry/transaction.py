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

from share_registry.catalog import leases, queries
from share_registry.catalog.projection import apply
from share_registry.errors import (
    CommitUnknown,
    Conflict,
    InvalidInput,
    ShareRegistryError,
    StoreError,
)
from share_registry.format.canonical import sha256
from share_registry.format.layout import Layout
from share_registry.format.records import Note, Record
from share_registry.names import CommitNumber, Digest, SpaceName, timestamp
from share_registry.registry.home import Home
from share_registry.registry.replay import check_end
from share_registry.store.protocol import PublishUnknown

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

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


def idempotency_key(home: Home, key: str | None) -> str:
    """Return the caller's key or a fresh one. Raises InvalidInput."""
    if key is None:
        return home.outside.token()
    if (
        not isinstance(key, str)
        or not 1 <= len(key) <= 128
        or not all("!" <= sign <= "~" for sign in key)
    ):
        raise InvalidInput(
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


def publish(home: Home, space: SpaceName, request: Request) -> Published:
    """Publish one record upon the head of a space, trying again where another writer was faster.

    Raises:
        Conflict: other writers won every race, or `build` found its precondition gone.
        CommitUnknown: the store failed in the middle of publishing.
        StoreError: the store failed before publishing; nothing was committed.
    """
    home.require_writable()
    note = put_note(home, request.note)
    turn = False
    try:
        for attempt in range(_ATTEMPTS):
            with home.locked():
                done = _attempt(home, space, request, note)
            if done is not None:
                return done
            turn = turn or _take_turn(home, space, request.key)
            if not turn:
                home.outside.wait(_pause(home, attempt))
    finally:
        if turn:
            _give_turn(home, space, request.key)
    raise Conflict(
        f"space {space!r}: other writers were faster {_ATTEMPTS} times.", hint="Run it again."
    )


def _take_turn(home: Home, space: SpaceName, key: str) -> bool:
    """After a lost race, take the space's lease, so that other losers wait.

    No promise rests on it.
    """
    now = home.outside.now()
    try:
        with home.catalog.begin(write=True) as session:
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


def _give_turn(home: Home, space: SpaceName, key: str) -> None:
    try:
        with home.catalog.begin(write=True) as session:
            leases.release(session, space=space, holder=key)
    except ShareRegistryError as error:
        _LOG.debug("lease of space %s is left to expire: %s", space, error)


def _pause(home: Home, attempt: int) -> float:
    """Return how long to wait before the next attempt, in seconds.

    Growing, and different in every process.
    """
    return min(_MAX_PAUSE_S, 0.005 * (attempt + 1)) * (
        0.5 + int(home.outside.token()[:4], 16) / 0x10000
    )


def put_note(home: Home, note: Note | None) -> Digest | None:
    """Store a note; None for one that says nothing."""
    if note is None or note == Note():
        return None
    content = note.to_bytes()
    digest = sha256(content)
    home.store.put(content, digest)
    return digest


def _attempt(
    home: Home, space: SpaceName, request: Request, note: Digest | None
) -> Published | None:
    home.catch_up()
    with home.catalog.begin() as session:
        known = queries.head(session, space)
        earlier = queries.commit_of_key(session, space, request.key) if known else None
        made = (
            earlier
            if earlier is not None
            else request.build(session, _link(home, space, known, request.key, note))
        )
    home.store.sync_log(
        space
        # whoever published the head may have died before it was durable; from here on it is built upon
        # or acknowledged
    )
    if isinstance(made, int):
        return Published(space=space, number=made, created=False)
    if not _published(home, made, request):
        return None
    home.outside.at("commit.ack")
    return Published(space=space, number=CommitNumber(made.number), created=True)


def _published(home: Home, record: Record, request: Request) -> bool:
    """Apply a record to the catalog, publish it, and only then let the catalog keep it.

    What no catalog could follow must never be published (spec COM-04).

    Returns:
        False where another writer's record has come in between.
    """
    done = False
    try:
        with home.catalog.begin(write=True) as session:
            known = queries.head(session, record.space)
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
                home.outside.at("commit.publish")
                done = _publish(home, record)
            if done:
                home.outside.at("commit.catalog")
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
    home: Home, space: SpaceName, known: queries.Head | None, key: str, note: Digest | None
) -> Link:
    now = timestamp(home.outside.now())
    if known is None:
        return Link(
            space=space,
            number=CommitNumber(1),
            parent=sha256(home.store.format_bytes()),
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


def _publish(home: Home, record: Record) -> bool:
    space, number = SpaceName(record.space), CommitNumber(record.number)
    content = record.to_bytes()
    check_end(home.store, space, number)
    try:
        return home.store.publish(space, number, content)
    except PublishUnknown as error:
        return _find_out(home, record, content, error)


def _find_out(home: Home, record: Record, content: bytes, cause: StoreError) -> bool:
    """After a failure past the link.

    Never clean up, ask the store, and say so where it cannot tell (spec COM-07). A flush that
    failed proves nothing when tried again.
    """
    unknown = CommitUnknown(
        f"space {record.space!r}: whether c{record.number} was committed is not known: {cause.message}",
        key=record.key,
    )
    try:
        found = home.store.record(SpaceName(record.space), CommitNumber(record.number))
    except ShareRegistryError as error:
        raise unknown from error
    if found is None or found == content:
        raise unknown from cause
    return False
