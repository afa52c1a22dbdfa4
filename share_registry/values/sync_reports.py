"""What `sync` did to a directory that servers load from."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from typing_extensions import override

from share_registry.look.units import count, size
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.values.sheet import Sheet, Shown
from share_registry.values.text_table import NOTHING, Table, first_line


class SyncStatus(StrEnum):
    """What became of the directory of a version."""

    WRITTEN = "written"
    # it was there, with these bytes
    UNCHANGED = "unchanged"
    # it was there with other bytes, which were put right
    REPAIRED = "repaired"
    # the version that the alias stands for could not be exported
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncedTask:
    """One task of a sync.

    Attributes:
        ref: The version that the alias stands for.
        status: What became of it.
        name: Name of the directory that is served: of that version or, where it failed, of the one
            that was served before; None for nothing.
        digest: sha256 over the directory's file names and digests.
        size_bytes: Bytes of its files.
        reason: Why it failed.
        hint: What to do about it.
        notes: What servers would refuse or misread; of what was written in this run.
    """

    space: SpaceName
    task: TaskName
    ref: str
    status: SyncStatus
    name: str | None = None
    digest: Digest | None = None
    size_bytes: int = 0
    reason: str = ""
    hint: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SyncReport(Shown):
    """What a sync did, task by task.

    Attributes:
        root: The directory.
        index: Its list of what is served.
        alias: Everything behind it is served.
        tasks: One for each task that has the alias.
        retired: Names of directories that are served no longer and still there.
        removed: Names of those that this run removed.
        remarks: What else it came across.
    """

    derived = ("written", "unchanged", "repaired", "failed")
    root: Path
    index: Path
    alias: str
    tasks: tuple[SyncedTask, ...]
    retired: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def _of(self, status: SyncStatus) -> int:
        return sum(task.status is status for task in self.tasks)

    @property
    def written(self) -> int:
        """How many directories were written."""
        return self._of(SyncStatus.WRITTEN)

    @property
    def unchanged(self) -> int:
        """How many were there already."""
        return self._of(SyncStatus.UNCHANGED)

    @property
    def repaired(self) -> int:
        """How many were there damaged, and are right now."""
        return self._of(SyncStatus.REPAIRED)

    @property
    def failed(self) -> int:
        """How many versions could not be exported."""
        return self._of(SyncStatus.FAILED)

    @override
    def sheet(self) -> Sheet:
        counts = Counter(task.status for task in self.tasks)
        states = ", ".join(f"{counts[status]} {status}" for status in SyncStatus if counts[status])
        changes = [task for task in self.tasks if task.status is not SyncStatus.UNCHANGED]
        table = Table.of(
            (
                {
                    "version": task.ref,
                    "status": task.status.value,
                    "served": task.name or NOTHING,
                    "size>": size(task.size_bytes) if task.name else NOTHING,
                    "reason": first_line(task.reason) or NOTHING,
                    "hint": first_line(task.hint) or NOTHING,
                }
                for task in changes
            ),
            stacked=True,
        )
        names = (("retired, still there", self.retired), ("removed", self.removed))
        return Sheet(
            title=f"{self.root}: {count(len(self.tasks), 'task')} behind {self.alias}; {states}",
            facts=tuple((name, str(len(values))) for name, values in names if values),
            tables=(table,) if changes else (),
            notes=self.remarks,
            refs=tuple(task.ref for task in self.tasks if task.status is not SyncStatus.FAILED),
        )
