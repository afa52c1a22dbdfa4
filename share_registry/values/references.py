"""What references, aliases and tags stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from typing_extensions import override

from share_registry.look.units import time_text
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.values.sheet import Listed, Sheet, Shown
from share_registry.values.text_table import NOTHING, Table, first_line


class _Version(Protocol):
    @property
    def removed(self) -> CommitNumber | None:
        """The commit that expired or purged it."""


def removed_column(version: _Version, versions: Sequence[_Version]) -> dict[str, str]:
    """Return a column that says which commit removed a version; none where all are there."""
    if not any(each.removed for each in versions):
        return {}
    return {"removed in": f"c{version.removed}" if version.removed else NOTHING}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ResolvedReference(Shown):
    """What a reference means now: a task version or (task None) a state of a whole space."""

    derived = ("long",)
    ref: str
    space: SpaceName
    number: CommitNumber
    id: Digest
    task: TaskName | None = None
    version: Version | None = None

    __str__ = Shown.__repr__

    @property
    def long(self) -> str:
        """`space/cola@v3 (c412 1a2b3c4d)`."""
        return f"{self.ref} (c{self.number} {self.id[:8]})"

    @override
    def sheet(self) -> Sheet:
        return Sheet(title=self.long, refs=(self.ref,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity(Listed):
    """A version that an adapter is.

    Attributes:
        form: "as committed", "as exported", "without its other files" (committed from memory, say),
            or "its tensors, another config".
        live: Whether its task is live.
        removed: The commit that expired or purged it; None where it is there.
    """

    ref: str
    space: SpaceName
    task: TaskName
    version: Version
    number: CommitNumber
    id: Digest
    form: str
    live: bool
    removed: CommitNumber | None = None

    @staticmethod
    def listing(identities: "Sequence[Identity]") -> Sheet:
        """Return what is shown of several."""
        return Sheet(
            tables=(
                Table.of(
                    {
                        "version": identity.ref,
                        "commit": f"c{identity.number}",
                        "id": identity.id[:8],
                        "task": "live" if identity.live else "dropped",
                        **removed_column(identity, identities),
                        "form": identity.form,
                    }
                    for identity in identities
                ),
            ),
            refs=tuple(identity.ref for identity in identities),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias(Listed):
    """One alias of one task, now or at an asked time."""

    name: str
    task: TaskName
    version: Version
    ref: str
    number: CommitNumber
    time: datetime

    @property
    def space(self) -> SpaceName:
        """The space of its task."""
        return SpaceName(self.ref.partition("/")[0])

    @staticmethod
    def listing(aliases: "Sequence[Alias]") -> Sheet:
        """Return what is shown of several."""
        return Sheet(
            tables=(
                Table.of(
                    (
                        {
                            "version": alias.ref,
                            "alias": alias.name,
                            "moved in": f"c{alias.number}",
                            "time (UTC)": time_text(alias.time),
                        }
                        for alias in aliases
                    ),
                    spare=("moved in", "time (UTC)"),
                ),
            ),
            refs=tuple(alias.ref for alias in aliases),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove(Listed):
    """One move of an alias; version None is its removal."""

    name: str
    task: TaskName
    version: Version | None
    ref: str | None
    number: CommitNumber
    id: Digest
    time: datetime
    author: str | None
    reason: str

    @staticmethod
    def listing(moves: "Sequence[AliasMove]") -> Sheet:
        """Return what is shown of several."""
        return Sheet(
            tables=(
                Table.of(
                    {
                        "commit": f"c{move.number}",
                        "id": move.id[:8],
                        "time (UTC)": time_text(move.time),
                        "version": move.ref or "removed",
                        "author": move.author or NOTHING,
                        "reason": first_line(move.reason) or NOTHING,
                    }
                    for move in moves
                ),
            ),
            refs=tuple(move.ref for move in moves if move.ref),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag(Listed):
    """One tag of a space: a name of a commit, for ever."""

    name: str
    space: SpaceName
    number: CommitNumber
    id: Digest
    time: datetime

    @staticmethod
    def listing(tags: "Sequence[Tag]") -> Sheet:
        """Return what is shown of several."""
        return Sheet(
            tables=(
                Table.of(
                    {
                        "space": tag.space,
                        "tag": tag.name,
                        "commit": f"c{tag.number}",
                        "id": tag.id[:8],
                        "time (UTC)": time_text(tag.time),
                    }
                    for tag in tags
                ),
            ),
            refs=tuple(f"{tag.space}/@{tag.name}" for tag in tags),
        )
