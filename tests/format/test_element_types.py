"""Symbols are the same bytes whatever type they come in."""

import numpy as np
import pytest
import torch

from share_registry.algebra.quantise import Room, Scratch
from share_registry.format.symbols import encode_rows


@pytest.mark.parametrize("size", [1.0, 7.0, 30.0])
def test_rows_of_one_byte_are_coded_as_those_of_four(size: float) -> None:
    normal = (
        np.random.default_rng(5).normal(0.0, size, (40, 2_000)) * np.logspace(0, 0.5, 40)[:, None]
    )
    rows = normal.round().clip(-127, 127).astype(np.int8)
    rows[-1, :2] = -127, 127
    narrow, wide = encode_rows([*rows]), encode_rows([*rows.astype(np.int32)])
    mixed = encode_rows([*rows[:20], *rows[20:].astype(np.int16)])
    for coded in (narrow, mixed):
        assert coded.groups == wide.groups
        assert b"".join(coded.content) == b"".join(wide.content)


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(127.0, torch.int8), (128.0, torch.int16), (-127.0, torch.int8), (-128.0, torch.int16)],
)
def test_symbols_are_kept_in_the_type_that_holds_them_and_their_absolute_values(
    largest: float, dtype: torch.dtype
) -> None:
    values = torch.tensor([[0.0, 5.0, largest]], dtype=torch.float64)
    (memory,) = Room.memory([3])
    kept = Room(memory).keep(values, Scratch())
    assert kept.dtype == dtype
    assert torch.equal(kept.to(torch.float64), values)
