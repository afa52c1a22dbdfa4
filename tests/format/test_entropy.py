"""What a report says that integer rows take."""

import numpy as np
import pytest

from share_registry.format.symbols import entropy_bits

SLACK = 0.02
"""A thousand symbols are counted of a row: the sample's entropy is off by about a percent."""


@pytest.mark.parametrize("size", [0, 1, 20, 1_000_000])
@pytest.mark.parametrize("width", [0, 1, 700])
def test_bits_are_those_of_an_ideal_coder_with_a_table_for_each_row(size: int, width: int) -> None:
    rows = np.random.default_rng(3).integers(-size, size + 1, (5, width), np.int32)
    counts = [np.unique(row, return_counts=True)[1] for row in rows]
    expected = sum(-float((each * np.log2(each / max(1, width))).sum()) for each in counts)
    assert entropy_bits(rows) == pytest.approx(expected)


def test_the_bits_of_a_long_row_follow_from_a_sample() -> None:
    rows = np.random.default_rng(3).normal(0.0, 20.0, (4, 20_000)).round().astype(np.int16)
    counts = [np.unique(row, return_counts=True)[1] for row in rows]
    expected = sum(-float((each * np.log2(each / rows.shape[1])).sum()) for each in counts)
    assert entropy_bits(rows) == pytest.approx(expected, rel=SLACK)
