"""The basis object.

What goes in comes out, whatever is damaged is called damaged, and nothing takes memory on the word
of a length.
"""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from share_registry.errors import FormatError, IntegrityError
from share_registry.format import basis_object
from share_registry.format.adapter_table import column
from share_registry.format.basis_object import MAX_NAME, MAX_WIDTH, decode, encode, is_basis
from share_registry.format.canonical import Json, dump
from share_registry.format.object_file import description, pack
from share_registry.format.symbols import MAX_BITS
from share_registry.names import Side
from share_registry.stored import StoredBasis

Ints = NDArray[np.int32]
SMALL_BYTES = 8 << 20
"""More than parsing a refused object of a few hundred bytes needs, far less than what it claims."""


def block(rng: np.random.Generator, k: int, width: int, spread: float) -> Ints:
    limit = (1 << MAX_BITS) - 1
    return np.clip(rng.standard_normal((k, width)) * spread, -limit, limit).astype(np.int32)


def basis(
    seed: int, shapes: list[tuple[int, int, int, int]], *, spread: float = 40.0
) -> StoredBasis:
    """Modules of (k_a, in, k_b, out), named so that the order of making is not that of names."""
    rng = np.random.default_rng(seed)
    modules = {
        f"m{-number % 7}{number}": (block(rng, ka, width, spread), block(rng, kb, out, spread))
        for number, (ka, width, kb, out) in enumerate(shapes)
    }
    return StoredBasis(modules=modules)


def assert_equal(first: StoredBasis, second: StoredBasis) -> None:
    assert list(second.modules) == sorted(first.modules)
    for name, blocks in first.modules.items():
        for expected, actual in zip(blocks, second.modules[name], strict=True):
            assert expected.dtype.kind == actual.dtype.kind == "i"
            assert expected.shape == actual.shape
            assert np.array_equal(expected, actual)


SHAPES = st.tuples(
    st.integers(0, 4), st.integers(1, 20), st.integers(0, 4), st.integers(1, 20)
).filter(lambda shape: shape[0] + shape[2] > 0)


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10**6),
    shapes=st.lists(SHAPES, min_size=1, max_size=4),
    spread=st.sampled_from([0.0, 0.3, 1.0, 30.0, 1e4, 3e6]),
)
def test_what_is_encoded_is_decoded(
    seed: int, shapes: list[tuple[int, int, int, int]], spread: float
) -> None:
    """Spec BAS-01 to BAS-05; the same rows give the same bytes (spec BAS-07)."""
    value = basis(seed, shapes, spread=spread)
    content = encode(value)
    decoded = decode(content)
    assert_equal(value, decoded)
    assert encode(decoded) == content
    assert is_basis(content)


GOOD = basis(7, [(3, 17, 2, 9), (0, 8, 2, 8), (2, 5, 0, 6)])
GOOD_BYTES = encode(GOOD)


def test_every_truncation_is_refused() -> None:
    for size in range(len(GOOD_BYTES)):
        with pytest.raises(IntegrityError):
            decode(GOOD_BYTES[:size])


def test_every_flipped_bit_is_refused_or_gives_rows_that_are_written_again() -> None:
    for place in range(8 * len(GOOD_BYTES)):
        damaged = bytearray(GOOD_BYTES)
        damaged[place // 8] ^= 1 << place % 8
        try:
            decoded = decode(bytes(damaged))
        except (IntegrityError, FormatError):
            continue
        assert_equal(decoded, decode(encode(decoded)))


def test_rows_are_found_by_module_and_side() -> None:
    decoded = decode(GOOD_BYTES)
    name = next(iter(GOOD.modules))
    rows = decoded.rows(name, Side.B)
    assert rows is not None
    assert np.array_equal(rows, GOOD.modules[name][1])
    assert decoded.rows("not there", Side.A) is None


def single_module(a: Ints, b: Ints, *, name: str = "m") -> StoredBasis:
    return StoredBasis(modules={name: (a, b)})


ONES, NONE = np.ones((2, 3), np.int32), np.zeros((0, 3), np.int32)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (StoredBasis(modules={}), "no module"),
        (single_module(NONE, NONE), "no row"),
        (single_module(ONES * (1 << MAX_BITS), ONES), "not below"),
        (single_module(ONES * -(1 << MAX_BITS), ONES), "not below"),
        (single_module(np.zeros((1 << 16, 1), np.int32), ONES), "more than the limit"),
        (single_module(ONES, ONES, name=""), "header"),
        (single_module(ONES, ONES, name="m" * (MAX_NAME + 1)), "header"),
        (single_module(np.zeros((1, 0), np.int32), ONES), "header"),
        (single_module(np.zeros((1, MAX_WIDTH + 1), np.int32), ONES), "header"),
    ],
)
def test_what_no_reader_takes_is_not_written(value: StoredBasis, said: str) -> None:
    """Spec BAS-01, BAS-03."""
    with pytest.raises(IntegrityError, match=said):
        encode(value)


def test_an_object_of_another_kind_is_no_basis() -> None:
    content = pack(
        {"format": 1, "kind": "tensor", "size": 0, "width": 1}, {"planes": [], "table": []}
    )
    assert not is_basis(content)
    with pytest.raises(IntegrityError):
        decode(content)
    with pytest.raises(IntegrityError):
        is_basis(b"no object at all")


def test_an_object_of_another_format_is_called_that() -> None:
    with pytest.raises(FormatError, match="format 2"):
        decode(GOOD_BYTES.replace(b'\\"format\\":1', b'\\"format\\":2', 1))


@pytest.mark.parametrize("ks", [(0xFFFF, 0xFFFF), (257, 0)])
def test_rows_that_are_only_claimed_take_no_memory(ks: tuple[int, int]) -> None:
    """Rows of zeros take no bytes, so they are counted before they are made (spec BAS-06)."""
    groups = b"" if ks[1] else bytes(ks[0])
    entries: Json = {
        "format": 1,
        "kind": "basis",
        "modules": [{"module": "m", "in": MAX_WIDTH, "out": 1}],
    }
    content = pack(
        entries, {"symbols": [], "table": [b"\0", column([0], 1), column(ks, 2), groups]}
    )
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            decode(content)
        assert tracemalloc.get_traced_memory()[1] < SMALL_BYTES
    finally:
        tracemalloc.stop()


def test_only_the_check_keeps_a_module_without_rows_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the check taken out, both sides of the format would take it."""
    monkeypatch.setattr(basis_object, "_check_blocks", lambda *ignored: None)
    assert_equal(single_module(NONE, NONE), decode(encode(single_module(NONE, NONE))))


def test_a_description_may_be_longer_than_any_other_string() -> None:
    """That of many modules is one string of the header (spec LIM-04)."""
    names = [f"model.layers.{n % 32}.mlp.experts.{n // 32}.down_proj" for n in range(1200)]
    rows = np.ones((1, 2), np.int32)
    first = StoredBasis(modules=dict.fromkeys(names, (rows, rows)))
    content = encode(first)
    assert len(dump(description(content, subject="basis"))) > 65_536
    assert_equal(first, decode(content))


def test_an_object_that_no_reader_would_take_is_not_made() -> None:
    texts: list[Json] = ["x" * 60_000] * 300
    with pytest.raises(IntegrityError, match="header"):
        pack({"format": 1, "kind": "basis", "modules": texts}, {"symbols": [], "table": []})
