"""One open registry: its store, its catalog, and how the catalog follows the store.

The store is the truth. The catalog answers; before it does, the record behind its head is probed,
and whatever it lacks is applied. A writer waits for others who write the catalog. A reader does
not: where the catalog cannot be written, or not now, what it lacks is laid over what it has.
"""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.engine import BRIEF_S, WAIT_S
from share_registry.catalog.queries.aliases import spaces
from share_registry.catalog.queries.lookups import mark_unknown
from share_registry.catalog.sql import Session
from share_registry.errors import (
    ConflictError,
    ConnectionLostError,
    FormatError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)
from share_registry.kinds import FilePath
from share_registry.names import Digest, SpaceName
from share_registry.outside.files import Outside
from share_registry.registry.admission import NamedCheck
from share_registry.registry.location import Location, require_apart
from share_registry.registry.log_ends import Lag, LogEnds
from share_registry.registry.replay import replay_in_memory
from share_registry.registry.sync import follow, forgotten, keep_heads, rebuild_catalog, stand_in
from share_registry.store.protocol import Store
from share_registry.values.commits import Commit

if TYPE_CHECKING:
    from share_registry.materialize.decoder import Reader

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedRecord:
    """A record as it was applied: its members, and those of its tasks by name."""

    members: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]


@dataclass(slots=True, kw_only=True)
class Context:
    """An open registry: what every verb works on.

    Attributes:
        catalog: What answers: the catalog that is kept, or what stands in for it.
        kept: The catalog that is kept; None while another process has it locked since the opening.
        open_kept: Opens that one, waiting for others so many seconds.
        location: Directory or catalog URL as given, without credentials.
        writable: Whether verbs that commit are allowed.
        beside: Directory of the store, where there is one: files that follow from the store may be
            kept there.
        place: Where it is opened again by other processes.
        device_name: The device on which commits and refits are to be computed.
        ends: The spaces whose log ends otherwise than the catalog can follow.
        recorded: Records that were compared with the catalog last, by commit id.
        checks: What is run on an adapter before it is committed, by name.
        created: What was created by the way, as sentences: the registry, spaces.
        author: Who records are by where a verb is not told; None until the environment is asked.
    """

    outside: Outside
    store: Store
    catalog: Catalog
    kept: Catalog | None
    open_kept: Callable[[float], Catalog]
    location: str
    writable: bool
    beside: Path | None = None
    place: Location | None = None
    device_name: str = "cpu"
    ends: LogEnds = field(default_factory=LogEnds)
    author: str | None = None
    recorded: OrderedDict[Digest, AppliedRecord] = field(default_factory=OrderedDict)
    created: list[str] = field(default_factory=list)
    checks: Mapping[str, NamedCheck] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _pid: int = field(default_factory=os.getpid)
    closed: bool = False
    _reader: "Reader | None" = None
    _warned: set[str] = field(default_factory=set)

    def close(self) -> None:
        """Release the catalog's connections and the store; every later verb is refused."""
        self.closed = True
        for catalog in filter(None, (self.catalog, self.kept)):
            catalog.close()
        self.store.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one thread of this process through; a forked child starts with a lock of its own."""
        if self._pid != os.getpid():
            self.lock, self._pid = threading.RLock(), os.getpid()
        with self.lock:
            yield

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a read transaction on a catalog that has everything the store had at this moment.

        Waits for no writer in another process, whatever that is doing.
        """
        with self.catalog.keep_connection(), ExitStack() as stack:
            # another thread may set both meanwhile
            catalog, ends = self._answer()
            try:
                session = stack.enter_context(catalog.begin(wait_s=BRIEF_S))
            except ShareRegistryError as error:
                if catalog.is_overlaid:
                    catalog, ends = self._replay(error)
                elif isinstance(error, ConflictError):
                    catalog, ends = self._stand_in(error)
                else:
                    raise
                session = stack.enter_context(catalog.begin())
            mark_unknown(session, ends.unknown)
            yield session

    def catch_up(self) -> None:
        """Apply to the catalog every record it lacks, up to those that cannot be read.

        Waits until other writers are done with it.

        Raises RefusedError after `close`.
        """
        if not self.writable:
            with self.reading():
                return
        self._require_open()
        with self.locked():
            self.catalog = self.lockable()
            self._set_ends(follow(self.store, self.catalog, write=True).ends)

    def lockable(self) -> Catalog:
        """Return the catalog that is kept: a write lock on it keeps every other writer out.

        Raises as `open_context`.
        """
        if self.kept is None:
            self.kept = self.open_kept(WAIT_S)
        return self.kept

    def _answer(self) -> tuple[Catalog, LogEnds]:
        """Let that catalog answer which has every record: the one that is kept, or a stand-in."""
        self._require_open()
        with self.locked():
            lag = self._follow_briefly()
            if lag is not None and lag.is_none and self.kept is not None:
                self.catalog, ends = self.kept, lag.ends
            else:
                self.catalog, ends = stand_in(self.store, self.kept, self.catalog, lag=lag)
            self._set_ends(ends)
            return self.catalog, ends

    def _stand_in(self, error: ConflictError) -> tuple[Catalog, LogEnds]:
        """Let a stand-in answer: a writer came in between, and stopped or was killed."""
        _LOG.info("the catalog is not waited for: %s", error.message)
        with self.locked():
            self.catalog, ends = stand_in(self.store, self.kept, self.catalog, lag=None)
            self._set_ends(ends)
            return self.catalog, ends

    def _replay(self, error: ShareRegistryError) -> tuple[Catalog, LogEnds]:
        """Let the store alone answer, where nothing can be laid over the catalog."""
        _LOG.info("the store is read in place of the catalog (%s)", error.message)
        with self.locked():
            self.catalog, ends = replay_in_memory(self.store)
            self._set_ends(ends)
            return self.catalog, ends

    def _follow_briefly(self) -> Lag | None:
        """Bring the catalog that is kept up to the store, if it may be written.

        Returns None where it is locked.
        """
        # whoever has a stand-in waited for the lock already
        wait_s = BRIEF_S if self.catalog is self.kept else 0.0
        try:
            if self.kept is None:
                self.kept = self.open_kept(wait_s)
            # an index of this user's own may be brought up by whoever reads
            write = self.writable or (self.place is not None and self.place.index is not None)
            return follow(self.store, self.kept, write=write, wait_s=wait_s)
        except ConnectionLostError:
            raise
        except (ConflictError, StoreError) as error:
            _LOG.info("the catalog is not waited for: %s", error.message)
            return None

    def _require_open(self) -> None:
        ensure(not self.closed, RefusedError("this registry is closed.", hint="Open it again."))

    def require_end(self, space: SpaceName) -> None:
        """Check that a record may be built upon the end of a log.

        Raises IntegrityError, FormatError or StoreError where that end is not known or is lost.
        """
        for errors in (self.ends.unknown, self.ends.lost):
            if space in errors:
                raise errors[space]

    def _set_ends(self, ends: LogEnds) -> None:
        """Keep how the logs end, and warn once of every damage."""
        self.ends = ends
        for error in (*ends.unknown.values(), *ends.lost.values()):
            if not isinstance(error, FormatError) and str(error) not in self._warned:
                self._warned.add(str(error))
                _LOG.warning("%s", error)

    @property
    def device(self) -> str:
        """The device on which commits and refits are computed.

        Raises InvalidInputError where it is not there.
        """
        return check_device(self.device_name)

    def rebuild(self, *, accept_loss: bool) -> int:
        """Empty the catalog and fill it from the store; return the number of commits.

        Raises RefusedError where it would forget commits, unless told to accept that.
        """
        self.require_writable()
        with self.locked():
            self.catalog = self.lockable()
            lost = forgotten(self.store, self.catalog)
            ensure(
                accept_loss or not lost,
                RefusedError(
                    f"the catalog knows commits that are not in the store: {', '.join(lost)}.",
                    hint="Bring the records back from a copy of the store, or rebuild with "
                    "accept_loss=True and forget them.",
                ),
            )
            rebuild_catalog(self.store, self.catalog)
            if not self.store.read_only:
                keep_heads(self.store, self.catalog)
        with self.reading() as session:
            return sum(space.commits for space in spaces(session))

    def require_apart(self, path: FilePath) -> None:
        """Check that what is written for others is not in the store. Raises InvalidInputError."""
        require_apart(path, self.place, self.outside)

    def require_writable(self) -> None:
        """Raise RefusedError in mode "r"."""
        ensure(
            self.writable,
            RefusedError("this registry is open for reading only.", hint="Open it with mode 'w'."),
        )

    def forget_decoded(self) -> None:
        """Forget what was decoded, so that objects are read again."""
        self._reader = None

    def say_created(self, text: str) -> None:
        """Note that something was created by the way, so that it does not appear without a word."""
        _LOG.info("%s", text)
        self.created.append(text)

    def author_of(self, author: str | None) -> str | None:
        """Return who a record is by: who is named, else the default; None where that is empty."""
        if author is not None:
            return author or None
        if self.author is None:
            from share_registry.exchange.environment import default_author

            self.author = default_author(self.outside) or ""
        return self.author or None

    def reader(self) -> "Reader":
        """Return the materializer of this registry's objects; imports torch on first use."""
        if self._reader is None:
            from share_registry.materialize.decoder import Reader

            self._reader = Reader(self.store)
        return self._reader


def with_basis_size(context: Context, commit: Commit) -> Commit:
    """Return a commit that says how many bytes the basis takes that it brought."""
    if commit.basis is None:
        return commit
    size_bytes = context.store.size(commit.basis.digest)
    return replace(commit, basis=replace(commit.basis, size_bytes=size_bytes))


def check_device(device: str) -> str:
    """Return the name of a device that computes in float64. Raises InvalidInputError."""
    if device == "cpu":
        return device
    from share_registry.materialize.device import computing_device

    return computing_device(device)
