"""Numbers and times as people read them."""

from datetime import UTC, datetime
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from typing import Final

_UNITS: Final = ("kB", "MB", "GB", "TB")
# Percentages below it have no digit among two decimals
_SMALLEST: Final = Decimal("0.01")
# Percentages from it on are read by their exponent
_LARGE: Final = Decimal(10) ** 6


def size(count: int) -> str:
    """Return a number of bytes with a decimal unit: `33 kB`."""
    if count < 1000:
        return f"{count} B"
    value = count / 1000
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.{1 if value < 9.95 else 0}f} {unit}"


def percent(part: float, *, up: bool = False) -> str:
    """Return a fraction as a percentage: `4.93 %`, `12.3 %`, `1e-05 %`, `1.23e+8 %`.

    It is cut and not rounded: an error below its budget never looks as if it had reached it. An
    upper bound goes `up`: it must not look smaller than it is.
    """
    value = 100 * Decimal(repr(part))
    if not value.is_finite() or value == 0:
        return f"{100 * part:g} %"
    if value < _SMALLEST:
        return f"{float(_cut(value, value.adjusted(), up=up)):.0e} %"
    if value >= _LARGE:
        return f"{_cut(value, value.adjusted() - 2, up=up):.2e} %"
    return f"{_cut(value, -2 if value < 10 else min(value.adjusted() - 2, 0), up=up):f} %"


def measured(error: float, *, bound: bool) -> str:
    """Return an error as a percentage: `4.93 %`, or `<= 4.93 %` where it is an upper bound."""
    return f"{'<= ' if bound else ''}{percent(error, up=bound)}"


def typed_percent(part: float) -> str:
    """Return a fraction that somebody chose as a percentage, the way it was chosen: `2.5 %`."""
    return f"{100 * part:.12g} %"


def time_text(time: datetime) -> str:
    """Return a time in UTC to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def count(number: int, singular: str, plural: str = "") -> str:
    """Return a number of things: `1 task`, `2 tasks`."""
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"


def _cut(value: Decimal, exponent: int, *, up: bool) -> Decimal:
    return value.quantize(Decimal((0, (1,), exponent)), rounding=ROUND_UP if up else ROUND_DOWN)
