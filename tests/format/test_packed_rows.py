"""Rows come back in parts as they come back as a whole, and a part takes little memory."""

import tracemalloc
from collections.abc import Sequence
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from share_registry.errors import IntegrityError
from share_registry.format import packed_rows
from share_registry.format.frames import PIECE_BYTES
from share_registry.format.packed_rows import PackedRows
from share_registry.format.symbols import Ints, encode_rows

Shape = tuple[int, int]
# Numbers of a row, so that a few rows have more than one piece
LONG = PIECE_BYTES // 2 + 12_345


def packed(arrays: Sequence[NDArray[np.int32]]) -> PackedRows:
    coded = encode_rows([row for array in arrays for row in array])
    return PackedRows(
        memoryview(b"".join(coded.content)),
        [array.shape for array in arrays],
        coded.groups_of_rows,
        coded.groups,
        coded.pieces,
    )


def equal(actual: Sequence[Ints], expected: Sequence[NDArray[np.int32]]) -> bool:
    return len(actual) == len(expected) and all(map(np.array_equal, actual, expected))


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 300)), min_size=1, max_size=6),
    peaks=st.lists(st.sampled_from([0, 1, 2, 4, 7, 100, 70_000, (1 << 23) - 1]), min_size=1),
    ends=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=6),
    chunk=st.sampled_from([1 << 7, 1 << 17]),
)
def test_any_part_comes_back_in_any_order(
    seed: int, shapes: list[Shape], peaks: list[int], ends: list[tuple[int, int]], chunk: int
) -> None:
    rng = np.random.default_rng(seed)
    arrays = [
        np.stack([rng.integers(-peak, peak + 1, width, dtype=np.int32) for peak in of_rows])
        for count, width in shapes
        for of_rows in [rng.choice(peaks, count)]
    ]
    rows = packed(arrays)
    with mock.patch.object(packed_rows, "_CHUNK", chunk):
        for pair in ends:
            start, stop = (min(end, len(arrays)) for end in sorted(pair))
            assert equal(rows.arrays(start, stop), arrays[start:stop])
        assert equal(rows.arrays(0, len(arrays), threads=2), arrays)


@pytest.mark.parametrize("spread", [1.0, 20.0], ids=["several to a byte", "with low planes"])
def test_a_part_may_lie_in_two_pieces(spread: float) -> None:
    rng = np.random.default_rng(3)
    arrays = [rng.normal(0, spread, (1, LONG)).round().astype(np.int32) for _ in range(9)]
    rows = packed(arrays)
    assert sum(len(stream._frames) for stream in rows._streams) > 1
    for start in (*range(9), 2, 0):
        assert equal(rows.arrays(start, start + 1), arrays[start : start + 1])


def test_rows_in_turn_take_the_memory_of_a_few() -> None:
    rng = np.random.default_rng(4)
    arrays = [rng.normal(0, 20, (2, LONG // 8)).round().astype(np.int32) for _ in range(60)]
    rows = packed(arrays)
    assert rows.size_bytes == 2 * sum(array.size for array in arrays) > 15 * PIECE_BYTES
    tracemalloc.start()
    try:
        assert all(
            np.array_equal(rows.arrays(number, number + 1)[0], array)
            for number, array in enumerate(arrays)
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # one piece, expanded and as it is made of, and an array
    assert peak < 3 * PIECE_BYTES


def test_coded_rows_take_as_much_memory_as_bytes() -> None:
    rng = np.random.default_rng(6)
    rows = [rng.normal(0, 3, LONG).round().astype(np.int32) for _ in range(8)]
    tracemalloc.start()
    try:
        coded = encode_rows(rows)
        memory, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = sum(map(len, coded.content))
    assert size > PIECE_BYTES
    assert memory < 1.05 * size


def test_what_is_damaged_is_found_where_it_is_asked_for() -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.normal(0, 1, (1, LONG)).round().astype(np.int32) for _ in range(12)]
    coded = encode_rows([array[0] for array in arrays])
    content = bytearray(b"".join(coded.content))
    # the frame's magic number
    content[coded.pieces[0]] ^= 1
    rows = PackedRows(
        memoryview(content),
        [array.shape for array in arrays],
        coded.groups_of_rows,
        coded.groups,
        coded.pieces,
    )
    assert equal(rows.arrays(0, 1), arrays[:1])
    with pytest.raises(IntegrityError):
        rows.arrays(1, 12)
