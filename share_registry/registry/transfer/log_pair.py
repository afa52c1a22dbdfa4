"""How the log of a space in one store stands to that in another.

Records are chained: where two logs have the same record at a number, they have the same ones up to
there. So one record of each tells whether one log goes on where the other one ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from share_registry.errors import FormatError, IntegrityError, ensure
from share_registry.format.canonical import sha256
from share_registry.format.records import Record, parse_record
from share_registry.names import CommitNumber, SpaceName
from share_registry.registry.log_ends import (
    BRING_BACK,
    LogError,
    check_hole,
    hole,
    kept_end,
    read_record,
)
from share_registry.store.protocol import KeptHead, Store


class BrokenChainError(IntegrityError):
    """A record does not follow the one before it: one of the two is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPair:
    """The ends of a space's log in two stores.

    Attributes:
        source: The last record of the source that can be copied, None where it has none.
        target: The last record of the target, None where it has none.
        agreed: The number up to which both have the same records.
        damage: What is wrong with the source's log behind its end.
    """

    space: SpaceName
    source: KeptHead | None
    target: KeptHead | None
    agreed: CommitNumber
    damage: LogError | None = None

    @property
    def has_diverged(self) -> bool:
        """Whether both logs go on behind what they have in common."""
        return self.agreed < min(_number(self.source), _number(self.target))

    @property
    def lacking(self) -> int:
        """How many records the target lacks."""
        return max(0, _number(self.source) - _number(self.target))

    @property
    def ahead(self) -> int:
        """How many records the source lacks."""
        return max(0, _number(self.target) - _number(self.source))

    @property
    def divergence(self) -> str:
        """The sentence about logs that have diverged, with both heads."""
        return (
            f"space {self.space} has diverged: the source goes on to {_named(self.source)}, the "
            f"target to {_named(self.target)}, and "
            + (f"c{self.agreed} is the last that both have." if self.agreed else "they share none.")
        )


def compare_logs(source: Store, target: Store, space: SpaceName) -> LogPair:
    """Compare the logs of a space in two stores.

    Raises IntegrityError where that of the target is damaged, StoreError where a system refuses.
    """
    last, damage = _sound_end(source, space)
    numbers = target.numbers(space)
    check_hole(space, numbers)
    kept = kept_end(target, space, CommitNumber(0))
    if kept is not None:
        raise kept[1]
    agreed = _agreed(source, target, space, min(last, len(numbers)))
    if agreed < min(last, len(numbers)):
        # neither log has diverged from one that is damaged
        error = _damage_behind(target, space, agreed, len(numbers))
        if error is not None:
            raise type(error)(f"in the target, {error.message}", hint=BRING_BACK) from error
        damage = _damage_behind(source, space, agreed, last) or damage
        last = last if damage is None else agreed
    return LogPair(
        space=space,
        source=_head(source, space, last),
        target=_head(target, space, len(numbers)),
        agreed=agreed,
        damage=damage,
    )


def read_records(
    store: Store, space: SpaceName, after: KeptHead | None, last: CommitNumber
) -> Iterator[tuple[Record, bytes]]:
    """Yield the records behind one, up to another, each checked to follow the one before it.

    Raises LogError: one is missing or damaged, does not follow, or is of a later release.
    """
    parent = sha256(store.format_bytes()) if after is None else after.id
    for number in range(_number(after) + 1, last + 1):
        content = read_record(store, space, CommitNumber(number))
        if content is None:
            raise hole(space, number, last)
        record = parse_record(content, subject=f"record c{number} of space {space}")
        ensure(
            (record.space, record.number, record.parent) == (space, number, parent),
            BrokenChainError(f"record c{number} of space {space} does not follow c{number - 1}."),
        )
        parent = sha256(content)
        yield record, content


def _sound_end(store: Store, space: SpaceName) -> tuple[int, LogError | None]:
    """Return the last number of a log before what is missing, and what is wrong there."""
    numbers = store.numbers(space)
    last = next((n for n, number in enumerate(numbers) if number != n + 1), len(numbers))
    damage = hole(space, last + 1, numbers[-1]) if last < len(numbers) else None
    kept = kept_end(store, space, CommitNumber(0))
    return (last, damage) if kept is None or kept[0] >= last else kept


def _agreed(source: Store, target: Store, space: SpaceName, common: int) -> CommitNumber:
    """Return the last number, up to one, at which two logs have the same record."""
    low, high = 0, common
    probe = common
    while low < high:
        number = CommitNumber(probe)
        is_same = read_record(source, space, number) == read_record(target, space, number)
        low, high = (probe, high) if is_same else (low, probe - 1)
        probe = (low + high + 1) // 2
    return CommitNumber(low)


def _damage_behind(
    store: Store, space: SpaceName, number: CommitNumber, last: int
) -> IntegrityError | None:
    """Return what is wrong with the record behind one, as it says itself or the next one does."""
    try:
        after = _head(store, space, number)
        for _ in read_records(store, space, after, CommitNumber(min(number + 2, last))):
            pass
    except FormatError:
        return None
    except IntegrityError as error:
        return error
    return None


def _head(store: Store, space: SpaceName, number: int) -> KeptHead | None:
    content = read_record(store, space, CommitNumber(number)) if number else None
    if content is None:
        return None
    return KeptHead(number=CommitNumber(number), id=sha256(content))


def _number(head: KeptHead | None) -> int:
    return 0 if head is None else head.number


def _named(head: KeptHead | None) -> str:
    return "nothing" if head is None else f"c{head.number} ({head.id[:8]})"
