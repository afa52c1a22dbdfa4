"""Decoding is the same bytes in any order of summation, on any number of threads, and in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from share_registry.algebra.decode import MAX_PRODUCT_BITS, decode_side, is_bounded
from share_registry.errors import IntegrityError
from share_registry.format.symbols import Ints
from share_registry.stored import StoredSide, Term

Example = tuple[StoredSide, torch.Tensor, list[torch.Tensor]]


def make_factor(
    seed: int,
    *,
    rows: int = 3,
    width: int = 33,
    terms: int = 2,
    q_bits: int = 12,
    c_bits: int = 20,
    k: int = 8,
) -> Example:
    """A factor whose products use the whole exact range."""
    rng = np.random.default_rng(seed)
    scales = rng.uniform(1e-3, 1.0, rows).astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    side = StoredSide(
        previous=True,
        terms=tuple(
            Term(
                source=t,
                exponent=int(rng.integers(-12, 3)),
                coefficients=rng.integers(
                    -(1 << c_bits) + 1, 1 << c_bits, (rows, k), dtype=np.int32
                ),
            )
            for t in range(terms)
        ),
        scales=scales.view(np.float32),
        own=rng.integers(-(1 << 22), 1 << 22, (rows, width), dtype=np.int32),
    )
    blocks = [
        torch.from_numpy(rng.integers(-(1 << q_bits) + 1, 1 << q_bits, (k, width), dtype=np.int32))
        for _ in range(terms)
    ]
    return side, torch.from_numpy(rng.standard_normal((rows, width)).astype(np.float32)), blocks


def by_hand(
    side: StoredSide,
    previous: NDArray[np.float32],
    blocks: list[torch.Tensor],
    order: NDArray[np.int64],
) -> NDArray[np.float32]:
    """The formula of `stored.py` in numpy, sums over k in this order, one addition at a time."""
    total: NDArray[np.float64] | None = None
    for term, block in zip(side.terms, blocks, strict=True):
        product = np.zeros(side.own.shape)
        for j in order:
            product = product + term.coefficients[:, j, None].astype(np.float64) * block[
                j
            ].numpy().astype(np.float64)
        product = product * 2.0**term.exponent
        total = product if total is None else total + product
    total = side.own.astype(np.float64) if total is None else total + side.own.astype(np.float64)
    return (previous.astype(np.float64) + side.scales[:, None].astype(np.float64) * total).astype(
        np.float32
    )


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), terms=st.integers(0, 3))
def test_any_order_of_summation_gives_the_same_bytes_as_torch(seed: int, terms: int) -> None:
    side, previous, blocks = make_factor(seed, terms=terms)
    order = np.random.default_rng(seed).permutation(8)
    expected = by_hand(side, previous.numpy(), blocks, order)
    assert (
        decode_side(side, previous=previous, blocks=blocks).numpy().tobytes() == expected.tobytes()
    )


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-149, 100), short=st.booleans())
def test_rows_alone_take_float32_and_give_the_same_bytes(
    seed: int, exponent: int, short: bool
) -> None:
    rng = np.random.default_rng(seed)
    peak = 1 << (14 if short else 23)
    whole = rng.integers(-peak + 1, peak, (4, 50))
    own = whole.astype(np.int16) if short else whole.astype(np.int32)
    scales = (rng.uniform(1.0, 2.0, 4) * 2.0**exponent).astype(np.float32).view(
        np.uint32
    ) & np.uint32(0xFFFF0000)
    side = StoredSide(previous=False, terms=(), scales=scales.view(np.float32), own=own)
    expected = (own.astype(np.float64) * side.scales.astype(np.float64)[:, None]).astype(np.float32)
    assert decode_side(side, previous=None, blocks=[]).numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("terms", [0, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_result_is_written_where_it_is_asked_for(
    dtype: torch.dtype, terms: int, *, transposed: bool
) -> None:
    side, previous, blocks = make_factor(4, terms=terms)
    side = replace(side, previous=terms > 0)
    decoded = decode_side(side, previous=previous, blocks=blocks)
    rank, width = decoded.shape
    place = (
        torch.full((width, rank), torch.nan, dtype=dtype).T
        if transposed
        else torch.full((rank, width), torch.nan, dtype=dtype)
    )
    assert decode_side(side, previous=previous, blocks=blocks, out=place) is place
    assert torch.equal(place, decoded.to(dtype))


@settings(deadline=None, max_examples=200)
@given(
    exponent=st.integers(-140, 127),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    short=st.booleans(),
)
def test_what_is_bounded_by_its_scales_is_finite(
    exponent: int, dtype: torch.dtype, *, short: bool
) -> None:
    largest = 2**14 if short else 2**23 - 1
    own: Ints = (
        np.array([[largest, -largest, 0]], np.int16)
        if short
        else np.array([[largest, -largest, 0]], np.int32)
    )
    side = StoredSide(
        previous=False, terms=(), scales=np.array([2.0**exponent], np.float32), own=own
    )
    finite = bool(
        torch.isfinite(
            decode_side(side, previous=None, blocks=[], out=torch.empty(1, 3, dtype=dtype))
        ).all()
    )
    assert finite or not is_bounded(side, dtype)
    assert not is_bounded(replace(side, previous=True), dtype)
    if dtype == torch.float32 and exponent < 90:
        assert is_bounded(
            side, dtype
        )  # what adapters are like is told without looking at their values


def test_a_value_past_float32_is_infinite_without_a_warning() -> None:
    side = StoredSide(
        previous=False,
        terms=(),
        scales=np.array([2.0**127], np.float32),
        own=np.array([[2, 1]], np.int16),
    )
    assert decode_side(side, previous=None, blocks=[]).tolist() == [[float("inf"), 2.0**127]]


def test_one_and_two_threads_give_the_same_bytes() -> None:
    side, previous, blocks = make_factor(1, rows=16, width=4096, k=64, q_bits=10, c_bits=20)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(decode_side(side, previous=previous, blocks=blocks).numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


def test_products_past_the_exact_range_are_refused() -> None:
    side, previous, blocks = make_factor(2, q_bits=22, c_bits=22, k=8)
    with pytest.raises(IntegrityError, match=f"more than the {MAX_PRODUCT_BITS}"):
        decode_side(side, previous=previous, blocks=blocks)


@pytest.mark.parametrize(
    "fault",
    [
        "no previous",
        "previous of another shape",
        "no block",
        "block of another width",
        "block of another k",
    ],
)
def test_a_missing_or_unfitting_input_is_refused(fault: str) -> None:
    side, previous, blocks = make_factor(3)
    given_previous: torch.Tensor | None = previous
    if fault == "no previous":
        given_previous = None
    elif fault == "previous of another shape":
        given_previous = previous[:, 1:]
    elif fault == "no block":
        blocks = blocks[:1]
    elif fault == "block of another width":
        blocks[1] = blocks[1][:, 1:]
    else:
        blocks[1] = blocks[1][1:]
    with pytest.raises(IntegrityError):
        decode_side(side, previous=given_previous, blocks=blocks)
