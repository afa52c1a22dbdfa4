"""Shards: a verification cut into shares that need not know of each other.

Whose an object or a log is follows from its name alone, so that workers agree without a word, and
commits made meanwhile move nothing from one shard to another. Of a verification that reads a part
at a time the parts are shards too, and take turns.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Any, Final, Self

from typing_extensions import override

from share_registry.kinds import wrong_kind
from share_registry.names import Digest, SpaceName

MAX_SHARDS: Final = 10_000
# 64 bits: of up to 10,000 shards none gets more than 1 part in 10^15 more than another
_DIGITS: Final = 16
# At most two decimals: 0.01 % is one of 10,000
_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,2})?)%")
_SHARD: Final = re.compile(r"([1-9][0-9]{0,4})/([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One of several shares; the only one of 1 is the whole.

    Attributes:
        number: Which one, from 1.
        count: Of how many.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the shard that a checked text such as "3/8" names."""
        number, count = map(int, text.split("/"))
        return cls(number=number, count=count)

    @classmethod
    def of_turn(cls, subset: str, turn: int) -> Self:
        """Return the shard whose turn it is, of as many as are no smaller than a percentage.

        Of "5%" there are 20, and any 20 turns in a row take each.
        """
        count = int(100 / _percent(subset))
        return cls(number=turn % count + 1, count=count)

    @override
    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, digest: Digest) -> bool:
        """Tell whether an object is of this shard."""
        return int(digest[:_DIGITS], 16) % self.count == self.number - 1

    def has_space(self, space: SpaceName) -> bool:
        """Tell whether the log of a space is of this shard."""
        return self.has(Digest(sha256(space.encode()).hexdigest()))


def check_shard(name: str, value: Any) -> str:
    """Check that a text names a shard, as "3/8" does. Raises InvalidInputError."""
    match = _SHARD.fullmatch(value) if isinstance(value, str) else None
    if match is None or not int(match[1]) <= int(match[2]) <= MAX_SHARDS:
        raise wrong_kind(
            name,
            value,
            f"a shard K/N with K from 1 to N and N at most {MAX_SHARDS}",
            "Write 3/8 for the third of eight.",
        )
    return str(value)


def check_subset(name: str, value: Any) -> str:
    """Check that a text is a percentage, as "5%" is. Raises InvalidInputError."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < _percent(match[0]) <= 100:
        raise wrong_kind(name, value, "a percentage from 0.01% to 100%", "Write 5%.")
    return str(value)


def _percent(text: str) -> Fraction:
    return Fraction(text.removesuffix("%"))
