"""Open a registry: which store, which catalog, and what to do where one cannot be used."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from share_registry.catalog.catalog import Catalog, check_reachable
from share_registry.errors import CatalogError, ConflictError, InvalidInputError
from share_registry.names import SpaceName, space_name
from share_registry.outside.files import Outside
from share_registry.registry.arguments import FilePath, check_place
from share_registry.registry.context import Context, check_device
from share_registry.registry.sync import replay_in_memory
from share_registry.store.open import MEMORY, is_new, open_store
from share_registry.store.protocol import Store

_LOG: Final = logging.getLogger(__name__)
CATALOG_FILE: Final = "catalog.sqlite"
DEFAULT_LOCATION: Final = "./share-registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a registry is.

    Attributes:
        store: The store, or where it is: a directory or `memory://`.
        catalog: URL of a catalog that is not the one embedded beside the store.
    """

    store: FilePath | Store
    catalog: str | None

    @property
    def root(self) -> Path | None:
        """The directory of the store, None where it has none."""
        if isinstance(self.store, str | os.PathLike) and "://" not in os.fspath(self.store):
            return Path(self.store)
        return None

    @property
    def catalog_url(self) -> str | None:
        """The URL of the catalog; None for one in memory."""
        if self.catalog is not None or self.root is None:
            return self.catalog
        return f"sqlite:///{self.root / CATALOG_FILE}"


def open_context(
    location: FilePath | None,
    *,
    store: FilePath | Store | None,
    space: str | None,
    mode: str,
    outside: Outside,
    device: str | None = None,
) -> tuple[Context, SpaceName | None]:
    """Open a registry, creating it in mode "c" where it is missing.

    Returns:
        What its verbs work on, and the space of calls that name none.

    Raises:
        InvalidInputError: mode or location is malformed, or the device is not there.
        NotFoundError: there is no registry and the mode does not create one.
        RefusedError: the directory holds something else.
        FormatError: the store is of another format version.
        CatalogError: the catalog cannot be reached or is of another schema.
    """
    if mode not in ("r", "w", "c"):
        raise InvalidInputError(
            f"mode {mode!r} is not 'r', 'w' or 'c'.",
            hint="'r' reads, 'w' writes, 'c' creates where it is missing.",
        )
    default = space if space is not None else outside.environment("SHARE_REGISTRY_SPACE")
    scope = space_name(default) if default else None
    if device is not None:
        check_device(device)
    place = locate(location, store=store, outside=outside)
    if place.catalog is not None and mode == "c" and is_new(place.store, outside):
        _check_catalog(place, outside)
    opened = open_store(place.store, mode, outside)
    catalog = _open_catalog(opened, place, mode, outside)
    context = Context(
        outside=outside,
        store=opened,
        catalog=catalog,
        location=catalog.safe_url if place.catalog is not None else str(place.root or MEMORY),
        writable=mode != "r",
        beside=place.root,
        device_name=device or outside.environment("SHARE_REGISTRY_DEVICE") or "cpu",
    )
    return context, scope


def _check_catalog(place: Location, outside: Outside) -> None:
    """Check that a catalog can be used before its store is made: none is left half-made."""
    try:
        check_reachable(str(place.catalog), outside)
    except CatalogError:
        # where another process has made both meanwhile, they are opened
        if is_new(place.store, outside):
            raise


def locate(
    location: FilePath | None, *, store: FilePath | Store | None, outside: Outside
) -> Location:
    """Return where the store and the catalog are. Raises InvalidInputError."""
    for name, value in (("location", location), ("store", store)):
        if value is not None and not isinstance(value, Store):
            check_place(name, value)
    if location is None and isinstance(store, Store):
        return Location(store=store, catalog=None)
    address = (
        os.fspath(location)
        if location is not None
        else outside.environment("SHARE_REGISTRY_URI") or DEFAULT_LOCATION
    )
    if "://" in address and not address.startswith("memory:"):
        store = store if store is not None else outside.environment("SHARE_REGISTRY_STORE")
        if not store:
            raise InvalidInputError(
                "a catalog URL needs the directory of the store.",
                hint="Give store= (--store) or set $SHARE_REGISTRY_STORE.",
            )
        return Location(store=store, catalog=address)
    if isinstance(store, Store) or (store is not None and Path(store) != Path(address)):
        shown = type(store).__name__ if isinstance(store, Store) else repr(os.fspath(store))
        raise InvalidInputError(
            f"store= {shown} is given beside {address!r}.",
            hint="Give store= only with a catalog URL.",
        )
    return Location(store=address, catalog=None)


def _open_catalog(store: Store, place: Location, mode: str, outside: Outside) -> Catalog:
    """Open the catalog of a store.

    The embedded one is an index beside the store, so a damaged one is set aside and made again.
    """
    url = place.catalog_url
    if url is None:
        return replay_in_memory(store)
    if place.catalog is not None or place.root is None:
        return _check_identity(
            Catalog.open(url, mode=mode, store_id=store.identity), store.identity
        )
    try:
        embedded = Catalog.open(url, mode="c" if mode == "w" else mode, store_id=store.identity)
        return _check_identity(embedded, store.identity)
    except (CatalogError, ConflictError) as error:
        _LOG.info("catalog %s cannot be used (%s); reading the store instead", url, error.message)
        if mode == "r":
            return replay_in_memory(store)
        if isinstance(error, ConflictError) or "db upgrade" in error.hint:
            raise
    _move_aside(place.root, outside)
    return _check_identity(Catalog.open(url, mode="c", store_id=store.identity), store.identity)


def _check_identity(catalog: Catalog, identity: str) -> Catalog:
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
