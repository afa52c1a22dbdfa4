"""JSON that other programs wrote: every value a reader may not guess about is refused.

The standard parser keeps the last of two equal members, accepts NaN and infinity and recurses
without bound; here each of these is an error.
"""

import json
import math

from share_registry.errors import IntegrityError
from share_registry.format.canonical import MAX_DEPTH, MAX_INT, MAX_STRING_BYTES


def parse(content: bytes, *, subject: str, limit: int) -> dict[str, object]:
    """Parse one JSON object; member order is kept.

    Raises:
        IntegrityError: too long, not UTF-8, not JSON, a duplicate member, a number that is not
            finite or an integer not below 2**53, too deep, or a text that is too long.
    """
    if len(content) > limit:
        raise IntegrityError(f"{subject} has {len(content)} bytes, more than the limit of {limit}.")
    try:
        value = json.loads(
            content.decode(),
            object_pairs_hook=_members,
            parse_float=_float,
            parse_int=_int,
            parse_constant=_constant,
        )
    except RecursionError as error:
        raise IntegrityError(f"{subject} is nested deeper than {MAX_DEPTH}.") from error
    except ValueError as error:
        raise IntegrityError(f"{subject} is not valid JSON: {str(error)[:200]}.") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{subject} is a JSON {type(value).__name__}, expected an object.")
    _check(value, subject, 1)
    return value


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"member {twice[:80]!r} stands there twice")
    return members


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text[:40]} is not finite")
    return value


def _int(text: str) -> int:
    value = int(text) if len(text) <= 17 else MAX_INT + 1
    if abs(value) > MAX_INT:
        raise ValueError(f"integer {text[:40]} is not below 2**53")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _check(value: object, subject: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise IntegrityError(f"{subject} is nested deeper than {MAX_DEPTH}.")
    if isinstance(value, str):
        _check_text(value, subject)
    elif isinstance(value, list):
        for item in value:
            _check(item, subject, depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, subject)
            _check(item, subject, depth + 1)


def _check_text(text: str, subject: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise IntegrityError(f"{subject} has a text that is not Unicode: {text[:40]!r}.") from error
    if size > MAX_STRING_BYTES:
        raise IntegrityError(f"{subject} has a text of more than {MAX_STRING_BYTES} bytes.")
