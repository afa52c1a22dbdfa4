"""What was brought back from a copy."""

from dataclasses import dataclass

from typing_extensions import override

from share_registry.look.units import count, size
from share_registry.values.sheet import Sheet, Shown, short_ids
from share_registry.values.text_table import NOTHING, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """One file that was damaged or missing.

    Attributes:
        name: `object <digest>`, or `space/@cN` of a record.
        size: Its bytes; 0 where the copy does not have it either.
        refused: Why it was not brought back; empty where it was or, in a dry run, would be.
        refs: The versions, or commits, that cannot be trusted without it.
    """

    name: str
    size: int = 0
    refused: str = ""
    refs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RepairReport(Shown):
    """What `repair` brought back or, in a dry run, would bring back.

    Attributes:
        source: The copy.
        dry_run: Whether nothing was written.
        files: Everything that was damaged or missing.
    """

    derived = ("ok", "repaired", "bytes")
    source: str
    dry_run: bool
    files: tuple[Repaired, ...]

    @property
    def ok(self) -> bool:
        """Whether everything was brought back."""
        return not any(file.refused for file in self.files)

    @property
    def repaired(self) -> int:
        """How many files were."""
        return sum(not file.refused for file in self.files)

    @property
    def bytes(self) -> int:
        """What they have."""
        return sum(file.size for file in self.files if not file.refused)

    @override
    def sheet(self) -> Sheet:
        verb = "would bring back" if self.dry_run else "brought back"
        if not self.files:
            return Sheet(title="repair: nothing is damaged or missing")
        left = len(self.files) - self.repaired
        rest = f"; {count(left, 'file', 'files')} not" if left else ""
        return Sheet(
            title=f"repair: {verb} {count(self.repaired, 'file')}, {size(self.bytes)}, from "
            f"{self.source}{rest}",
            tables=(
                Table.of(
                    {
                        "file": short_ids(file.name),
                        "size>": size(file.size) if file.size else NOTHING,
                        "of": ", ".join(file.refs) or NOTHING,
                        "not brought back, as": file.refused,
                    }
                    for file in self.files
                ),
            ),
            refs=tuple(file.name for file in self.files if not file.refused),
        )
