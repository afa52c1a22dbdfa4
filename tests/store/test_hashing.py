"""A digest computed beside the reading is the digest of the bytes."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from share_registry.store.hashing import Hasher


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.sampled_from([0, 1, 1000, (1 << 20) - 1, 1 << 20]), max_size=6))
def test_pieces_of_any_sizes_are_hashed_in_order(seed: int, sizes: list[int]) -> None:
    content = np.random.default_rng(seed).bytes(sum(sizes))
    start = 0
    with Hasher() as hasher:
        for size in sizes:
            hasher.update(content[start : start + size])
            start += size
    assert hasher.digest() == hashlib.sha256(content).hexdigest()
