"""What is imported, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any

from typing_extensions import override

from share_registry.look.units import count, size
from share_registry.values.sheet import Sheet, Shown
from share_registry.values.text_table import Table, first_line


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSource:
    """One adapter to import, and what is said of it; the import's own say where it says nothing.

    Attributes:
        adapter: What `Registry.commit` takes; a place can be read by every worker.
        task: `[space/]task`; None for the name of its place.
        space: A space that exists; None for the one of its base model.
        message: Of its commit: adapters with one message share a commit.
        labels, metrics: Of its version, added to those of the import.
        derived_from: References of the versions it was made from, which may be imported before it.
        source_time: When it was made, as the label `source.time`.
        is_derived: Whether the task's name follows from the place: another place must not continue
            the task.
        format: What the files are; None where their content tells.
    """

    adapter: Any
    task: str | None = None
    space: str | None = None
    message: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    derived_from: Sequence[str] = ()
    source_time: str | date | None = None
    is_derived: bool = False
    format: str | None = None


class ImportStatus(StrEnum):
    """What became of an adapter."""

    COMMITTED = "committed"
    # its task has a version of it already
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    # a dry run: it can be read, and would be committed
    NEW = "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOutcome:
    """What became of one adapter.

    Attributes:
        source: Where it was, as given.
        ref: `space/task@vN` of its version, in a dry run `space/task`; None where it has none.
        reason: Why it was refused.
        hint: What to do about it.
        error: Relative error of its version; None where it has none.
        bytes_added: Bytes of new objects.
        raw_bytes: Bytes of its tensor file; 0 where it could not be read.
    """

    source: str
    status: ImportStatus
    ref: str | None = None
    reason: str = ""
    hint: str = ""
    error: float | None = None
    bytes_added: int = 0
    raw_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ImportReport(Shown):
    """What an import did, adapter by adapter in the order given.

    Attributes:
        commits: How many commits it made.
        seconds: How long it took; of a dry run how long the import is expected to take.
        workers: Processes that prepared adapters.
        dry_run: Whether nothing was written: bytes and seconds are then estimated from a sample.
    """

    derived = ("committed", "unchanged", "refused", "bytes_added", "raw_bytes")
    outcomes: tuple[ImportOutcome, ...]
    commits: int
    seconds: float
    workers: int
    dry_run: bool = False

    def of(self, status: ImportStatus) -> tuple[ImportOutcome, ...]:
        """Return the outcomes of a status."""
        return tuple(outcome for outcome in self.outcomes if outcome.status is status)

    @property
    def committed(self) -> int:
        """How many adapters got a version, or in a dry run would get one."""
        return len(self.of(ImportStatus.COMMITTED)) + len(self.of(ImportStatus.NEW))

    @property
    def unchanged(self) -> int:
        """How many have a version already."""
        return len(self.of(ImportStatus.UNCHANGED))

    @property
    def refused(self) -> int:
        """How many were refused."""
        return len(self.of(ImportStatus.REFUSED))

    @property
    def bytes_added(self) -> int:
        """Bytes of new objects."""
        return sum(outcome.bytes_added for outcome in self.outcomes)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the tensor files of what was committed."""
        statuses = (ImportStatus.COMMITTED, ImportStatus.NEW)
        return sum(outcome.raw_bytes for outcome in self.outcomes if outcome.status in statuses)

    @override
    def sheet(self) -> Sheet:
        about = "about " if self.dry_run else ""
        facts = [("unchanged", str(self.unchanged)), ("refused", str(self.refused))]
        if self.raw_bytes:
            share = f"{100 * self.bytes_added / self.raw_bytes:.1f} %"
            amount = f"{about}{size(self.bytes_added)} for {size(self.raw_bytes)} ({share})"
            facts.append(("size", amount))
        facts.append(
            ("time", f"{about}{duration(self.seconds)} with {count(self.workers, 'worker')}")
        )
        refused = self.of(ImportStatus.REFUSED)
        table = Table.of(
            (
                {
                    "refused": each.source,
                    "reason": first_line(each.reason),
                    "hint": first_line(each.hint),
                }
                for each in refused
            ),
            stacked=True,
        )
        of = f" of {len(self.outcomes)}" if self.committed < len(self.outcomes) else ""
        adapters = count(self.committed, "adapter") if not of else f"{self.committed}{of} adapters"
        title = (
            f"dry run: {adapters} would be committed"
            if self.dry_run
            else f"{adapters} committed in {count(self.commits, 'commit')}"
        )
        refs = (outcome.ref for outcome in self.outcomes)
        return Sheet(
            title=title,
            facts=tuple(facts),
            tables=(table,) if refused else (),
            refs=tuple(ref for ref in refs if ref is not None),
        )


def duration(seconds: float) -> str:
    """Return seconds as people read them: `48 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
