"""Turn a place into a store: a directory, a bucket, `memory://`, or a store that is open."""

import os
import uuid
from pathlib import Path
from typing import Final

from share_registry.errors import IntegrityError, InvalidInputError, ensure
from share_registry.outside.files import Kind, Outside
from share_registry.store.bucket import SCHEMES, Bucket, is_bucket, without_secrets
from share_registry.store.local import LocalStore
from share_registry.store.protocol import FORMAT, Store

# Place of a store that lives as long as the registry that it is opened by
MEMORY: Final = "memory://"


def open_store(
    place: str | os.PathLike[str] | Store,
    mode: str,
    outside: Outside,
    *,
    identity: str | None = None,
) -> Store:
    """Open a store, creating it in mode "c" where it is missing.

    Args:
        place: Where, or a store that is open.
        mode: "r", "w" or "c".
        outside: The way to the file system, clock and randomness.
        identity: uuid of a store that is created; a new one where None.

    Raises:
        InvalidInputError: a URL of a kind that there is no store for, or a malformed one.
        NotFoundError: there is none, and the mode does not create one.
        IntegrityError: it has lost its FORMAT file.
        RefusedError, StoreError: see `LocalStore.create`, `ObjectStore`.
    """
    if not isinstance(place, str | os.PathLike):
        return place
    address = os.fspath(place)
    if address == MEMORY:
        # spec models load pydantic, which no reader of a directory needs
        from share_registry.store.blobs import MemoryStore

        return MemoryStore(identity or str(uuid.UUID(outside.token())))
    if is_bucket(address):
        # spec models and the library of buckets, which no reader of a directory needs
        from share_registry.store.object_store import ObjectStore

        new = identity or str(uuid.UUID(outside.token()))
        return ObjectStore.open(
            address, outside, identity=new if mode == "c" else None, read_only=mode == "r"
        )
    refuse_hub(address)
    ensure(
        "://" not in address,
        InvalidInputError(
            f"store {without_secrets(address)!r} is of a kind that this release has no store for.",
            hint=f"Give a directory, {', '.join(f'{scheme}://' for scheme in SCHEMES)} or "
            "memory://; copies also go to and come from hf://OWNER/REPO.",
        ),
    )
    return _open_directory(Path(address), mode, outside, identity)


def refuse_hub(address: str) -> None:
    """Refuse a repository of the Hub, which holds a copy. Raises InvalidInputError."""
    ensure(
        not address.startswith("hf://"),
        InvalidInputError(
            f"{address} is on the Hub, where a registry is copied to and from and not opened.",
            hint=f"Copy it: `share-registry clone {address} DIRECTORY`; `pull` and `push` keep the "
            "two in step.",
        ),
    )


def is_new(place: str | os.PathLike[str] | Store, outside: Outside) -> bool:
    """Tell whether a place holds nothing of a store yet."""
    if not isinstance(place, str | os.PathLike):
        return False
    if is_bucket(os.fspath(place)):
        return Bucket.at(os.fspath(place)).status(FORMAT) is None
    root = Path(place)
    return not outside.exists(root / FORMAT) and not _holds_objects(root, outside)


def _open_directory(root: Path, mode: str, outside: Outside, identity: str | None) -> Store:
    is_there = outside.exists(root / FORMAT)
    ensure(
        is_there or not _holds_objects(root, outside),
        IntegrityError(
            f"{root} holds objects and no FORMAT file.",
            hint="Bring FORMAT back from a copy of the store: without it the log proves nothing.",
        ),
    )
    if not is_there and mode == "c":
        return LocalStore.create(root, outside, identity or str(uuid.UUID(outside.token())))
    return LocalStore(root, outside, read_only=mode == "r")


def _holds_objects(root: Path, outside: Outside) -> bool:
    """Tell whether there is an object; an empty folder is what somebody creates at this moment."""
    objects = root / "objects"
    return outside.kind(objects) is Kind.DIRECTORY and bool(outside.names(objects))
