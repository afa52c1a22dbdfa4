"""One open registry: its store, its catalog, and how the catalog follows the store.

The store is the truth. The catalog answers; before it does, the record behind its head is probed,
and whatever it lacks is applied. Where the catalog cannot be written, one in memory takes its
place.
"""

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from share_registry.catalog.catalog import Catalog
from share_registry.errors import CatalogError, Conflict, Integrity, InvalidInput, NotFound, Refused
from share_registry.names import SpaceName, space_name
from share_registry.outside import Outside
from share_registry.registry.doors import check_place
from share_registry.registry.replay import fill, follow
from share_registry.store.local import LocalStore

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from share_registry.materialize.reader import Reader
    from share_registry.store.protocol import Store

_LOG: Final = logging.getLogger(__name__)
CATALOG_FILE: Final = "catalog.sqlite"
DEFAULT_LOCATION: Final = "./share-registry"


@dataclass(slots=True, kw_only=True)
class Home:
    """An open registry: what every verb works on.

    Attributes:
        location: Directory or catalog URL as given, without credentials.
        default_space: Space used where a call names none.
        writable: Whether verbs that commit are allowed.
        beside: Directory of the store, where there is one: files that follow from the store may be
            kept there.
        asked: The device on which commits and refits are to be computed.
    """

    outside: Outside
    store: "Store"
    catalog: Catalog
    location: str
    default_space: SpaceName | None
    writable: bool
    beside: Path | None = None
    asked: str = "cpu"
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
        with self.catalog.kept():
            self.catch_up()
            with self.catalog.begin() as session:
                yield session

    def catch_up(self) -> None:
        """Apply to the catalog every record it lacks.

        Raises Integrity where the store's log is damaged, Refused after `close`.
        """
        if self.closed:
            raise Refused("this registry is closed.", hint="Open it again.")
        with self.locked():
            if not follow(self.store, self.catalog, write=self.writable):
                self.catalog = replayed(self.store, self.catalog)

    @property
    def device(self) -> str:
        """The device on which commits and refits are computed.

        Raises InvalidInput where it is not there.
        """
        return _computing(self.asked)

    def require_writable(self) -> None:
        """Raise Refused in mode "r"."""
        if not self.writable:
            raise Refused("this registry is open for reading only.", hint="Open it with mode 'w'.")

    def reader(self) -> "Reader":
        """Return the materializer of this registry's objects; imports torch on first use."""
        if self._reader is None:
            from share_registry.materialize.reader import Reader

            self._reader = Reader(self.store)
        return self._reader


def open_home(
    location: str | os.PathLike[str] | None,
    *,
    store: str | os.PathLike[str] | None,
    space: str | None,
    mode: str,
    outside: Outside,
    device: str | None = None,
) -> Home:
    """Open a registry, creating it in mode "c" where it is missing.

    Raises:
        InvalidInput: mode or location is malformed, or the device is not there.
        NotFound: there is no registry and the mode does not create one.
        Refused: the directory holds something else.
        Format: the store is of another format version.
        CatalogError: the catalog cannot be reached or is of another schema.
    """
    if mode not in ("r", "w", "c"):
        raise InvalidInput(
            f"mode {mode!r} is not 'r', 'w' or 'c'.",
            hint="'r' reads, 'w' writes, 'c' creates where it is missing.",
        )
    default = space if space is not None else outside.environment("SHARE_REGISTRY_SPACE")
    if device is not None:
        _computing(device)
    root, url = places(location, store=store, outside=outside)
    opened = _open_store(root, mode, outside)
    catalog = _open_catalog(opened, url, root, mode, outside)
    return Home(
        outside=outside,
        store=opened,
        catalog=catalog,
        location=str(root) if url is None else catalog.safe_url,
        default_space=space_name(default) if default else None,
        writable=mode != "r",
        beside=root,
        asked=device or outside.environment("SHARE_REGISTRY_DEVICE") or "cpu",
    )


def _computing(device: str) -> str:
    """Return the name of a device that computes in float64. Raises InvalidInput."""
    if device == "cpu":
        return device
    from share_registry.registry.checkout import computing_device  # imports torch

    return computing_device(device)


def places(
    location: str | os.PathLike[str] | None,
    *,
    store: str | os.PathLike[str] | None,
    outside: Outside,
) -> tuple[Path, str | None]:
    """Return the directory of the store, and the URL of a catalog that is not the embedded one.

    Raises InvalidInput.
    """
    for name, given in (("location", location), ("store", store)):
        if given is not None:
            check_place(name, given)
    address = (
        os.fspath(location)
        if location is not None
        else outside.environment("SHARE_REGISTRY_URI") or DEFAULT_LOCATION
    )
    if "://" not in address:
        if store is not None and Path(store) != Path(address):
            raise InvalidInput(
                f"store= {os.fspath(store)!r} is given beside the directory {address!r}.",
                hint="Give store= only with a catalog URL.",
            )
        return Path(address), None
    root = store if store is not None else outside.environment("SHARE_REGISTRY_STORE")
    if not root:
        raise InvalidInput(
            "a catalog URL needs the directory of the store.",
            hint="Give store= (--store) or set $SHARE_REGISTRY_STORE.",
        )
    return Path(root), address


def catalog_url(root: Path) -> str:
    """Return the URL of the embedded catalog."""
    return f"sqlite:///{root / CATALOG_FILE}"


def replayed(store: "Store", broken: Catalog | None) -> Catalog:
    """Return a catalog in memory, filled with what the store has, in place of one that cannot be used."""
    if broken is not None:
        broken.close()
    catalog = Catalog.in_memory(store.identity)
    for space, damage in fill(store, catalog).items():
        _LOG.warning("space %s is shown as it was before the damage: %s", space, damage.message)
    return catalog


def _open_store(root: Path, mode: str, outside: Outside) -> "Store":
    if not outside.exists(root / "FORMAT"):
        if outside.exists(root / "objects"):
            raise Integrity(
                f"{root} holds objects and no FORMAT file.",
                hint="Bring FORMAT back from a copy of the store: without it the log proves nothing.",
            )
        if mode != "c":
            raise NotFound(
                f"there is no registry at {root}.",
                hint="Create it with mode 'c' or `share-registry init`.",
            )
        return LocalStore.create(root, outside, str(uuid.UUID(outside.token())))
    return LocalStore(root, outside, read_only=mode == "r")


def _open_catalog(
    store: "Store", url: str | None, root: Path, mode: str, outside: Outside
) -> Catalog:
    """Open the catalog given, or the embedded one.

    That is an index beside the store, so a damaged one is set aside and made again.
    """
    if url is not None:
        return _matching(Catalog.open(url, mode=mode, store_id=store.identity), store.identity)
    embedded = catalog_url(root)
    try:
        return _matching(
            Catalog.open(embedded, mode="c" if mode == "w" else mode, store_id=store.identity),
            store.identity,
        )
    except (CatalogError, Conflict) as error:
        _LOG.info(
            "catalog %s cannot be used (%s); reading the store instead",
            root / CATALOG_FILE,
            error.message,
        )
        if mode == "r":
            return replayed(store, None)
        if isinstance(error, Conflict) or "db upgrade" in error.hint:
            raise
    _move_aside(root, outside)
    return _matching(Catalog.open(embedded, mode="c", store_id=store.identity), store.identity)


def _matching(catalog: Catalog, identity: str) -> Catalog:
    """Check that a catalog is an index of this store. Raises CatalogError."""
    if catalog.store_id == identity:
        return catalog
    catalog.close()
    raise CatalogError(
        f"catalog {catalog.safe_url} is of store {catalog.store_id}, the store is {identity}.",
        hint="Give the catalog that belongs to this store, or an empty database.",
    )


def _move_aside(root: Path, outside: Outside) -> None:
    """Keep a damaged catalog file under another name; it is an index, so nothing is lost."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path = root / f"{CATALOG_FILE}{suffix}"
        if outside.exists(path):
            outside.replace(path, root / f"{CATALOG_FILE}{suffix}.damaged-{outside.token()[:8]}")
