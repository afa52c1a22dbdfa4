"""Stores over bytes under names keep the protocol: in memory, and the one of the documentation."""

import re
import sqlite3
import textwrap
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final

import pytest
from typing_extensions import override

from share_registry.errors import IntegrityError, StoreError
from share_registry.format.canonical import sha256
from share_registry.store.blobs import BlobStore, MemoryStore
from share_registry.store.protocol import PublishStateUnknownError, object_name
from share_registry.testing.stores import FIRST, SPACE, NewStore, StoreConformance, put_bytes
from tests.house.tree import ROOT

MOST_LINES: Final = 60
"""A store that only keeps bytes under names takes no more lines than this."""


def documented() -> str:
    """Return the example of docs/architecture.md."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return textwrap.dedent(next(block for block in blocks if "(BlobStore)" in block))


def sqlite_store() -> BlobStore:
    scope: dict[str, Any] = {"BlobStore": BlobStore, "sqlite3": sqlite3}
    exec(documented(), scope)
    store: BlobStore = scope["SqliteStore"](":memory:", identity=str(uuid.uuid4()))
    return store


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def new_store(self) -> NewStore:
        return lambda: MemoryStore(str(uuid.uuid4()))


class TestDocumentedStore(StoreConformance):
    @pytest.fixture
    def new_store(self) -> Iterable[NewStore]:
        stores: list[BlobStore] = []

        def new_store() -> BlobStore:
            stores.append(sqlite_store())
            return stores[-1]

        yield new_store
        for store in stores:
            store.close()


def test_the_documented_store_is_short() -> None:
    assert len(documented().splitlines()) <= MOST_LINES


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(str(uuid.uuid4()))


def test_a_store_that_is_there_keeps_its_identity() -> None:
    first = MemoryStore(str(uuid.uuid4()))

    class Reopened(MemoryStore):
        @override
        def read(self, name: str) -> bytes | None:
            return first.read(name)

    assert Reopened(str(uuid.uuid4())).identity == first.identity


def test_a_rotten_object_is_not_returned_and_a_put_replaces_it(store: MemoryStore) -> None:
    digest = put_bytes(store, b"weights")
    store.replace(object_name(digest), b"wEights")
    with pytest.raises(IntegrityError, match=sha256(b"wEights")):
        store.get(digest)
    assert not store.put(b"weights", digest)
    assert store.get(digest) == b"weights"


def test_foreign_names_are_strays(store: MemoryStore) -> None:
    for name in (
        "a",
        "objects/ab/cd",
        "spaces/con/log/00000000000000000001.json",
        "spaces/a/log/1",
    ):
        store.create(name, b"")
    assert list(store.strays()) == [
        "a",
        "objects/ab/cd",
        "spaces/a/log/1",
        "spaces/con/log/00000000000000000001.json",
    ]
    assert store.spaces() == []
    assert list(store.objects()) == []


class Refusing(MemoryStore):
    """A store whose driver refuses once it is asked to."""

    refuses = False

    @override
    def read(self, name: str) -> bytes | None:
        if self.refuses:
            raise OSError("the disk is on fire")
        return super().read(name)

    @override
    def sizes(self, prefix: str) -> Iterable[tuple[str, int]]:
        for _ in range(self.refuses):
            raise OSError("the disk is on fire")
        yield from super().sizes(prefix)


CALLS: Final[dict[str, Callable[[BlobStore], object]]] = {
    "get": lambda store: store.get(sha256(b"")),
    "put": lambda store: store.put(b"", sha256(b"")),
    "size": lambda store: store.size(sha256(b"")),
    "record": lambda store: store.record(SPACE, FIRST),
    "spaces": lambda store: store.spaces(),
    "numbers": lambda store: store.numbers(SPACE),
    "objects": lambda store: list(store.objects()),
    "strays": lambda store: list(store.strays()),
}


@pytest.mark.parametrize("method", CALLS)
def test_errors_of_a_driver_become_store_errors(method: str) -> None:
    store = Refusing(str(uuid.uuid4()))
    put_bytes(store, b"")
    store.refuses = True
    with pytest.raises(StoreError, match="Refusing: the disk is on fire") as caught:
        CALLS[method](store)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_driver_that_fails_in_publish_leaves_it_unknown() -> None:
    store = Refusing(str(uuid.uuid4()))
    assert store.publish(SPACE, FIRST, b"mine")
    store.refuses = True
    with pytest.raises(PublishStateUnknownError, match="may or may not be published"):
        store.publish(SPACE, FIRST, b"theirs")


class Robbed(MemoryStore):
    """A store that has an object, and whose FORMAT is gone."""

    @override
    def read(self, name: str) -> bytes | None:
        return None

    @override
    def sizes(self, prefix: str) -> Iterable[tuple[str, int]]:
        yield object_name(sha256(b"")), 0


def test_a_store_that_has_lost_its_format_is_not_given_another() -> None:
    with pytest.raises(IntegrityError, match="holds objects or records and no FORMAT"):
        Robbed(str(uuid.uuid4()))
