"""What a store holds that no record needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from typing_extensions import override

from share_registry.look.units import count, size
from share_registry.names import Digest
from share_registry.values.sheet import Sheet, Shown, short_ids
from share_registry.values.text_table import Table

# Rows of the table; the JSON document has all
_MOST_ROWS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """An object that no record needs, or a file that a writer left unfinished.

    Attributes:
        name: The digest of the object, or the name of the file.
        size: In bytes.
        age_days: Since it was last put, by the clock of the store.
    """

    name: str
    size: int
    age_days: float

    @property
    def digest(self) -> Digest:
        """The name of an object."""
        return Digest(self.name)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class GarbageReport(Shown):
    """What `gc` removed or, in a dry run, would remove.

    Attributes:
        dry_run: Whether nothing was removed.
        grace_days: What was put within so many days stays.
        before_s: The time before which that was, in seconds since 1970 by the store's clock.
        objects: Objects that records need, directly or by what refers to them.
        bytes: What they take.
        young: Objects that no record needs and that are too young to be removed.
        young_bytes: What they take.
        garbage: The objects that were, or would be, removed.
        litter: Unfinished files of writers that were, or would be, removed.
    """

    derived = ("freed_bytes",)
    dry_run: bool
    grace_days: float
    before_s: float
    objects: int
    bytes: int
    young: int
    young_bytes: int
    garbage: tuple[Garbage, ...]
    litter: tuple[Garbage, ...]

    @property
    def freed_bytes(self) -> int:
        """What was, or would be, freed."""
        return sum(item.size for item in (*self.garbage, *self.litter))

    def applied(self, removed: Sequence[Garbage]) -> Self:
        """Return the report of a run that removed these objects."""
        return replace(self, dry_run=False, garbage=tuple(removed))

    @override
    def sheet(self) -> Sheet:
        verb = "would remove" if self.dry_run else "removed"
        litter = f" and {count(len(self.litter), 'unfinished file')}" if self.litter else ""
        everything = [*self.garbage, *self.litter]
        largest = sorted(everything, key=lambda item: item.size, reverse=True)[:_MOST_ROWS]
        more = len(everything) - len(largest)
        notes = []
        if self.dry_run and everything:
            notes.append("Nothing was removed: run it with --no-dry-run (dry_run=False).")
        if self.young:
            notes.append(
                f"{count(self.young, 'object')} of {size(self.young_bytes)} that no record needs "
                f"{'was' if self.young == 1 else 'were'} put in the last {self.grace_days:g} days: "
                "somebody may be about to publish them."
            )
        return Sheet(
            title=f"gc: {verb} {count(len(self.garbage), 'object')}{litter}, "
            f"{size(self.freed_bytes)}",
            facts=(("needed", f"{count(self.objects, 'object')}, {size(self.bytes)}"),),
            tables=(
                Table.of(
                    {
                        "object": short_ids(item.name),
                        "size>": size(item.size),
                        "days since it was put>": f"{item.age_days:.1f}",
                    }
                    for item in largest
                ),
            ),
            total=f"and {more} smaller" if more else "",
            notes=tuple(notes),
            refs=tuple(item.name for item in everything),
        )
