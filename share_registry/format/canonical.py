"""JSON, read without a guess: our own, which is canonical, and that of other programs.

Canonical is one byte string for one value (RFC 8785, restricted; spec JSN-01 to JSN-06): ASCII
member names, no floats, integers below 2**53, no null. On this profile sorted keys and compact
separators are exactly RFC 8785.

Of what other programs wrote, every value that a reader may not guess about is refused: the standard
parser keeps the last of two equal members, accepts NaN and infinity and recurses without bound.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from share_registry.errors import IntegrityError
from share_registry.names import Digest

MAX_JSON_BYTES: Final = 16 << 20
MAX_DEPTH: Final = 16
MAX_STRING_BYTES: Final = 64 << 10
MAX_INT: Final = (1 << 53) - 1

Json: TypeAlias = str | int | bool | list["Json"] | dict[str, "Json"]


def sha256(content: bytes | memoryview) -> Digest:
    """Return the digest of some bytes."""
    return sha256_of_parts([content])


def sha256_of_parts(parts: Iterable[bytes | memoryview]) -> Digest:
    """Return the digest of bytes that come in parts, none of which is kept."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return Digest(digest.hexdigest())


def require(condition: bool, message: str) -> None:
    """Raise IntegrityError with a message unless a condition of the format holds.

    The message is formatted either way: where something is checked for every tensor or value, an
    `if` is faster.
    """
    if not condition:
        raise IntegrityError(message)


def dump(value: Json) -> bytes:
    """Return the canonical bytes of a value of the restricted profile.

    Raises IntegrityError where it is outside the profile.
    """
    _check(value, 0)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def load(content: bytes, *, subject: str, limit: int = MAX_JSON_BYTES) -> dict[str, Json]:
    """Parse canonical bytes of one object.

    Re-serialising and comparing rejects duplicate members, blanks, escapes and order in one check
    (spec JSN-05).

    Raises:
        IntegrityError: too long, not JSON, outside the profile, or not canonical.
    """
    size = len(content)
    require(size <= limit, f"{subject} has {size} bytes, more than the limit of {limit}.")
    try:
        value = json.loads(
            content.decode(), parse_float=_no_float, parse_constant=_no_float, parse_int=_small_int
        )
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{subject} is not canonical JSON: {str(error)[:200]}.") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{subject} is a JSON {type(value).__name__}, expected an object.")
    try:
        same = dump(value) == content
    except (IntegrityError, UnicodeError) as error:
        raise IntegrityError(f"{subject} is outside the JSON profile: {error}") from error
    require(
        same, f"{subject} is not in canonical form (member order, blanks, duplicates or escapes)."
    )
    return value


def parse_foreign(
    content: bytes, *, subject: str, limit: int, longest: int = MAX_STRING_BYTES
) -> dict[str, object]:
    """Parse one JSON object of another program; member order is kept.

    Args:
        content: The text.
        subject: How messages name it.
        limit: Bytes that it may have.
        longest: Bytes that each of its strings may have.

    Raises:
        IntegrityError: too long, not UTF-8, not JSON, a duplicate member, a number that is not
            finite or an integer not below 2**53, too deep, or a text that is too long.
    """
    size = len(content)
    require(size <= limit, f"{subject} has {size} bytes, more than the limit of {limit}.")
    try:
        value = json.loads(
            content.decode(),
            object_pairs_hook=_members,
            parse_float=_finite,
            parse_int=_exact,
            parse_constant=_no_constant,
        )
    except RecursionError as error:
        raise IntegrityError(f"{subject} is nested deeper than {MAX_DEPTH}.") from error
    except ValueError as error:
        raise IntegrityError(f"{subject} is not valid JSON: {str(error)[:200]}.") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{subject} is a JSON {type(value).__name__}, expected an object.")
    _check_foreign(value, subject, 1, longest)
    return value


def _check(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise IntegrityError(f"JSON nested deeper than {MAX_DEPTH}.")
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INT:
            raise IntegrityError(f"integer {value} is not below 2**53.")
    elif isinstance(value, str):
        size = len(value) if value.isascii() else len(value.encode())
        if size > MAX_STRING_BYTES:
            raise IntegrityError(f"string of more than {MAX_STRING_BYTES} bytes.")
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str) or not name.isascii():
                raise IntegrityError(f"member name {name!r} is not ASCII.")
            _check(item, depth + 1)
    else:
        raise IntegrityError(
            f"{type(value).__name__} is outside the JSON profile (no floats, no null)."
        )


def _no_float(text: str) -> float:
    raise ValueError(f"number {text[:40]} is not an integer")


def _small_int(text: str) -> int:
    if len(text) > 17:
        raise ValueError(f"integer of {len(text)} digits")
    return int(text)


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"member {twice[:80]!r} stands there twice")
    return members


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text[:40]} is not finite")
    return value


def _exact(text: str) -> int:
    value = int(text) if len(text) <= 17 else MAX_INT + 1
    if abs(value) > MAX_INT:
        raise ValueError(f"integer {text[:40]} is not below 2**53")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _check_foreign(value: object, subject: str, depth: int, longest: int) -> None:
    if depth > MAX_DEPTH:
        raise IntegrityError(f"{subject} is nested deeper than {MAX_DEPTH}.")
    if isinstance(value, str):
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise IntegrityError(
                f"{subject} has a text that is not Unicode: {value[:40]!r}."
            ) from error
        if size > longest:
            raise IntegrityError(f"{subject} has a text of more than {longest} bytes.")
    elif isinstance(value, list | dict):
        for part in value if isinstance(value, list) else (*value, *value.values()):
            _check_foreign(part, subject, depth + 1, longest)
