"""The memory store keeps the protocol."""

import uuid

import pytest

from share_registry.store.memory import MemoryStore
from share_registry.testing.stores import NewStore, StoreConformance


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def new_store(self) -> NewStore:
        return lambda: MemoryStore(str(uuid.uuid4()))
