"""What was copied from one store to another."""

from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from share_registry.look.units import count, size
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.values.sheet import Sheet, Shown
from share_registry.values.text_table import NOTHING, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedSpace:
    """What was copied of one space.

    Attributes:
        space: Its name.
        number: The last commit that the target has now or, in a dry run, would have; 0 for none.
        id: Its id; None for none.
        records: How many records were copied.
        objects: How many objects.
        bytes: What records and objects take.
        present: Objects that the records need and that the target had.
        ahead: How many records the target has that the source lacks.
        refused: Why not everything was copied; empty where it was.
        has_diverged: Whether that is because both logs go on, with different records.
    """

    space: SpaceName
    number: CommitNumber
    id: Digest | None
    records: int = 0
    objects: int = 0
    bytes: int = 0
    present: int = 0
    ahead: int = 0
    refused: str = ""
    has_diverged: bool = False

    @property
    def ref(self) -> str:
        """`space/@cN` of the last commit that the target has."""
        return f"{self.space}/@c{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TransferReport(Shown):
    """What `clone`, `push` or `pull` copied or, in a dry run, would copy.

    Attributes:
        source: Where from.
        target: Where to.
        dry_run: Whether nothing was written.
        spaces: Every space of the source.
    """

    derived = ("ok", "records", "objects", "bytes", "present")
    source: str
    target: str
    dry_run: bool
    spaces: tuple[CopiedSpace, ...]

    @property
    def ok(self) -> bool:
        """Whether the target has all that the source has."""
        return not any(space.refused for space in self.spaces)

    @property
    def records(self) -> int:
        """How many records were copied."""
        return sum(space.records for space in self.spaces)

    @property
    def objects(self) -> int:
        """How many objects were copied."""
        return sum(space.objects for space in self.spaces)

    @property
    def bytes(self) -> int:
        """What these take."""
        return sum(space.bytes for space in self.spaces)

    @property
    def present(self) -> int:
        """How many objects that the records need were there."""
        return sum(space.present for space in self.spaces)

    @override
    def sheet(self) -> Sheet:
        verb = "would copy" if self.dry_run else "copied"
        moved = (
            f"{count(self.records, 'record')} and {count(self.objects, 'object')}, "
            f"{size(self.bytes)},"
        )
        return Sheet(
            title=f"{verb} {moved if self.records or self.objects else 'nothing'} "
            f"from {self.source} to {self.target}",
            tables=(
                Table.of(
                    {
                        "space": each.space,
                        "head": f"c{each.number} {each.id[:8]}" if each.id else NOTHING,
                        "records>": str(each.records),
                        "objects>": str(each.objects),
                        "size>": size(each.bytes) if each.bytes else NOTHING,
                        "already there>": str(each.present),
                    }
                    for each in self.spaces
                ),
            ),
            notes=tuple(self._notes()),
            refs=tuple(each.ref for each in self.spaces if each.records),
        )

    def _notes(self) -> Iterator[str]:
        for each in self.spaces:
            if each.refused:
                yield each.refused
            elif each.ahead:
                yield f"{each.space}: {self.target} is ahead by {count(each.ahead, 'record')}."
