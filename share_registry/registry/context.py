"""One open registry: its store, its catalog, and how the catalog follows the store.

The store is the truth. The catalog answers; before it does, the record behind its head is probed,
and whatever it lacks is applied. Where the catalog cannot be written, one in memory takes its
place.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries.aliases import spaces
from share_registry.errors import RefusedError
from share_registry.outside.files import Outside
from share_registry.registry.sync import follow, forgotten, rebuild_catalog, replay_in_memory
from share_registry.values.commits import Commit

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.materialize.decoder import Reader
    from share_registry.store.protocol import Store

_LOG: Final = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Context:
    """An open registry: what every verb works on.

    Attributes:
        location: Directory or catalog URL as given, without credentials.
        writable: Whether verbs that commit are allowed.
        beside: Directory of the store, where there is one: files that follow from the store may be
            kept there.
        device_name: The device on which commits and refits are to be computed.
    """

    outside: Outside
    store: "Store"
    catalog: Catalog
    location: str
    writable: bool
    beside: Path | None = None
    device_name: str = "cpu"
    lock: threading.RLock = field(default_factory=threading.RLock)
    _pid: int = field(default_factory=os.getpid)
    closed: bool = False
    _reader: "Reader | None" = None

    def close(self) -> None:
        """Release the catalog's connections and the store; every later verb is refused."""
        self.closed = True
        self.catalog.close()
        self.store.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one thread of this process through; a forked child starts with a lock of its own."""
        if self._pid != os.getpid():
            self.lock, self._pid = threading.RLock(), os.getpid()
        with self.lock:
            yield

    @contextmanager
    def reading(self) -> "Iterator[Session]":
        """Open a read transaction on a catalog that has everything the store had at this moment."""
        with self.catalog.keep_connection():
            self.catch_up()
            with self.catalog.begin() as session:
                yield session

    def catch_up(self) -> None:
        """Apply to the catalog every record it lacks.

        Raises IntegrityError where the store's log is damaged, RefusedError after `close`.
        """
        if self.closed:
            raise RefusedError("this registry is closed.", hint="Open it again.")
        with self.locked():
            if not follow(self.store, self.catalog, write=self.writable):
                self.catalog.close()
                self.catalog = replay_in_memory(self.store)

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
            lost = forgotten(self.store, self.catalog)
            if lost and not accept_loss:
                raise RefusedError(
                    f"the catalog knows commits that are not in the store: {', '.join(lost)}.",
                    hint="Bring the records back from a copy of the store, or rebuild with "
                    "accept_loss=True and forget them.",
                )
            rebuild_catalog(self.store, self.catalog)
        with self.reading() as session:
            return sum(space.commits for space in spaces(session))

    def require_writable(self) -> None:
        """Raise RefusedError in mode "r"."""
        if not self.writable:
            raise RefusedError(
                "this registry is open for reading only.", hint="Open it with mode 'w'."
            )

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
