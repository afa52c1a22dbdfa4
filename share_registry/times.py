"""Times: what a caller may write, and the one form in which records hold them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from share_registry.errors import InvalidInputError, ensure

DATE: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]([01]\d|2[0-3]):\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?",
    re.ASCII,
)
FIRST_YEAR: Final = 1900
LAST_YEAR: Final = 9998
_LENGTH: Final = re.compile(r"([1-9]\d{0,5})([mhdw])", re.ASCII)
_M = TypeVar("_M")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SECONDS: Final = re.compile(r".{10}[T ]\d{2}:\d{2}:\d{2}")


def end_of(text: str, whole: str = "") -> str:
    """Return the last microsecond of a date, a minute or a second, as RFC 3339 in UTC.

    An instant is itself. Raises InvalidInputError.

    Args:
        text: The time.
        whole: The reference it is part of, for messages.
    """
    begin = beginning_of(text, whole)
    return timestamp(datetime.fromisoformat(begin) + _length(text) - timedelta(microseconds=1))


def beginning_of(text: str, whole: str = "") -> str:
    """Return the first microsecond of a date, a minute or a second, as RFC 3339 in UTC.

    Arguments and errors as in `end_of`.
    """
    try:
        moment = datetime.fromisoformat(text)
        if not DATE.fullmatch(text):
            raise ValueError("another notation")
    except ValueError as error:
        place = f" in {whole!r}" if whole and whole != text else ""
        raise InvalidInputError(
            f"time {text!r}{place} is not a calendar date or time: {error}.",
            hint="Write 2026-11-16 or 2026-11-16T12:00Z.",
        ) from error
    return instant_of(moment)


def instant_of(moment: datetime) -> str:
    """Return the record form of a caller's time; one without a zone is UTC.

    Raises InvalidInputError where it is out of range.
    """
    ensure(
        FIRST_YEAR <= moment.year <= LAST_YEAR,
        InvalidInputError(
            f"time {moment.isoformat()} is out of range.",
            hint=f"Write a time between the years {FIRST_YEAR} and {LAST_YEAR}.",
        ),
    )
    return timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def timestamp(moment: datetime) -> str:
    """Return the record form of a time: UTC, six decimals, Z; sorts as text."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def or_ago(moment: _M, now: datetime) -> _M | str:
    """Return a moment, of a length of time such as 7d the instant that it is ago.

    Raises InvalidInputError for a length that begins before all calendars.
    """
    if not isinstance(moment, str) or not _LENGTH.fullmatch(moment):
        return moment
    try:
        return instant_of(now - length_of(moment))
    except OverflowError as error:
        raise InvalidInputError(
            f"{moment!r} ago is before all calendars.", hint="Write 30d, 12h, 45m or 2w."
        ) from error


def length_of(text: str) -> timedelta:
    """Return how long a text such as 30d says: minutes, hours, days or weeks.

    Raises InvalidInputError.
    """
    length = _LENGTH.fullmatch(text)
    if length is None:
        raise InvalidInputError(
            f"{text!r} is no length of time.", hint="Write 30d, 12h, 45m or 2w."
        )
    return timedelta(**{_UNITS[length[2]]: int(length[1])})


def _length(text: str) -> timedelta:
    """Return the length of the date, minute or second that a text names, 1 us for an instant."""
    if len(text) == 10:
        return timedelta(days=1)
    if "." in text:
        return timedelta(microseconds=1)
    return timedelta(seconds=1) if _SECONDS.match(text) else timedelta(minutes=1)
