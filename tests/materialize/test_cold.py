"""The cold path: a checkout reads the objects it refers to, each once, whatever else there is.

And rows of zeros take no memory.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import share_registry as sr
from benchmarks.many import mix
from share_registry.catalog.queries import version_lookups
from share_registry.materialize.decoder import Reader
from share_registry.names import Digest
from share_registry.store.protocol import MAX_OBJECT_BYTES, Store
from share_registry.values.task_version import TaskVersion
from tests.registry.planted import write_planted

TASKS = 12


class Counting:
    """The reading part of a store, and what was asked of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read: list[Digest] = []

    def get_or_spare(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        self.read.append(digest)
        return self._store.get(digest, limit=limit)

    def size(self, digest: Digest) -> int | None:
        return self._store.size(digest)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sr.Registry]:
    """Two adapters with rows of their own, and many that are mixtures of these."""
    place = tmp_path_factory.mktemp("cold")
    with sr.Registry.open(place / "registry") as opened:
        for task, folder in write_planted(place / "adapters", 2).items():
            opened.commit(folder, task=task)
        mix(opened, "tiny", count=TASKS)
        yield opened


def row_of(registry: sr.Registry, task: str) -> TaskVersion:
    resolved = registry.resolve(task)
    with registry.context.reading() as session:
        row = version_lookups.version_row(
            session, resolved.space, str(resolved.task), resolved.version or 0
        )
    assert row is not None
    return row


def test_a_checkout_reads_what_it_refers_to_and_each_object_once(registry: sr.Registry) -> None:
    store = Counting(registry.context.store)
    row = row_of(registry, "mix5")
    reader = Reader(store)
    reader.tensors(row.adapter_digest)
    sources = reader.open(row.adapter_digest).stored.sources
    assert len(sources) == 2
    assert sorted(store.read) == sorted([row.adapter_digest, row.layout_digest, *sources])


def test_what_was_read_is_not_read_again(registry: sr.Registry) -> None:
    store = Counting(registry.context.store)
    reader = Reader(store)
    for number in range(1, TASKS + 1):
        reader.tensors(row_of(registry, f"mix{number}").adapter_digest)
    assert len(store.read) == len(set(store.read)) == TASKS + 3  # the layout and two sources


def test_a_checkout_keeps_no_decoded_factor(registry: sr.Registry) -> None:
    reader = Reader(registry.context.store)
    digest = row_of(registry, "t00").adapter_digest
    first, second = reader.tensors(digest), reader.tensors(digest)
    assert all(tensor.data_ptr() != second[key].data_ptr() for key, tensor in first.items())
    rows = reader.rows(digest)
    kept = {tensor.data_ptr() for pair in rows for tensor in pair}
    assert not kept & {tensor.data_ptr() for tensor in reader.tensors(digest).values()}


def test_rows_of_zeros_take_no_memory(registry: sr.Registry) -> None:
    opened = Reader(registry.context.store).open(row_of(registry, "mix1").adapter_digest)
    for module in opened.stored.modules:
        assert module is not None
        assert module.a.own.strides == (0, 0)
        assert not module.a.own.any()
        assert np.array_equal(module.a.own.astype(np.float64), np.zeros(module.a.own.shape))


def test_a_store_made_cheaply_verifies_and_exports_like_any_other(
    registry: sr.Registry, tmp_path: Path
) -> None:
    assert registry.verify("deep").ok
    assert registry.export("mix3", tmp_path).path.is_dir()
