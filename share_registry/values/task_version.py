"""A version of a task as writers and the materializer need it."""

from dataclasses import dataclass
from typing import Final

from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version

# What a restored version has from the one that it repeats
REPEATED: Final = (
    "adapter_digest",
    "layout_digest",
    "tensors_digest",
    "source_digest",
    "budget",
    "error",
    "norm",
    "before",
    "bound",
    "raw_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskVersion:
    """One version of a task with what surrounds it.

    Attributes:
        task: The task's present name.
        name: Its name at the commit that made the version.
        live: Whether the task is live now.
        latest: The task's newest version.
        commit_id: id of the commit that made the version.
        budget: The largest error allowed; None for no limit.
        norm: Frobenius norm of the scaled dW that errors are relative to.
        before: Where a refit made it: the error of the version before.
        bound: Whether `error` is an upper bound.
        note_digest: The note that speaks of its source and files (of a restored version: of the one
            it repeats), under the name `note_task`.
        removed: The commit that expired or purged it: then it is not read any more.
    """

    space: SpaceName
    task: TaskName
    name: TaskName
    version: Version
    live: bool
    latest: Version
    number: CommitNumber
    commit_id: Digest
    time: str
    adapter_digest: Digest
    layout_digest: Digest
    tensors_digest: Digest
    source_digest: Digest
    config_digest: Digest | None
    note_digest: Digest | None
    note_task: TaskName
    budget: float | None
    error: float
    norm: float
    before: float | None
    bound: bool
    raw_bytes: int
    added_bytes: int
    source_kind: str | None
    source_location: str | None
    source_revision: str | None
    restored_from: Version | None
    remarks: tuple[str, ...]
    removed: CommitNumber | None

    @property
    def ref(self) -> str:
        """`space/task@vN` under the present name."""
        return f"{self.space}/{self.task}@v{self.version}"

    @property
    def objects(self) -> tuple[Digest, ...]:
        """The objects that it is read from, in the order in which they are needed."""
        named = (self.note_digest, self.adapter_digest, self.layout_digest, self.config_digest)
        return tuple(digest for digest in named if digest is not None)
