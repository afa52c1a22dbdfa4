"""How results look: text for terminals and `str`, HTML for notebooks.

Every result becomes one `Sheet` (a title, facts, tables, notes); a sheet becomes text or HTML. No
result knows about either.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from typing import Any, Final

from share_registry.values.report import AdapterReport, BasisReport
from share_registry.values.results import (
    Alias,
    AliasMove,
    Commit,
    Diff,
    Export,
    Lineage,
    Log,
    ResolvedReference,
    SpaceSummary,
    Tag,
    Task,
    VerifyReport,
)
from share_registry.values.table import NOTHING, Table, aligned, printable

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_DIGEST: Final = re.compile(r"\b[0-9a-f]{64}\b")
_SMALLEST: Final = Decimal("0.01")
"""Percentages below it have no digit among two decimals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What is shown of one result."""

    title: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


def size(count: int) -> str:
    """Return a number of bytes with a decimal unit: `33 kB`."""
    value = float(count)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return (
        f"{count} B"
        if unit == "B"
        else f"{value:.1f} {unit}"
        if value < 9.95
        else f"{value:.0f} {unit}"
    )


def percent(part: float, *, up: bool = False) -> str:
    """Return a fraction as a percentage: `4.93 %`, `12.3 %`, `1e-05 %`.

    It is cut and not rounded: an error below its budget never looks as if it had reached it. An
    upper bound goes `up`: it must not look smaller than it is.
    """
    value = 100 * Decimal(repr(part))
    if not value.is_finite() or value == 0:
        return f"{100 * part:g} %"
    if value < _SMALLEST:
        return f"{float(_cut(value, value.adjusted(), up=up)):.0e} %"
    return f"{_cut(value, -2 if value < 10 else min(value.adjusted() - 2, 0), up=up):f} %"


def measured(error: float, *, bound: bool) -> str:
    """Return an error as a percentage: `4.93 %`, or `<= 4.93 %` where it is an upper bound."""
    return f"{'<= ' if bound else ''}{percent(error, up=bound)}"


def typed_percent(part: float) -> str:
    """Return a fraction that somebody chose as a percentage, the way it was chosen: `2.5 %`."""
    return f"{100 * part:.12g} %"


def moment(time: datetime) -> str:
    """Return a time in UTC to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


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


def text(sheet: Sheet, *, width: int | None = None) -> str:
    """Return a sheet as aligned text; where a width is given, its tables fit it."""
    parts = [printable(sheet.title)] if sheet.title else []
    longest = max((len(name) for name, _ in sheet.facts), default=0)
    parts += [f"  {name:<{longest}}  {printable(value)}" for name, value in sheet.facts]
    parts += [aligned(table, width=width) for table in sheet.tables if table.rows]
    parts += [f"note: {printable(note)}" for note in sheet.notes]
    return "\n".join(parts)


def html(sheet: Sheet) -> str:
    """Return a sheet as HTML; everything that came from a user is escaped."""
    from html import escape

    parts = [f"<p><strong>{escape(sheet.title)}</strong></p>"] if sheet.title else []
    if sheet.facts:
        parts.append(_html_table(Table(headers=(), rows=sheet.facts)))
    parts += [_html_table(table) for table in sheet.tables if table.rows]
    parts += [f"<p>{escape(note)}</p>" for note in sheet.notes]
    return f"<div>{''.join(parts)}</div>"


def sheet(value: object) -> Sheet:
    """Return what is shown of a result, or of a list of results of one type."""
    if isinstance(value, list | tuple):
        table = _LISTED.get(type(value[0])) if value else None
        return Sheet(tables=(table(value),)) if table else Sheet(title="\n".join(map(str, value)))
    made = _SHEETS.get(type(value))
    return made(value) if made else Sheet(title=str(value))


def line(value: object) -> str:
    """Return a result as one line."""
    if isinstance(value, Task):
        return f"{value.ref} error {measured(value.error, bound=value.bound)}, {size(value.bytes_added)} for {size(value.raw_bytes)}"
    if isinstance(value, Export):
        return f"{value.ref} at {value.path}"
    if isinstance(value, Diff):
        return f"{value.a} .. {value.b}: {count(sum(task.status != 'same' for task in value.tasks), 'change')}"
    return sheet(value).title


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


def _report_sheet(value: AdapterReport) -> Sheet:
    return Sheet(
        title=summary(value),
        facts=_rate(value, "rate"),
        tables=(_module_table({"": value}),),
        notes=value.notes,
    )


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


def _commit_sheet(value: Commit) -> Sheet:
    facts = [
        ("commit", f"c{value.number} {value.id}"),
        ("kind", value.kind),
        ("time", f"{moment(value.time)} UTC"),
    ]
    facts += [(name, shown) for name, shown in _optional_facts(value) if shown]
    for task, report in value.reports.items():
        facts += [(task, summary(report)), *_rate(report, "rate")]
    facts += (
        [("basis", f"{value.basis.digest[:8]}, {_basis(value.basis)}")]
        if value.basis is not None
        else []
    )
    tables = (*_basis_tables(value.basis), _module_table(value.reports))
    return Sheet(
        title=", ".join(value.refs.values()) or value.ref,
        facts=tuple(facts),
        tables=tables,
        notes=_notes(value),
    )


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


def _log_sheet(value: Log) -> Sheet:
    return Sheet(tables=(_log_table(value.commits),))


def _lineage_sheet(value: Lineage) -> Sheet:
    rows = tuple(
        (
            f"{'   ' * (node.depth - 1)}{'└─ ' if node.depth else ''}{node.ref}",
            node.via or NOTHING,
            f"c{node.number}",
            node.id[:8],
            moment(node.time),
            measured(node.error, bound=node.bound),
            node.source or NOTHING,
            _line(node.message) or NOTHING,
        )
        for node in value.nodes
    )
    base = f"{value.base_model}{f' ({value.base_revision})' if value.base_revision else ''}"
    headers = ("version", "by", "commit", "id", "time (UTC)", "error>", "source", "message")
    return Sheet(title=f"{value.ref} on {base}", tables=(Table(headers=headers, rows=rows),))


def _resolved_sheet(value: ResolvedReference) -> Sheet:
    return Sheet(title=value.long)


def _diff_sheet(value: Diff) -> Sheet:
    rows = []
    for task in value.tasks:
        change = percent(task.change) if task.change is not None else NOTHING
        rows.append((task.task, task.status, task.a or NOTHING, task.b or NOTHING, change))
    metadata = tuple(
        (task.task, field, was, now)
        for task in value.tasks
        for field, (was, now) in task.metadata.items()
    )
    tables = (
        Table(
            headers=("task", "status", "a", "b", "change of dW (relative to a)>"), rows=tuple(rows)
        ),
        Table(headers=("task", "member", "in a", "in b"), rows=metadata),
    )
    return Sheet(title=f"{value.a} .. {value.b}", tables=tables)


def _one_task_sheet(value: Task) -> Sheet:
    return Sheet(tables=(_task_table([value]),))


def _export_sheet(value: Export) -> Sheet:
    return Sheet(
        title=str(value.path),
        facts=(("ref", value.ref), ("digest", value.digest)),
        notes=value.notes,
    )


def _verify_sheet(value: VerifyReport) -> Sheet:
    counted = f"{count(value.spaces, 'space')}, {count(value.records, 'record')}, {count(value.objects, 'object')} of {size(value.bytes)}"
    looked = f"{value.level}: {counted}, {count(value.versions, 'version')}"
    rows = tuple(
        (
            found.code,
            short_ids(found.what),
            short_ids(found.message).rstrip("."),
            ", ".join(found.refs) or NOTHING,
        )
        for found in value.findings
    )
    state = (
        "nothing is damaged"
        if value.ok
        else f"{len(rows)} {'thing is' if len(rows) == 1 else 'things are'} wrong"
    )
    return Sheet(
        title=f"{looked}; {state}",
        tables=(Table(headers=("clause", "where", "what", "cannot be trusted"), rows=rows),),
    )


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


def _log_table(commits: Sequence[Commit]) -> Table:
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


def _task_table(tasks: Sequence[Task]) -> Table:
    rows = tuple(
        (
            task.ref,
            f"c{task.number}",
            moment(task.time),
            measured(task.error, bound=task.bound),
            size(task.bytes_added),
            size(task.raw_bytes),
            ", ".join(f"{alias}->v{version}" for alias, version in sorted(task.aliases.items()))
            or NOTHING,
            pairs(task.labels) or NOTHING,
            pairs(task.metrics) or NOTHING,
        )
        for task in tasks
    )
    return Table(
        headers=(
            "task",
            "commit",
            "time (UTC)",
            "error>",
            "bytes>",
            "raw>",
            "aliases",
            "labels",
            "metrics",
        ),
        rows=rows,
    )


def _space_table(spaces: Sequence[SpaceSummary]) -> Table:
    rows = tuple(
        (
            space.name,
            f"{space.base_model}{f' ({space.base_revision})' if space.base_revision else ''}",
            str(space.tasks),
            str(space.commits),
            typed_percent(space.budget) if space.k is None else f"none, k {space.k}",
            "yes" if space.keep_original else "no",
            moment(space.time),
        )
        for space in spaces
    )
    return Table(
        headers=(
            "space",
            "base model",
            "tasks>",
            "commits>",
            "budget>",
            "keeps originals",
            "last commit (UTC)",
        ),
        rows=rows,
    )


def _alias_table(aliases: Sequence[Alias]) -> Table:
    rows = tuple(
        (alias.task, alias.name, alias.ref, f"c{alias.number}", moment(alias.time))
        for alias in aliases
    )
    return Table(headers=("task", "alias", "version", "moved in", "time (UTC)"), rows=rows)


def _move_table(moves: Sequence[AliasMove]) -> Table:
    rows = tuple(
        (
            f"c{move.number}",
            move.id[:8],
            moment(move.time),
            move.ref or "removed",
            move.author or NOTHING,
            _line(move.reason) or NOTHING,
        )
        for move in moves
    )
    return Table(headers=("commit", "id", "time (UTC)", "version", "author", "reason"), rows=rows)


def _tag_table(tags: Sequence[Tag]) -> Table:
    rows = tuple(
        (tag.space, tag.name, f"c{tag.number}", tag.id[:8], moment(tag.time)) for tag in tags
    )
    return Table(headers=("space", "tag", "commit", "id", "time (UTC)"), rows=rows)


_SHEETS: Final[Mapping[type, Callable[[Any], Sheet]]] = {
    Commit: _commit_sheet,
    Diff: _diff_sheet,
    Export: _export_sheet,
    Lineage: _lineage_sheet,
    Log: _log_sheet,
    AdapterReport: _report_sheet,
    ResolvedReference: _resolved_sheet,
    Task: _one_task_sheet,
    VerifyReport: _verify_sheet,
}
_LISTED: Final[Mapping[type, Callable[[Any], Table]]] = {
    Commit: _log_table,
    Task: _task_table,
    SpaceSummary: _space_table,
    Alias: _alias_table,
    AliasMove: _move_table,
    Tag: _tag_table,
}


def short_ids(text: str) -> str:
    """Return text with the first digits of each sha256."""
    return _DIGEST.sub(lambda found: found[0][:8], text)


def pairs(values: Mapping[str, object]) -> str:
    """Return labels or metrics as `name=value, ...`."""
    return ", ".join(f"{name}={value}" for name, value in sorted(values.items()))


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
        moment(commit.time),
        commit.kind,
        commit.detail
        or ", ".join(ref.partition("/")[2] for ref in commit.refs.values())
        or NOTHING,
        measured(worst.error, bound=worst.bound) if worst is not None else NOTHING,
        size(sum(report.bytes_added for report in reports) + basis)
        if reports or basis
        else NOTHING,
        commit.author or NOTHING,
        _line(commit.message) or NOTHING,
    )


def count(number: int, what: str) -> str:
    """Return a number of things: `1 task`, `2 tasks`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cut(value: Decimal, exponent: int, *, up: bool) -> Decimal:
    return value.quantize(Decimal((0, (1,), exponent)), rounding=ROUND_UP if up else ROUND_DOWN)


def _line(message: str) -> str:
    return message.strip().partition("\n")[0]


def _html_table(table: Table) -> str:
    from html import escape

    right = [header.endswith(">") for header in table.headers]
    head = "".join(f"<th>{escape(header.removesuffix('>'))}</th>" for header in table.headers)
    body = "".join(
        f"<tr>{''.join(_html_cell(cell, right[column] if right else False) for column, cell in enumerate(row))}</tr>"
        for row in table.rows
    )
    return (
        f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
    )


def _html_cell(cell: str, right: bool) -> str:
    from html import escape

    return (
        f'<td style="text-align: right">{escape(cell)}</td>'
        if right
        else f"<td>{escape(cell)}</td>"
    )
