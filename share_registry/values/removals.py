"""What was, or would be, expired or purged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from share_registry.look.units import count, size
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.values.sheet import Sheet, Shown, short_ids
from share_registry.values.text_table import NOTHING, Table

# Rows of a table; the JSON document has all
_MOST_ROWS: Final = 20
_NOTHING_DONE: Final = "Nothing was removed: run it with --no-dry-run (dry_run=False)."


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsideredVersion:
    """A version that was looked at.

    Attributes:
        kept: Why it stays; empty where it goes.
    """

    ref: str
    space: SpaceName
    task: TaskName
    version: Version
    kept: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExpireReport(Shown):
    """What `expire` removed or, in a dry run, would remove.

    Attributes:
        dry_run: Whether nothing was removed.
        versions: Every version that was looked at, and why it stays.
        commits: Those that say so, as `space/@cN`.
        freed_bytes: What the objects take that nothing needs then; `gc` removes them.
    """

    derived = ("expired",)
    dry_run: bool
    versions: tuple[ConsideredVersion, ...]
    commits: tuple[str, ...]
    freed_bytes: int

    @property
    def expired(self) -> tuple[str, ...]:
        """The versions that go."""
        return tuple(version.ref for version in self.versions if not version.kept)

    @override
    def sheet(self) -> Sheet:
        going = [version for version in self.versions if not version.kept]
        verb = "would expire" if self.dry_run else "expired"
        reasons: dict[str, int] = {}
        for version in self.versions:
            if version.kept:
                reasons[version.kept] = reasons.get(version.kept, 0) + 1
        notes = []
        if going and self.dry_run:
            notes.append(_NOTHING_DONE)
        if going and not self.dry_run:
            notes.append("Their objects go with the next `share-registry gc --no-dry-run`.")
        more = len(going) - _MOST_ROWS
        return Sheet(
            title=f"expire: {verb} {count(len(going), 'version')}, {size(self.freed_bytes)}",
            facts=(
                *((("recorded as", ", ".join(self.commits)),) if self.commits else ()),
                *((f"kept, {reason}", f"{number}") for reason, number in reasons.items()),
            ),
            tables=(Table.of({"version": version.ref} for version in going[:_MOST_ROWS]),),
            total=f"and {more} more" if more > 0 else "",
            notes=tuple(notes),
            refs=self.expired,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgedObject:
    """An object that went.

    Attributes:
        role: "adapter", "layout", "note", "config", "attachment", "original", "tensor" or "basis".
        size: In bytes; 0 where it was gone already.
    """

    digest: Digest
    role: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchoredVersion:
    """A version of another task that was built upon what went, and stands alone now.

    Attributes:
        before: Bytes of its adapter object as it was.
        after: Bytes of the one that decodes to the same tensors, bit for bit.
    """

    ref: str
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PurgeReport(Shown):
    """What `purge` removed or, in a dry run, would remove.

    Attributes:
        dry_run: Whether nothing was removed.
        task: `space/task`.
        commit: The commit that says so; None in a dry run, or where it was said before.
        versions: The versions that go.
        anchored: Versions of other tasks that are stored anew, with the same tensors.
        notes: Commits that lose their note, or what it says of the task.
        objects: The objects that go.
        kept: What stays although it has to do with the task, each with why.
        added_bytes: What the versions that are stored anew add.
        before_bytes: What all objects of the store took before.
        after_bytes: What they take now; in a dry run, what they would.
    """

    derived = ("freed_bytes",)
    dry_run: bool
    task: str
    commit: CommitNumber | None
    versions: tuple[str, ...]
    anchored: tuple[AnchoredVersion, ...]
    notes: tuple[str, ...]
    objects: tuple[PurgedObject, ...]
    kept: tuple[str, ...]
    added_bytes: int
    before_bytes: int
    after_bytes: int

    @property
    def freed_bytes(self) -> int:
        """What the objects take that go."""
        return sum(item.size for item in self.objects)

    @override
    def sheet(self) -> Sheet:
        verb = "would purge" if self.dry_run else "purged"
        largest = sorted(self.objects, key=lambda item: item.size, reverse=True)[:_MOST_ROWS]
        more = len(self.objects) - len(largest)
        is_empty = not (self.versions or self.notes or self.objects)
        return Sheet(
            title=f"purge: nothing is left of {self.task}"
            if is_empty
            else f"purge: {verb} {self.task}, {count(len(self.versions), 'version')}, "
            f"{size(self.freed_bytes)}",
            facts=(
                *((("recorded as", f"c{self.commit}"),) if self.commit else ()),
                ("versions", _listed(self.versions)),
                ("notes", f"{len(self.notes)} changed or removed"),
                ("added", size(self.added_bytes)),
                ("store", f"{size(self.before_bytes)} -> {size(self.after_bytes)}"),
            ),
            tables=(
                Table.of(
                    {
                        "stored anew": item.ref,
                        "before>": size(item.before),
                        "after>": size(item.after),
                    }
                    for item in self.anchored
                ),
                Table.of(
                    {
                        "object": short_ids(item.digest),
                        "role": item.role,
                        "size>": size(item.size),
                    }
                    for item in largest
                ),
            ),
            total=f"and {more} smaller" if more else "",
            notes=(*self.kept, *([_NOTHING_DONE] if self.dry_run else [])),
            refs=self.versions,
        )


def _listed(refs: Sequence[str]) -> str:
    versions = [ref.rpartition("@")[2] for ref in refs]
    return ", ".join(versions) or NOTHING
