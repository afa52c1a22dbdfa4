"""From a place to an open registry: its store, made where it is missing, and a catalog of it."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Final

from share_registry.catalog.catalog import Catalog, check_reachable
from share_registry.catalog.database_errors import without_password
from share_registry.catalog.engine import BRIEF_S
from share_registry.errors import (
    CatalogError,
    ConflictError,
    ConnectionLostError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    StoreError,
    ensure,
)
from share_registry.kinds import FilePath
from share_registry.names import SpaceName, space_name
from share_registry.outside.files import Outside
from share_registry.registry.admission import Check, NamedCheck, configured
from share_registry.registry.arguments import check_author
from share_registry.registry.context import Context, check_device
from share_registry.registry.location import Location, absolute_place, locate
from share_registry.registry.replay import replay_in_memory
from share_registry.store.head_notes import CATALOG
from share_registry.store.open import is_new, open_store
from share_registry.store.protocol import Store

_LOG: Final = logging.getLogger(__name__)


def open_context(
    location: FilePath | None,
    *,
    store: FilePath | Store | None,
    space: str | None,
    mode: str,
    outside: Outside,
    device: str | None = None,
    author: str | None = None,
    checks: Mapping[str, Check] | None = None,
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
    ensure(
        mode in ("r", "w", "c"),
        InvalidInputError(
            f"mode {mode!r} is not 'r', 'w' or 'c'.",
            hint="'r' reads, 'w' writes, 'c' creates where it is missing.",
        ),
    )
    default = space if space is not None else outside.environment("SHARE_REGISTRY_SPACE")
    scope = space_name(default) if default else None
    if device is not None:
        check_device(device)
    if author is not None:
        check_author("author", author)
    place = locate(location, store=store, outside=outside)
    fresh = mode == "c" and place.is_kept and is_new(place.store, outside)
    if place.catalog is not None and fresh:
        _check_catalog(place, outside)
    try:
        opened = open_store(place.store, mode, outside)
    except NotFoundError as error:
        raise NotFoundError(
            error.message, hint=f"Create it with mode 'c' or `{_init_command(place)}`."
        ) from error
    open_kept = partial(_open_catalog, opened, place, mode, outside)
    kept = _open_briefly(open_kept)
    catalog = kept or replay_in_memory(opened)[0]
    context = Context(
        outside=outside,
        store=opened,
        catalog=catalog,
        kept=kept,
        open_kept=open_kept,
        location=catalog.safe_url if place.catalog is not None else place.address,
        writable=mode != "r",
        beside=place.root,
        place=place,
        device_name=device or outside.environment("SHARE_REGISTRY_DEVICE") or "cpu",
        author=author,
        checks=configured(checks, outside),
    )
    if fresh:
        context.say_created(f"created registry at {absolute_place(place, outside).address}")
    return context, scope


def reopen(place: Location, device: str, checks: Mapping[str, NamedCheck]) -> Context:
    """Open a shared registry once more, in another process. Raises as `open_context`."""
    assert isinstance(place.store, str | os.PathLike)
    context, _ = open_context(
        place.store if place.catalog is None else place.catalog,
        store=None if place.catalog is None else place.store,
        space=None,
        mode="w",
        outside=Outside(),
        device=device,
        checks={},
    )
    context.checks = checks
    return context


def _init_command(place: Location) -> str:
    """Return the command that creates a registry at a place."""
    root = quote(place.address)
    if place.catalog is None:
        return f"share-registry -R {root} init"
    return f"share-registry -R {quote(without_password(place.catalog))} --store {root} init"


def _check_catalog(place: Location, outside: Outside) -> None:
    """Check that a catalog can be used before its store is made: none is left half-made."""
    try:
        check_reachable(str(place.catalog), outside)
    except CatalogError:
        # where another process has made both meanwhile, they are opened
        if is_new(place.store, outside):
            raise


def _open_briefly(open_kept: Callable[[float], Catalog]) -> Catalog | None:
    """Open a catalog; None where another process has it locked."""
    try:
        return open_kept(BRIEF_S)
    except ConnectionLostError:
        raise
    except ConflictError as error:
        _LOG.info("the catalog is not waited for: %s", error.message)
        return None


def _open_catalog(
    store: Store, place: Location, mode: str, outside: Outside, wait_s: float
) -> Catalog:
    """Open the catalog of a store.

    The embedded one is an index beside the store, so a damaged one is set aside and made again.

    Raises ConflictError where another process has it locked for longer.
    """
    url = place.catalog_url
    if url is None:
        return replay_in_memory(store)[0]
    if place.index is not None:
        return _open_index(url, place.index, store, outside, wait_s)
    if place.catalog is not None or place.root is None:
        return _open_own(url, mode, store, wait_s)
    try:
        return _open_own(url, "c" if mode == "w" else mode, store, wait_s)
    except CatalogError as error:
        _LOG.info("catalog %s cannot be used (%s); reading the store instead", url, error.message)
        if mode == "r":
            return replay_in_memory(store)[0]
        if "db upgrade" in error.hint:
            raise
    _move_aside(place.root, outside)
    return _open_own(url, "c", store, wait_s)


def _open_index(url: str, folder: Path, store: Store, outside: Outside, wait_s: float) -> Catalog:
    """Open the catalog that this user has of a store in a bucket, made by whoever needs it first.

    Where none can be kept, the store is read instead. Raises ConflictError as `_open_catalog`.
    """
    try:
        outside.make_directory(folder, private=True)
        try:
            return _open_own(url, "c", store, wait_s)
        except CatalogError as error:
            _LOG.info("catalog %s cannot be used (%s) and is made again", url, error.message)
        _move_aside(folder, outside)
        return _open_own(url, "c", store, wait_s)
    except (CatalogError, StoreError, RefusedError) as error:
        _LOG.info("no catalog is kept in %s (%s); reading the store instead", folder, error.message)
        return replay_in_memory(store)[0]


def _open_own(url: str, mode: str, store: Store, wait_s: float) -> Catalog:
    """Open a catalog that is an index of this store. Raises CatalogError or ConflictError."""
    catalog = Catalog.open(url, mode=mode, store_id=store.identity, wait_s=wait_s)
    if catalog.store_id == store.identity:
        return catalog
    catalog.close()
    raise CatalogError(
        f"catalog {catalog.safe_url} is of store {catalog.store_id}, "
        f"the store is {store.identity}.",
        hint="Give the catalog that belongs to this store, or an empty database.",
    )


def _move_aside(root: Path, outside: Outside) -> None:
    """Keep a damaged catalog file under another name; it is an index, so nothing is lost."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path = root / f"{CATALOG}{suffix}"
        if outside.exists(path):
            outside.replace(path, root / f"{CATALOG}{suffix}.damaged-{outside.token()[:8]}")
