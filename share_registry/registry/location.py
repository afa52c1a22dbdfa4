"""Where a registry is: its store and its catalog, as callers and the environment name them."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from share_registry.catalog.catalog import absolute_url
from share_registry.errors import InvalidInputError, ensure
from share_registry.kinds import FilePath
from share_registry.outside.files import Outside
from share_registry.registry.arguments import check_place
from share_registry.store.bucket import check_address, is_bucket
from share_registry.store.head_notes import CATALOG
from share_registry.store.object_cache import index_folder
from share_registry.store.open import MEMORY, refuse_hub
from share_registry.store.protocol import Store

DEFAULT_LOCATION: Final = "./share-registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a registry is.

    Attributes:
        store: The store, or where it is: a directory, a bucket or `memory://`.
        catalog: URL of a catalog that is not the one embedded beside the store.
        index: Directory of the embedded catalog of a store that is in no directory.
    """

    store: FilePath | Store
    catalog: str | None
    index: Path | None = None

    @property
    def root(self) -> Path | None:
        """The directory of the store, None where it has none."""
        if isinstance(self.store, str | os.PathLike) and "://" not in os.fspath(self.store):
            return Path(self.store)
        return None

    @property
    def address(self) -> str:
        """The store as it is called in messages and commands."""
        return os.fspath(self.store) if isinstance(self.store, str | os.PathLike) else MEMORY

    @property
    def is_kept(self) -> bool:
        """Whether the store outlives the process and may be made by opening it."""
        return isinstance(self.store, str | os.PathLike) and self.address != MEMORY

    @property
    def is_shared(self) -> bool:
        """Whether another process can open it: neither store nor catalog is in memory."""
        return self.is_kept and self.catalog_url is not None

    @property
    def catalog_url(self) -> str | None:
        """The URL of the catalog; None for one in memory."""
        folder = self.root or self.index
        if self.catalog is not None or folder is None:
            return self.catalog
        return f"sqlite:///{folder / CATALOG}"


def locate(
    location: FilePath | None, *, store: FilePath | Store | None, outside: Outside
) -> Location:
    """Return where the store and the catalog are. Raises InvalidInputError."""
    for name, value in (("location", location), ("store", store)):
        if value is not None and not _is_store(value):
            check_place(name, value)
    if location is None and isinstance(store, Store):
        return Location(store=store, catalog=None)
    address = (
        os.fspath(location)
        if location is not None
        else outside.environment("SHARE_REGISTRY_URI") or DEFAULT_LOCATION
    )
    if is_bucket(address) and store in (None, address):
        address = check_address(address)
        return Location(store=address, catalog=None, index=index_folder(address, outside))
    if "://" in address and not address.startswith("memory:"):
        store = store if store is not None else outside.environment("SHARE_REGISTRY_STORE")
        if not store:
            _check_scheme(address)
            raise InvalidInputError(
                "a catalog URL needs the store: a directory or a bucket.",
                hint="Give store= (--store) or set $SHARE_REGISTRY_STORE.",
            )
        return Location(store=store, catalog=address)
    if isinstance(store, Store) or (store is not None and Path(store) != Path(address)):
        stated = type(store).__name__ if isinstance(store, Store) else repr(os.fspath(store))
        raise InvalidInputError(
            f"store= {stated} is given beside {address!r}.",
            hint="Give store= only with a catalog URL.",
        )
    return Location(store=address, catalog=None)


def _is_store(value: object) -> bool:
    # texts and paths are told apart first: a store may be any object with its members
    return not isinstance(value, str | os.PathLike) and isinstance(value, Store)


def _check_scheme(address: str) -> None:
    """Check that a URL is one of a catalog. Raises InvalidInputError."""
    refuse_hub(address)
    scheme = address.partition("://")[0]
    ensure(
        scheme.partition("+")[0] in ("sqlite", "postgresql", "postgres"),
        InvalidInputError(
            f"a registry of kind {scheme!r} is not supported, expected sqlite or postgresql.",
            hint="Give a directory, a bucket (s3://, gs://, az://), memory://, or the URL of a "
            "catalog (sqlite:///... or postgresql+psycopg://...) with its store.",
        ),
    )


def what_is_at(place: FilePath | Store, outside: Outside) -> object:
    """Return what tells a store from others: another name of it gives the same."""
    if not isinstance(place, str | os.PathLike):
        return place
    address = os.fspath(place)
    return address.rstrip("/") if "://" in address else outside.resolved(Path(address))


def require_apart(path: FilePath, place: Location | None, outside: Outside) -> None:
    """Check that what is written for others does not lie in the store. Raises InvalidInputError."""
    root = None if place is None else place.root
    if root is None:
        return
    store, target = outside.resolved(root), outside.resolved(outside.absolute(Path(path)))
    ensure(
        target != store and store not in target.parents,
        InvalidInputError(
            f"{path} is in the store of the registry, where nothing else belongs.",
            hint="Give another directory.",
        ),
    )


def absolute_place(place: Location, outside: Outside) -> Location:
    """Return a place as processes with any working directory open it."""
    store = place.store if place.root is None else outside.absolute(place.root)
    catalog = None if place.catalog is None else absolute_url(place.catalog, outside)
    return replace(place, store=store, catalog=catalog)
