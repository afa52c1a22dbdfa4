"""Numbers as people read them."""

import re
from typing import Final

import pytest
from hypothesis import given, strategies as st

from share_registry.look.units import measured, percent, size, typed_percent

NUMBER: Final = re.compile(r"\d+(\.\d+)?(e[+-]\d{1,3})?|inf|nan")
"""A percentage as it is written, without its sign."""


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (33_210, "33 kB"),
        (9_960, "10 kB"),
        (999_600, "1.0 MB"),
        (1_300_000, "1.3 MB"),
    ],
)
def test_sizes_have_decimal_units(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        *(
            (0.0, "0 %"),
            (0.0487, "4.87 %"),
            (0.05, "5.00 %"),
            (0.025, "2.50 %"),
            (0.0248, "2.48 %"),
            (0.00034, "0.03 %"),
            (0.123, "12.3 %"),
            (1.0, "100 %"),
        ),
        *(
            (1e-7, "1e-05 %"),
            (9.99e-8, "9e-06 %"),
            (0.02499999999, "2.49 %"),
            (0.0999999, "9.99 %"),
            (12.3456, "1234 %"),
            (9_999.5, "999950 %"),
            (1e4, "1.00e+6 %"),
            (1.2399e26, "1.23e+28 %"),
            (1.7976931348623157e308, "1.79e+310 %"),
            (float("inf"), "inf %"),
            (float("nan"), "nan %"),
        ),
    ],
)
def test_errors_are_percentages_that_are_cut(part: float, shown: str) -> None:
    assert percent(part) == shown


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        (0.0, "0 %"),
        (0.025, "2.5 %"),
        (0.05, "5 %"),
        (0.07, "7 %"),
        (0.01234, "1.234 %"),
        (1e-7, "1e-05 %"),
    ],
)
def test_budgets_are_shown_as_they_were_typed(part: float, shown: str) -> None:
    assert typed_percent(part) == shown


@pytest.mark.parametrize(
    ("part", "cut", "bound"),
    [
        (0.1998568, "19.9 %", "<= 20.0 %"),
        (0.05, "5.00 %", "<= 5.00 %"),
        (0.00004999, "4e-03 %", "<= 5e-03 %"),
        (1.2301e9, "1.23e+11 %", "<= 1.24e+11 %"),
        (9.9999e9, "9.99e+11 %", "<= 1.00e+12 %"),
    ],
)
def test_an_error_is_cut_and_an_upper_bound_goes_up(part: float, cut: str, bound: str) -> None:
    assert (measured(part, bound=False), measured(part, bound=True)) == (cut, bound)


@given(st.floats(min_value=0.0), st.booleans())
def test_whatever_the_error_its_percentage_is_a_short_number(part: float, up: bool) -> None:
    number = percent(part, up=up).removesuffix(" %")
    assert NUMBER.fullmatch(number)
    assert len(number) <= len("1.79e+310")
