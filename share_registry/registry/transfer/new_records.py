"""The records that a copy lacks, and the objects that they need as of the last of them.

What was removed is not there to be copied, so it is not asked for: a record may name objects of
versions that a later one expired or purged. Only up to a record at which nothing is removed later
is a copy whole; those in between are stepped over, never stopped at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from share_registry.format.named_objects import objects_of_record
from share_registry.format.records import ExpireRecord, PurgeRecord, Record
from share_registry.names import CommitNumber, Digest, TaskName
from share_registry.registry.ledger import Ledger
from share_registry.registry.log_ends import LOG_ERRORS, LogError
from share_registry.registry.transfer.log_pair import BrokenChainError, LogPair, read_records
from share_registry.store.protocol import Store

# An object, and the role in which it is needed
Item: TypeAlias = tuple[Digest, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecords:
    """The records of a space that a copy lacks.

    Attributes:
        contents: Their bytes, by number and in order.
        items: By number, what a record names and no record before it needs.
        described: By note, the tasks whose files it names and are needed.
        covered: Objects that the copy's own records need.
        unfinished: Numbers at which a copy would lack what a later record removes.
        damage: What ends them before the end of the log.
    """

    contents: Mapping[CommitNumber, bytes]
    items: Mapping[CommitNumber, list[Item]]
    described: Mapping[Digest, set[TaskName]]
    covered: frozenset[Digest]
    unfinished: frozenset[int]
    damage: LogError | None

    def last_before(self, number: int) -> int:
        """Return the last number before one at which a copy is whole."""
        return next(n for n in range(number - 1, -1, -1) if n not in self.unfinished)


def new_records(source: Store, target: Store, pair: LogPair) -> NewRecords:
    """Read what the target lacks. Raises LogError where what both have cannot be read."""
    ledger = Ledger(pair.space)
    if pair.target is not None:
        # both have these: from where it is quicker
        nearer = target if target.at_once <= source.at_once else source
        for record, _ in read_records(nearer, pair.space, None, pair.target.number):
            ledger.follow(record)
    covered = frozenset(digest for digest, _ in ledger.objects())
    before = ledger.described()
    records, contents, unfinished, damage = _follow(source, pair, ledger)
    described = {
        note: new
        for note, names in ledger.described().items()
        if (new := names.keys() - before.get(note, {}).keys())
    }
    needed = {
        item: None for item in ledger.objects() if item[0] not in covered or item[0] in described
    }
    return NewRecords(
        contents=contents,
        items=_by_record(records, needed),
        described=described,
        covered=covered,
        unfinished=unfinished,
        damage=damage,
    )


def _follow(
    source: Store, pair: LogPair, ledger: Ledger
) -> tuple[list[Record], dict[CommitNumber, bytes], frozenset[int], LogError | None]:
    """Follow the records that the target lacks, as far as they can be read."""
    records: list[Record] = []
    contents: dict[CommitNumber, bytes] = {}
    unfinished: set[int] = set()
    read, damage = _readable(source, pair)
    for record, content in read:
        unfinished.update(_removed_since(record, pair, ledger))
        records.append(record)
        contents[CommitNumber(record.number)] = content
    return records, contents, frozenset(unfinished), damage


def _readable(source: Store, pair: LogPair) -> tuple[list[tuple[Record, bytes]], LogError | None]:
    """Return the records that the target lacks, and what ends them."""
    assert pair.source is not None
    read: list[tuple[Record, bytes]] = []
    try:
        for entry in read_records(source, pair.space, pair.target, pair.source.number):
            # kept where the next one raises
            read.append(entry)  # noqa: PERF402
    except BrokenChainError as error:
        # the last one read may be what was changed
        return read[:-1], error
    except LOG_ERRORS as error:
        return read, error
    return read, pair.damage


def _removed_since(record: Record, pair: LogPair, ledger: Ledger) -> range:
    """Follow a record; return the numbers before it at which what it removes was there."""
    first = 1 if pair.target is None else pair.target.number + 1
    kept = dict(ledger.kept) if isinstance(record, ExpireRecord) else {}
    ledger.follow(record)
    if isinstance(record, PurgeRecord):
        return range(first, record.number)
    removed = [version.number for place, version in kept.items() if place not in ledger.kept]
    since = min((number for number in removed if number >= first), default=record.number)
    return range(since, record.number)


def _by_record(records: list[Record], needed: dict[Item, None]) -> dict[CommitNumber, list[Item]]:
    """Return what is needed by the first record that names it."""
    items: dict[CommitNumber, list[Item]] = {}
    for record in records:
        named = [item for item in dict.fromkeys(objects_of_record(record)) if item in needed]
        items[CommitNumber(record.number)] = named
        for item in named:
            del needed[item]
    if records:
        # what records name that the target has
        items[CommitNumber(records[0].number)] += needed
    return items
