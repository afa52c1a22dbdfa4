"""Publish one record: the exclusive creation of record n+1 in the store is the commit (spec COM-01 to COM-09).

Objects are durable before. A lost race is tried again upon the new head; after an attempt whose outcome is unknown nothing is cleaned up, and the idempotency key finds out what happened.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from share_registry.catalog import queries
from share_registry.errors import CommitUnknown, Conflict, InvalidInput, ShareRegistryError, StoreError
from share_registry.format.canonical import sha256
from share_registry.format.records import Note, Record
from share_registry.names import CommitNumber, Digest, SpaceName, timestamp
from share_registry.registry.home import Home
from share_registry.store.protocol import PublishUnknown

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_LOG: Final = logging.getLogger(__name__)
_ATTEMPTS: Final = 200
_MAX_PAUSE_S: Final = 0.5


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
        return {"space": self.space, "number": self.number, "parent": self.parent, "time": self.time, "key": self.key, "note": self.note}


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
    if not isinstance(key, str) or not 1 <= len(key) <= 128 or not all("!" <= sign <= "~" for sign in key):
        raise InvalidInput(f"idempotency key {str(key)[:80]!r} is not 1 to 128 printable ASCII characters without blanks.", hint="Use a UUID or a run id.")
    return key


def publish(home: Home, space: SpaceName, build: Build, *, key: str, note: Note | None = None) -> Published:
    """Publish one record upon the head of a space, trying again where another writer was faster.

    Raises:
        Conflict: other writers won every race, or `build` found its precondition gone.
        CommitUnknown: the store failed in the middle of publishing.
        StoreError: the store failed before publishing; nothing was committed.
    """
    home.require_writable()
    digest = put_note(home, note)
    for attempt in range(_ATTEMPTS):
        with home.locked():
            done = _attempt(home, space, build, key=key, note=digest)
        if done is not None:
            return done
        home.outside.wait(_pause(home, attempt))
    raise Conflict(f"space {space!r}: other writers were faster {_ATTEMPTS} times.", hint="Run it again.")


def _pause(home: Home, attempt: int) -> float:
    """Return how long to wait before the next attempt, in seconds: growing, and different in every process."""
    return min(_MAX_PAUSE_S, 0.005 * (attempt + 1)) * (0.5 + int(home.outside.token()[:4], 16) / 0x10000)


def put_note(home: Home, note: Note | None) -> Digest | None:
    """Store a note; None for one that says nothing."""
    if note is None or note == Note():
        return None
    content = note.to_bytes()
    digest = sha256(content)
    home.store.put(content, digest)
    return digest


def _attempt(home: Home, space: SpaceName, build: Build, *, key: str, note: Digest | None) -> Published | None:
    home.catch_up()
    with home.catalog.begin() as session:
        known = queries.head(session, space)
        earlier = queries.commit_of_key(session, space, key) if known else None
        if earlier is not None:
            return Published(space=space, number=earlier, created=False)
        made = build(session, _link(home, session, space, known, key, note))
    if isinstance(made, int):
        return Published(space=space, number=made, created=False)
    home.outside.at("commit.publish")
    if not _publish(home, made):
        return None
    home.outside.at("commit.catalog")
    _follow(home, space)
    home.outside.at("commit.ack")
    return Published(space=space, number=CommitNumber(made.number), created=True)


def _link(home: Home, session: "Session", space: SpaceName, known: "queries.Head | None", key: str, note: Digest | None) -> Link:
    now = timestamp(home.outside.now())
    if known is None:
        return Link(space=space, number=CommitNumber(1), parent=sha256(home.store.format_bytes()), time=now, key=key, note=note)
    return Link(space=space, number=CommitNumber(known.number + 1), parent=known.id, time=max(now, known.time), key=key, note=note)


def _publish(home: Home, record: Record) -> bool:
    space, number = SpaceName(record.space), CommitNumber(record.number)
    content = record.to_bytes()
    if number > 1:
        home.store.sync_log(space)
    try:
        return home.store.publish(space, number, content)
    except PublishUnknown as error:
        return _find_out(home, record, content, error)


def _find_out(home: Home, record: Record, content: bytes, cause: StoreError) -> bool:
    """After a failure past the link: never clean up, ask the store, and say so where it cannot tell (spec COM-07)."""
    try:
        home.store.sync_log(SpaceName(record.space))
        found = home.store.record(SpaceName(record.space), CommitNumber(record.number))
    except ShareRegistryError as error:
        raise CommitUnknown(f"space {record.space!r}: whether c{record.number} was committed is not known: {cause.message}", key=record.key) from error
    if found is None:
        raise CommitUnknown(f"space {record.space!r}: whether c{record.number} was committed is not known: {cause.message}", key=record.key) from cause
    return found == content


def _follow(home: Home, space: SpaceName) -> None:
    """Bring the catalog up to the commit; it is committed whatever happens here (spec COM-06)."""
    try:
        home.catch_up()
    except ShareRegistryError as error:
        _LOG.warning("committed to space %s, but the catalog could not follow yet (%s); it will at the next opening", space, error)
