"""Commits and what they say of their cost: the log, the report of an adapter, and of a basis."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import overload

from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.values.sheet import NOTHING, Sheet, Table, html_of, text_of
from share_registry.values.units import (
    count,
    first_line,
    measured,
    pairs,
    percent,
    size,
    time_text,
    typed_percent,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleReport:
    """One factor as stored.

    Attributes:
        module: Module path as in the adapter's keys.
        side: "a" or "b".
        reference: What the own rows are coded against: "none", "previous", "rows of c2, c5", or
            "lossless".
        rank: Rows of the factor.
        bits_per_parameter: Coded bits of own rows, coefficients and scales over r * width (an
            entropy estimate: frames are shared by factors of like statistics).
        error: Relative error of the module's dW (the same for both sides).
        bytes: Coded bytes, estimated alike.
    """

    module: str
    side: str
    reference: str
    rank: int
    bits_per_parameter: float
    error: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterReport:
    """What a commit did to one adapter.

    Attributes:
        error: Pooled relative Frobenius error of scaled dW of the adapter exactly as native export
            gives it back, or an upper bound of it.
        budget: The largest error allowed; 0 is lossless, None no limit.
        bytes_added: Bytes of new objects in the store.
        raw_bytes: Bytes of the adapter's tensor file.
        modules: Per module and side; empty in a log.
        notes: What was not kept or is worth knowing.
        bound: Whether `error` is an upper bound: a refit of a task whose source is not kept.
        before: The error of the version before, where a refit made this one.
        bits_per_parameter, bits_bound: Of all modules, and what Gaussian rows need at least for
            that error without references; None in a log.
    """

    error: float
    budget: float | None
    bytes_added: int
    raw_bytes: int
    modules: tuple[ModuleReport, ...] = ()
    bits_per_parameter: float | None = None
    bits_bound: float | None = None
    notes: tuple[str, ...] = ()
    bound: bool = False
    before: float | None = None

    _repr_html_ = html_of

    def __str__(self) -> str:
        from share_registry.values.commits import summary

        return summary(self)

    def __repr__(self) -> str:
        return f"<Report {self}>"

    @property
    def worst_module(self) -> ModuleReport | None:
        """The module of the largest error, None where modules are not listed."""
        return max(self.modules, key=lambda module: module.error, default=None)

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        return Sheet(
            title=summary(self),
            facts=_rate(self, "rate"),
            tables=(_module_table({"": self}),),
            notes=self.notes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisModuleReport:
    """The directions of one module.

    Attributes:
        module: Module path as in the adapters' keys.
        k_a, k_b: Directions of either side.
        captured_a, captured_b: Share of the tasks' energy in them; None where the basis was not
            fitted just now.
    """

    module: str
    k_a: int
    k_b: int
    captured_a: float | None = None
    captured_b: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisReport:
    """A basis that a commit brought.

    Attributes:
        digest: Its object.
        size_bytes: Bytes of the object; None where it is not in the store.
        modules: Its directions; empty in a log.
    """

    digest: Digest
    size_bytes: int | None
    modules: tuple[BasisModuleReport, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit of a space.

    Attributes:
        number: Position in the space's log.
        id: sha256 of the record.
        parent: id of the record before it; for commit 1 the digest of FORMAT.
        kind: create, absorb, refit, merge, restore, drop, rename, policy, alias, tag or annotate.
        refs: Task name -> `space/task@vN` for every task version this commit made or speaks of.
        reports: Task name -> report, for tasks absorbed, re-expressed or merged.
        detail: What a kind other than absorb did, as a phrase.
        basis: The basis that the commit brought, None where it brought none.
        created: False where an earlier commit was returned instead of a new one.
    """

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
    created: bool = True

    __str__ = text_of
    _repr_html_ = html_of

    def __repr__(self) -> str:
        said = f", {self.report}" if self.report else f", {self.detail}" if self.detail else ""
        return f"<Commit {self.ref} (c{self.number} {self.id[:8]}) {self.kind}{said}>"

    @property
    def task(self) -> TaskName | None:
        """The task, where the commit is of exactly one."""
        return TaskName(next(iter(self.refs))) if len(self.refs) == 1 else None

    @property
    def version(self) -> Version | None:
        """The task version, where the commit is of exactly one."""
        return self.versions.get(self.task) if self.task else None

    @property
    def ref(self) -> str:
        """`space/task@vN` where the commit is of exactly one task, else `space/@cN`."""
        return self.refs[self.task] if self.task else f"{self.space}/@c{self.number}"

    @property
    def report(self) -> AdapterReport | None:
        """The report, where the commit absorbed exactly one task."""
        return next(iter(self.reports.values())) if len(self.reports) == 1 else None

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        facts = [
            ("commit", f"c{self.number} {self.id}"),
            ("kind", self.kind),
            ("time", f"{time_text(self.time)} UTC"),
        ]
        facts += [(name, shown) for name, shown in _optional_facts(self) if shown]
        for task, report in self.reports.items():
            facts += [(task, summary(report)), *_rate(report, "rate")]
        facts += (
            [("basis", f"{self.basis.digest[:8]}, {_basis(self.basis)}")]
            if self.basis is not None
            else []
        )
        tables = (*_basis_tables(self.basis), _module_table(self.reports))
        return Sheet(
            title=", ".join(self.refs.values()) or self.ref,
            facts=tuple(facts),
            tables=tables,
            notes=_notes(self),
        )

    @staticmethod
    def table(commits: "Sequence[Commit]") -> Table:
        """Return several as a table."""
        headers = (
            "commit",
            "id",
            "time (UTC)",
            "kind",
            "what",
            "error>",
            "bytes>",
            "author",
            "message",
        )
        rows = tuple(_log_row(commit) for commit in commits)
        if len({commit.space for commit in commits}) == 1:
            return Table(headers=headers, rows=rows)
        return Table(
            headers=("space", *headers),
            rows=tuple((commit.space, *row) for commit, row in zip(commits, rows, strict=True)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Commits, newest first; iterate, index or print it."""

    commits: tuple[Commit, ...]

    __str__ = text_of
    __repr__ = text_of
    _repr_html_ = html_of

    def __iter__(self) -> Iterator[Commit]:
        return iter(self.commits)

    def __len__(self) -> int:
        return len(self.commits)

    @overload
    def __getitem__(self, position: int) -> Commit: ...
    @overload
    def __getitem__(self, position: slice) -> "Log": ...
    def __getitem__(self, position: int | slice) -> "Commit | Log":
        return (
            Log(commits=self.commits[position])
            if isinstance(position, slice)
            else self.commits[position]
        )

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        return Sheet(tables=(Commit.table(self.commits),))


def summary(report: AdapterReport) -> str:
    """Return a report as one line: `error 4.93 % of a 5 % budget, 33 kB for 295 kB`."""
    limit = (
        "without a limit"
        if report.budget is None
        else f"of a {typed_percent(report.budget)} budget"
    )
    before = "" if report.before is None else f" ({percent(report.before)} before)"
    shown = f"{'at most ' if report.bound else ''}{percent(report.error, up=report.bound)}"
    kept = "lossless" if report.error == 0 else f"error {shown}{before} {limit}"
    return f"{kept}, {size(report.bytes_added)} for {size(report.raw_bytes)}"


def brief(commit: Commit) -> Sheet:
    """Return what is said of a commit just made.

    Its references with their reports, and where it stands in the log.
    """
    lines = [
        f"{ref}  {summary(commit.reports[task])}" if task in commit.reports else ref
        for task, ref in commit.refs.items()
    ]
    said = ", ".join(part for part in (commit.detail, _basis(commit.basis)) if part)
    if not commit.id:
        place = (
            f"(dry run: nothing was written{f', {_basis(commit.basis)}' if commit.basis else ''})"
        )
        return Sheet(
            title="\n".join([*(lines or [commit.ref]), place]),
            tables=_basis_tables(commit.basis),
            notes=_notes(commit),
        )
    place = f"(c{commit.number} {commit.id[:8]}{f', {said}' if said else ''})"
    return Sheet(title="\n".join([*(lines or [commit.ref]), place]), notes=_notes(commit))


def _rate(value: AdapterReport, name: str) -> tuple[tuple[str, str], ...]:
    """Return the bits per parameter beside what Gaussian rows need, as a fact."""
    if value.bits_per_parameter is None:
        return ()
    least = (
        ""
        if value.bits_bound is None
        else f"; Gaussian rows need {value.bits_bound:.2f} for this error, without references"
    )
    return ((name, f"{value.bits_per_parameter:.2f} bits per parameter{least}"),)


def _basis(basis: BasisReport | None) -> str:
    """Return what a basis takes: `24 modules with 16 directions a side, 133 kB`."""
    if basis is None:
        return ""
    ks = sorted({k for module in basis.modules for k in (module.k_a, module.k_b)})
    shown = (
        f"{count(len(basis.modules), 'module')} with {ks[0] if len(ks) == 1 else f'{ks[0]} to {ks[-1]}'} directions a side, "
        if ks
        else ""
    )
    return f"{shown}{'not in the store' if basis.size_bytes is None else size(basis.size_bytes)}"


def _basis_tables(basis: BasisReport | None) -> tuple[Table, ...]:
    if basis is None:
        return ()
    rows = tuple(
        (
            module.module,
            str(module.k_a),
            str(module.k_b),
            _share(module.captured_a),
            _share(module.captured_b),
        )
        for module in basis.modules
    )
    return (
        Table(headers=("module", "k of a>", "k of b>", "energy in a>", "energy in b>"), rows=rows),
    )


def _share(captured: float | None) -> str:
    return NOTHING if captured is None else percent(captured)


def _module_table(reports: Mapping[str, AdapterReport]) -> Table:
    """Return the modules of all reports, each row with its task where there are several."""
    headers = ("module", "side", "reference", "rank>", "bits/parameter>", "error>", "bytes>")
    rows = tuple(
        (
            task,
            found.module,
            found.side,
            found.reference,
            str(found.rank),
            f"{found.bits_per_parameter:.2f}",
            percent(found.error),
            size(found.bytes),
        )
        for task, report in reports.items()
        for found in report.modules
    )
    if len(reports) > 1:
        return Table(headers=("task", *headers), rows=rows)
    return Table(headers=headers, rows=tuple(row[1:] for row in rows))


def _notes(commit: Commit) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for report in commit.reports.values() for note in report.notes))


def _optional_facts(commit: Commit) -> Iterable[tuple[str, str]]:
    yield "author", commit.author or ""
    yield "message", commit.message
    yield "labels", pairs(commit.labels)
    yield "metrics", pairs(commit.metrics)
    yield "detail", commit.detail


def _log_row(commit: Commit) -> tuple[str, ...]:
    reports = commit.reports.values()
    worst = max(reports, key=lambda report: report.error, default=None)
    basis = (commit.basis.size_bytes or 0) if commit.basis is not None else 0
    return (
        f"c{commit.number}",
        commit.id[:8],
        time_text(commit.time),
        commit.kind,
        commit.detail
        or ", ".join(ref.partition("/")[2] for ref in commit.refs.values())
        or NOTHING,
        measured(worst.error, bound=worst.bound) if worst is not None else NOTHING,
        size(sum(report.bytes_added for report in reports) + basis)
        if reports or basis
        else NOTHING,
        commit.author or NOTHING,
        first_line(commit.message) or NOTHING,
    )
