"""What both databases take: pieces of long lists, clean text, the largest limit."""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from sqlalchemy import Row
from sqlalchemy.orm import Session

__all__ = ["MOST", "PIECE", "Row", "Session", "clean", "pieces"]
# The largest number that both databases take for a limit
MOST: Final = (1 << 31) - 1
# Values in one IN list: far below what either database takes
PIECE: Final = 500

T = TypeVar("T")


def pieces(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield a sequence in pieces that fit into one statement."""
    for start in range(0, len(values), PIECE):
        yield values[start : start + PIECE]


def clean(text: str) -> str:
    """Return text that both databases can hold: PostgreSQL has no NUL character."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
