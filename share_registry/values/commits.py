"""Commits, and the log that lists them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, overload

from typing_extensions import override

from share_registry.look.units import (
    count,
    measured,
    size,
    time_text,
)
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version, first_and_more
from share_registry.values.cost_reports import (
    AdapterReport,
    BasisReport,
    adapter_facts,
    basis_table,
    describe_basis,
    module_table,
)
from share_registry.values.history_plot import plot_log
from share_registry.values.log_graph import GraphNode, draw
from share_registry.values.sheet import Sheet, Shown, metric_pairs, pairs, with_note
from share_registry.values.text_table import NOTHING, Table, first_line

# Kinds of commits, as records name them
KINDS: Final = (
    "create",
    "absorb",
    "refit",
    "merge",
    "restore",
    "drop",
    "rename",
    "policy",
    "alias",
    "tag",
    "annotate",
    "export",
    "expire",
    "purge",
)
# Those that make versions
_MAKING: Final = frozenset({"absorb", "refit", "merge", "restore"})
# Of one commit: tasks and notes that are written out
_MOST_TASKS: Final = 8
_MOST_NOTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Commit(Shown):
    """One commit of a space.

    Attributes:
        number: Position in the space's log.
        id: sha256 of the record.
        parent: id of the record before it; for commit 1 the digest of FORMAT.
        kind: One of `share_registry.values.commits.KINDS`; absorb is a commit of adapters.
        refs: Task name -> `space/task@vN` for every task version this commit made or speaks of.
        reports: Task name -> report, for tasks committed, re-expressed or merged.
        detail: What a kind other than absorb did, as a phrase.
        basis: The basis that the commit brought, None where it brought none.
        labels, metrics: What the commit gave, of several tasks what it gave to all; of a version
            that `show` was asked for what it has now.
        aliases: Aliases that the version has now, as `show` says; empty elsewhere.
        created: False where an earlier commit was returned instead of a new one.
        unchanged: Versions of tasks that were given unchanged and got no new one; empty in a log.
        builds_on: Numbers of the commits whose versions its own were made from, as `log` with
            `graph` says; empty elsewhere.
        about: The task that `show` or `log` was asked for; `ref`, `task`, `version` and `report`
            are of that one. None elsewhere.
    """

    derived = ("ref", "task", "version", "report")
    number: CommitNumber
    id: Digest
    parent: Digest
    kind: str
    space: SpaceName
    time: datetime
    key: str
    author: str | None = None
    message: str = ""
    refs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, Version] = field(default_factory=dict)
    reports: Mapping[str, AdapterReport] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""
    basis: BasisReport | None = None
    aliases: tuple[str, ...] = ()
    created: bool = True
    unchanged: tuple[str, ...] = ()
    builds_on: tuple[CommitNumber, ...] = ()
    about: TaskName | None = None

    def __repr__(self) -> str:
        said = f", {self.report}" if self.report else f", {self.detail}" if self.detail else ""
        return f"<Commit {self.ref} (c{self.number} {self.id[:8]}) {self.kind}{said}>"

    @property
    def task(self) -> TaskName | None:
        """The task that was asked for, or where the commit is of exactly one."""
        if self.about is not None or len(self.refs) != 1:
            return self.about
        return TaskName(next(iter(self.refs)))

    @property
    def version(self) -> Version | None:
        """The task version that was asked for, or where the commit is of exactly one."""
        return self.versions.get(self.task) if self.task else None

    @property
    def ref(self) -> str:
        """`space/task@vN` where there is a version of one `task`, else `space/@cN`."""
        return self.refs.get(self.task or "", f"{self.space}/@c{self.number}")

    @property
    def report(self) -> AdapterReport | None:
        """The report of the version that was asked for, or where the commit has exactly one."""
        if self.about is not None:
            return self.reports.get(self.about)
        return next(iter(self.reports.values())) if len(self.reports) == 1 else None

    @override
    def sheet(self) -> Sheet:
        about = {
            "commit": f"c{self.number} {self.id}",
            "kind": self.kind,
            "time": f"{time_text(self.time)} UTC",
            "author": self.author,
            "message": self.message,
            "labels": pairs(self.labels),
            "metrics": metric_pairs(self.metrics),
            "aliases": ", ".join(self.aliases),
            "detail": self.detail,
        }
        facts = [(name, text) for name, text in about.items() if text]
        if self.report is not None:
            facts += adapter_facts(self.report)
        elif self.about is None:
            facts += _some_reports(self)
        if self.basis is not None:
            facts.append(("basis", f"{self.basis.digest[:8]}, {describe_basis(self.basis)}"))
        return Sheet(
            title=first_and_more(_refs(self)),
            facts=tuple(facts),
            total=_others(self),
            notes=_notes(self),
            refs=_refs(self),
        )

    @staticmethod
    def listing(commits: "Sequence[Commit]") -> Sheet:
        """Return what is shown of several; with their spaces, where there are several."""
        return _listing(commits, [{}] * len(commits))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Log(Shown):
    """Commits, newest first; iterate, index or print it.

    Attributes:
        commits: The commits.
        graph: Whether it is shown with the lines between commits.
    """

    commits: tuple[Commit, ...]
    graph: bool = False

    plot = plot_log
    __repr__ = Shown.__str__

    def __iter__(self) -> Iterator[Commit]:
        return iter(self.commits)

    def __len__(self) -> int:
        return len(self.commits)

    @overload
    def __getitem__(self, position: int) -> Commit: ...
    @overload
    def __getitem__(self, position: slice) -> "Log": ...
    def __getitem__(self, position: int | slice) -> "Commit | Log":
        if isinstance(position, slice):
            return replace(self, commits=self.commits[position])
        return self.commits[position]

    @override
    def sheet(self) -> Sheet:
        if not self.graph:
            return Commit.listing(self.commits)
        drawing = draw(_graph_nodes(self.commits))
        sheet = _listing(self.commits, [{"graph": row} for row in drawing.rows])
        note = f"{count(drawing.left_out, 'connection')} more than fit are not drawn."
        return with_note(sheet, note if drawing.left_out else "")


def _listing(commits: Sequence[Commit], before: Sequence[Mapping[str, str]]) -> Sheet:
    """Return what is shown of commits, each with cells before it."""
    several = len({commit.space for commit in commits}) > 1
    table = Table.of(
        (
            {**cells, **({"space": commit.space} if several else {}), **_log_row(commit)}
            for cells, commit in zip(before, commits, strict=True)
        ),
        spare=("bytes>", "error>", "kind", "author"),
        short=("author",),
    )
    return Sheet(tables=(table,), refs=tuple(ref for commit in commits for ref in _refs(commit)))


def _graph_nodes(commits: Sequence[Commit]) -> list[GraphNode]:
    """Return commits as nodes that lead to those among them."""
    listed = {(commit.space, commit.number) for commit in commits}
    return [
        GraphNode(
            key=(commit.space, commit.number),
            parents=tuple(
                (commit.space, number)
                for number in commit.builds_on
                if (commit.space, number) in listed
            ),
            makes=commit.kind in _MAKING and bool(commit.refs),
        )
        for commit in commits
    ]


def modules_sheet(commit: Commit) -> Sheet:
    """Return what is said of a commit, and of each of its modules."""
    return replace(
        commit.sheet(), tables=(basis_table(commit.basis), module_table(_reports(commit)))
    )


def brief_sheet(commit: Commit) -> Sheet:
    """Return what is said of a commit just made.

    Its references with their reports, and where it stands in the log.
    """
    several = [
        f"{ref}  {commit.reports[task]}" if task in commit.reports else ref
        for task, ref in commit.refs.items()
    ]
    lines = [*several[:_MOST_TASKS], *_rest(commit)]
    said = ["dry run: nothing was written"]
    if commit.id:
        said = [f"c{commit.number} {commit.id[:8]}", commit.detail]
    where = ", ".join(filter(None, [*said, describe_basis(commit.basis)]))
    return Sheet(
        title="\n".join([*(lines or [commit.ref]), f"({where})"]),
        tables=() if commit.id else (basis_table(commit.basis),),
        notes=_notes(commit),
        refs=_refs(commit),
    )


def _some_reports(commit: Commit) -> list[tuple[str, str]]:
    """Return the reports of the first few tasks, and what all come to."""
    facts = [(task, str(report)) for task, report in commit.reports.items()]
    return [*facts[:_MOST_TASKS], *(("", line) for line in _rest(commit))]


def _rest(commit: Commit) -> list[str]:
    """Return what is said of tasks beyond those that are written out, as one line or none."""
    more = len(commit.refs) - _MOST_TASKS
    if more <= 0:
        return []
    worst = _worst(commit)
    if worst is None:
        return [f"{more} more"]
    added = sum(report.bytes_added for report in commit.reports.values())
    raw = sum(report.raw_bytes for report in commit.reports.values())
    error = measured(worst.error, bound=worst.bound)
    everything = f"error {error} at most, {size(added)} for {size(raw)}"
    return [f"{more} more; all {len(commit.refs)}: {everything}"]


def _others(commit: Commit) -> str:
    """Return how many other versions the commit of the one that was asked for made."""
    others = len(commit.refs) - 1
    if commit.about is None or not others:
        return ""
    return f"committed with {count(others, 'other')}: {commit.space}/@c{commit.number}"


def _worst(commit: Commit) -> AdapterReport | None:
    return max(_reports(commit).values(), key=lambda report: report.error, default=None)


def _notes(commit: Commit) -> tuple[str, ...]:
    reports = _reports(commit).values()
    notes = [*dict.fromkeys(note for report in reports for note in report.notes)]
    if commit.unchanged:
        named = first_and_more(commit.unchanged)
        notes.insert(0, f"unchanged, without a new version: {named}")
    more = len(notes) - _MOST_NOTES
    return (*notes[:_MOST_NOTES], f"and {more} more; JSON has them all.") if more > 0 else (*notes,)


def _refs(commit: Commit) -> tuple[str, ...]:
    if commit.about is not None:
        return (commit.ref,)
    return tuple(commit.refs.values()) or (commit.ref,)


def _reports(commit: Commit) -> Mapping[str, AdapterReport]:
    """Return the reports of what was asked for: of one version, or of all that it made."""
    if commit.about is None:
        return commit.reports
    return {task: report for task, report in commit.reports.items() if task == commit.about}


def _log_row(commit: Commit) -> dict[str, str]:
    reports = _reports(commit).values()
    worst = _worst(commit)
    bytes_added = sum(report.bytes_added for report in reports)
    if commit.basis is not None:
        bytes_added += commit.basis.size_bytes or 0
    names = sorted(commit.refs.values(), key=lambda ref: ref != commit.ref)
    subject = commit.detail or first_and_more([ref.partition("/")[2] for ref in names])
    return {
        "commit": f"c{commit.number}",
        "id": commit.id[:8],
        "time (UTC)": time_text(commit.time),
        "kind": commit.kind,
        "what": subject or NOTHING,
        "error>": measured(worst.error, bound=worst.bound) if worst else NOTHING,
        "bytes>": size(bytes_added) if reports or bytes_added else NOTHING,
        "author": commit.author or NOTHING,
        "message": first_line(commit.message) or NOTHING,
    }
