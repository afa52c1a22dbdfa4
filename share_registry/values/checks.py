"""Differences, exports and findings."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from typing_extensions import override

from share_registry.look.units import count, size
from share_registry.names import Digest, TaskName, first_and_more
from share_registry.values.sheet import Sheet, Shown, optional_percent, short_ids
from share_registry.values.text_table import NOTHING, Table

# Names of a list that are written out
_MOST_NAMES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDiff:
    """One task in a diff.

    Attributes:
        status: "same", "changed", "added" or "removed".
        change: |dW_a - dW_b| / |dW_a|, None where one side is missing or dW_a is 0.
        metadata: Field -> (value in a, value in b) where they differ: config members, labels,
            metrics, rank, dtype.
        modules: Module -> the same change of it alone; 1 where only a has it, None where only b
            has it, or dW_a is 0 there. Empty where nothing was compared.
    """

    task: TaskName
    status: str
    a: str | None
    b: str | None
    change: float | None
    metadata: Mapping[str, tuple[str, str]]
    modules: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Diff(Shown):
    """What differs between two task versions or two states of a space."""

    derived = ("differs",)
    a: str
    b: str
    tasks: tuple[TaskDiff, ...]

    @property
    def differs(self) -> bool:
        """Whether any task changed, was added or was removed."""
        return any(task.status != "same" for task in self.tasks)

    def __repr__(self) -> str:
        changes = sum(task.status != "same" for task in self.tasks)
        return f"<Diff {self.a} .. {self.b}: {count(changes, 'change')}>"

    @override
    def sheet(self) -> Sheet:
        changed = [task for task in self.tasks if task.status != "same" or len(self.tasks) == 1]
        tasks = Table.of(
            (
                {
                    "task": task.task,
                    "status": task.status,
                    "a": _version(task.a, task.task),
                    "b": _version(task.b, task.task),
                    "change of dW (relative to a)>": optional_percent(task.change),
                }
                for task in changed
            ),
            spare=("status",),
        )
        members = Table.of(
            (
                {
                    "task": task.task,
                    "member": member,
                    "in a": _value(in_a, in_b),
                    "in b": _value(in_b, in_a),
                }
                for task in self.tasks
                for member, (in_a, in_b) in task.metadata.items()
            ),
            stacked=True,
        )
        same = len(self.tasks) - len(changed)
        return Sheet(
            title=f"{self.a} .. {self.b}",
            tables=(tasks, members),
            total=f"{count(same, 'task is', 'tasks are')} the same" if same else "",
            refs=tuple(task.b or task.a or "" for task in self.tasks if task.status != "same"),
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Export(Shown):
    """One exported directory, or one file for llama.cpp.

    Attributes:
        digest: sha256 over the sorted list of file names and file digests; of the one file.
        notes: What servers would refuse or misread, and what the profile changed.
        profile: "native", "portable", "gguf" or "diffusers".
        tensors: sha256 of its tensor file.
        target: The server that it was made for, where one was given.
        signature: Its signature beside it, where it was signed.
        recorded: The commit that says so in the log, such as minilm/@c7, where it was recorded.
    """

    path: Path
    ref: str
    name: str
    digest: Digest
    notes: tuple[str, ...]
    profile: str
    tensors: Digest
    target: str | None = None
    signature: Path | None = None
    recorded: str | None = None

    def __repr__(self) -> str:
        return f"<Export {self.ref} at {self.path}>"

    __str__ = __repr__

    @override
    def sheet(self) -> Sheet:
        optional = (
            ("for", self.target),
            ("signature", self.signature),
            ("recorded", self.recorded),
        )
        return Sheet(
            title=str(self.path),
            facts=(
                ("ref", self.ref),
                ("digest", self.digest),
                *((name, str(value)) for name, value in optional if value is not None),
            ),
            notes=self.notes,
            refs=(str(self.path),),
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SignedExport(Shown):
    """An exported directory that is what somebody signed.

    Attributes:
        path: The directory, links followed.
        signature: File of the signature.
        signatory: Whose signature it is: as it was asked for.
        digest: sha256 over the sorted list of file names and file digests, as of `Export`.
        files: How many files were signed.
    """

    path: Path
    signature: Path
    signatory: str
    digest: Digest
    files: int

    def __repr__(self) -> str:
        return f"<SignedExport {self.path} by {self.signatory}>"

    @override
    def sheet(self) -> Sheet:
        return Sheet(
            title=f"{self.path} is what was signed",
            facts=(
                ("signatory", self.signatory),
                ("signature", str(self.signature)),
                ("digest", self.digest),
                ("files", str(self.files)),
            ),
            refs=(str(self.path),),
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Quarantine(Shown):
    """What was moved out of the way in a store.

    Attributes:
        place: The directory in the store where it is kept, under the names that it had.
        moved: Those names.
    """

    place: str
    moved: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Quarantine {count(len(self.moved), 'file')} in {self.place}>"

    @override
    def sheet(self) -> Sheet:
        return Sheet(
            title=f"{count(len(self.moved), 'file')} moved to {self.place}",
            tables=(Table.of({"was": name} for name in self.moved),),
            notes=("Put sound bytes in their place: commit the adapter again, or copy the file.",),
        )


class Outcome(StrEnum):
    """What it means that `verify` found something, the worst first."""

    # bytes are missing that no record removed, or are not what they must be
    DAMAGED = "damaged"
    # the catalog is not what the log says: the store is sound, answers may be wrong
    CATALOG = "catalog wrong"
    # a record of a later release: what it says, and what follows from it, is not known
    NEWER = "newer format"
    # sound as far as was looked at, and too large to be decoded
    LARGE = "beyond resources"


def _value(value: str, opposite: str) -> str:
    """Return a value as it is or, of a long list, the names that the opposite has not."""
    names, others = value.split(", "), {*opposite.split(", ")}
    if len(names) <= _MOST_NAMES:
        return value
    alone = [name for name in names if name not in others]
    both = f"{len(names) - len(alone)} that both have"
    return ", ".join([*filter(None, [first_and_more(alone, _MOST_NAMES)]), both])


def _version(ref: str | None, task: TaskName) -> str:
    """Return a version of a task without the name that its row has already."""
    if ref is None:
        return NOTHING
    name, _, version = ref.rpartition("@")
    return version if name.rpartition("/")[2] == task else ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing `verify` found.

    Attributes:
        outcome: What it means.
        code: The clause of the specification that is violated; CATALOG where the catalog differs
            from the log.
        what: The file, commit or version.
        message: What is wrong: found and expected.
        refs: Task versions that cannot be read, or not exported, because of it.
    """

    outcome: Outcome = Outcome.DAMAGED
    code: str
    what: str
    message: str
    refs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VerifyReport(Shown):
    """What `verify` looked at, and what is wrong.

    What is counted of a shard is what that shard checked: the counts of all shards add up.

    Attributes:
        shard: Which share of the registry it is about, as "3/8"; None for the whole.
        findings: What was found to be wrong.
        unexportable: The versions that decode and cannot be exported, as their note, their config
            or an attachment is lost or was purged; of spaces whose log is sound.
    """

    derived = ("ok",)
    level: str
    spaces: int
    records: int
    objects: int
    bytes: int
    versions: int
    findings: tuple[Finding, ...]
    unexportable: tuple[str, ...] = ()
    shard: str | None = None

    @property
    def extent(self) -> str:
        """How deep it looked, and at which shard."""
        return self.level if self.shard is None else f"{self.level}, shard {self.shard}"

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @override
    def sheet(self) -> Sheet:
        checked = ", ".join(
            (
                count(self.spaces, "space"),
                count(self.records, "record"),
                f"{count(self.objects, 'object')} of {size(self.bytes)}",
                count(self.versions, "version"),
            )
        )
        table = Table.of(
            (
                {
                    "clause": finding.code,
                    "where": short_ids(finding.what),
                    "outcome": finding.outcome.value,
                    "what": short_ids(finding.message).rstrip("."),
                    "of": ", ".join(finding.refs) or NOTHING,
                }
                for finding in self.findings
            ),
            stacked=True,
        )
        counts = Counter(finding.outcome for finding in self.findings)
        state = "; ".join(
            f"{count(counts[outcome], 'thing is', 'things are')} {outcome.value}"
            for outcome in Outcome
            if counts[outcome]
        )
        return Sheet(
            title=f"{self.extent}: {checked}; {state or 'nothing is damaged'}",
            tables=(table,),
            notes=tuple(
                f"{ref} cannot be exported: its note, config or an attachment is gone."
                for ref in self.unexportable
            ),
            refs=tuple(sorted({ref for finding in self.findings for ref in finding.refs})),
        )
