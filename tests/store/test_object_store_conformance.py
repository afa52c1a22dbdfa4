"""A store in a bucket keeps the protocol, on two servers that speak S3 and in obstore's memory."""

import pytest
from obstore.store import MemoryStore
from typing_extensions import override

from share_registry.store.bucket import Bucket
from share_registry.store.protocol import Store
from share_registry.testing.stores import NewStore, StoreConformance
from tests.store.object_servers import fresh_bucket, fresh_store


class TestObjectStoreInMemory(StoreConformance):
    @pytest.fixture
    def new_store(self) -> NewStore:
        return lambda: fresh_store(Bucket(MemoryStore(), "memory"))


class TestObjectStoreOnMoto(StoreConformance):
    @pytest.fixture
    def new_store(self, moto_url: str) -> NewStore:
        return lambda: fresh_store(fresh_bucket(moto_url))


class TestObjectStoreOnSeaweedfs(StoreConformance):
    @pytest.fixture
    def new_store(self, seaweedfs_url: str) -> NewStore:
        return lambda: fresh_store(fresh_bucket(seaweedfs_url))

    # whoever loses a race there waits for a second
    @override
    @pytest.mark.soak
    def test_threads_that_race_for_a_number_have_one_winner_and_agree_on_it(
        self, store: Store
    ) -> None:
        super().test_threads_that_race_for_a_number_have_one_winner_and_agree_on_it(store)
