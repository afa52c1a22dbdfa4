"""What single members of records, notes and FORMAT may be: digests, numbers, names, times.

Each is a type with its check, so that every model that has such a member refuses the same.
"""

import re
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from share_registry.names import NAME, Digest, is_name, is_reserved
from share_registry.times import FIRST_YEAR, LAST_YEAR, timestamp

DigestField = Annotated[Digest, Field(pattern=r"^[0-9a-f]{64}$")]
NumberField = Annotated[int, Field(ge=1, lt=1 << 53)]


def _check_name(text: str) -> str:
    """Return a name that a store may have (spec NAM-01). Raises ValueError."""
    if not is_name(text):
        raise ValueError(f"{text!r} names no space, task, alias or tag")
    return text


def _check_selector(text: str) -> str:
    """Return a name that reads as no other selector (spec NAM-03). Raises ValueError."""
    if is_reserved(text):
        raise ValueError(f"{text!r} reads as a version, a commit, a date or a digest")
    return text


NameField = Annotated[str, Field(pattern=rf"^{NAME.pattern}$"), AfterValidator(_check_name)]
SelectorField = Annotated[NameField, AfterValidator(_check_selector)]


def _check_calendar(time: str) -> str:
    """Return a time that the calendar has (spec REC-05). Raises ValueError."""
    moment = datetime.fromisoformat(time)
    # some releases of Python take 24:00 for the next day
    if timestamp(moment) != time or not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"{time} is no time of the years {FIRST_YEAR} to {LAST_YEAR}")
    return time


TimeField = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"),
    AfterValidator(_check_calendar),
]
# A plain name in a directory: what a store says is never a path (spec NOT-04)
FileNameField = Annotated[
    str,
    Field(max_length=255, pattern=r"""^[^/\\:*?"<>|\x00-\x1f\x7f]*[^/\\:*?"<>|\x00-\x1f\x7f. ]$"""),
]
KeyField = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
_DECIMAL: Final = (
    r"(0|[1-9][0-9]{0,15}|[0-9]{1,16}\.[0-9]{1,20}|[1-9](\.[0-9]{1,20})?e-?[0-9]{1,3})"
)
DecimalField = Annotated[str, Field(pattern=rf"^{_DECIMAL}$")]
WeightField = Annotated[str, Field(pattern=rf"^-?{_DECIMAL}$")]
KField = Annotated[int, Field(ge=1, le=0xFFFF)]


def _check_boolean(value: object) -> object:
    """Return a boolean: 1, which is equal to it, is none. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError("expected a boolean")
    return value


TrueField = Annotated[Literal[True], BeforeValidator(_check_boolean)]


def decimal(value: float) -> str:
    """Return a number as the record's decimal string (shortest that reads back equal)."""
    text = repr(float(value))
    text = re.sub(r"e([+-]?)0*", lambda match: "e" + match[1].removeprefix("+"), text)
    return text.removesuffix(".0")
