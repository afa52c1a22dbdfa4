"""What a report says, as one page: of a version, or of a space.

Everything is escaped where it is written (`html`), and no text of anybody's becomes an attribute
other than a title.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from share_registry.escapes import html
from share_registry.look.lineage_graph import lineage_graph
from share_registry.look.module_map import bits_map, directions_map, error_map
from share_registry.look.retention_map import retention_map
from share_registry.look.sparkline import sparkline
from share_registry.look.spectrum_map import spectrum_map
from share_registry.look.stylesheet import page_style
from share_registry.look.timeline import timeline
from share_registry.look.units import count, measured, percent, size, time_text, typed_percent
from share_registry.values.analyses import Retention, Spectrum
from share_registry.values.checks import VerifyReport
from share_registry.values.commits import Commit, Log, modules_sheet
from share_registry.values.cost_reports import AdapterReport
from share_registry.values.loading import Snippet, snippets
from share_registry.values.references import Alias, Tag
from share_registry.values.report_page import BEGINNING, ReportPage
from share_registry.values.sheet import as_html, metric_pairs, pairs, sheet_of
from share_registry.values.tasks import AUTOMATIC_LABELS, Lineage, SpaceSummary, Task
from share_registry.values.text_table import NOTHING

# Modules whose spectra are open at once
_MOST_CURVES: Final = 24
_NUMBER: Final = ' class="number"'


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOrigin:
    """Where a report comes from: the release that made it, the store, the space's last commit."""

    release: str
    store: str
    head: Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionMaterial:
    """What a report on a version is made of.

    Attributes:
        commit: The version, with its modules.
        space: Its space.
        kept: The version, with what it takes.
        versions: The newest versions of its task, live or dropped, the newest first.
        total: How many versions the task has.
        log: The newest commits about the task.
        history: More of them, for the time line.
        lineage: Where it came from.
        spectra: Of the version alone.
    """

    commit: Commit
    space: SpaceSummary
    kept: Task
    versions: Sequence[Task]
    total: int
    log: Log
    history: Log
    lineage: Lineage
    spectra: Sequence[Spectrum]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceMaterial:
    """What a report on a space is made of.

    Attributes:
        space: The space.
        tasks: Its live tasks, or those that changed last.
        versions: The last versions of each of these.
        aliases, tags: Of the whole space.
        log: The newest commits.
        retention: Of the whole space.
        verified: What `verify` says of the whole registry.
    """

    space: SpaceSummary
    tasks: Sequence[Task]
    versions: Mapping[str, Sequence[Task]]
    aliases: Sequence[Alias]
    tags: Sequence[Tag]
    log: Log
    retention: Retention
    verified: VerifyReport


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A part of a page, which the contents name."""

    anchor: str
    title: str
    body: str


def version_page(material: VersionMaterial, origin: ReportOrigin) -> ReportPage:
    """Return the report on a version."""
    commit = material.commit
    name, _, version = commit.ref.partition("/")[2].rpartition("@")
    sections = [
        _Section(anchor="version", title="Version", body=_commit_facts(commit)),
        _versions_section(material),
        _lineage_section(material.lineage),
    ]
    if commit.report is not None and commit.report.modules:
        sections.append(_modules_section(commit, commit.report))
    if material.spectra:
        sections.append(_spectra_section(material.spectra))
    sections.append(_loading_section(commit, material.space))
    return _page(
        commit.ref,
        origin,
        heading=f'{html(name)} <span class="muted">{html(version)}</span>',
        lead=f"A version in space {material.space.name}, of {_base_model(material.space)}.",
        figures=_version_figures(material),
        sections=[*sections, _log_section(material.log, "This task alone, the newest first.")],
    )


def space_page(material: SpaceMaterial, origin: ReportOrigin) -> ReportPage:
    """Return the report on a space."""
    space = material.space
    sections = [_tasks_section(material), _aliases_section(material)]
    if material.retention.rows:
        sections.append(_retention_section(material.retention))
    verified = _Section(
        anchor="verification", title="Verification", body=as_html(material.verified.sheet())
    )
    return _page(
        space.name,
        origin,
        heading=html(space.name),
        lead=f"A space of adapters of {_base_model(space)}.",
        figures=_space_figures(material),
        sections=[
            *sections,
            _Section(anchor="policy", title="Policy", body=as_html(space.policy.sheet())),
            _log_section(material.log, "The newest first."),
            verified,
        ],
    )


def _page(
    subject: str,
    origin: ReportOrigin,
    *,
    heading: str,
    lead: str,
    figures: Mapping[str, tuple[str, str]],
    sections: Sequence[_Section],
) -> ReportPage:
    """Return a page; the heading is HTML, the lead and the figures (number, what it is of) text."""
    style = page_style()
    digest = b64encode(sha256(style.encode()).digest()).decode()
    rules = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    links = "".join(
        f'<li><a href="#{section.anchor}">{html(section.title)}</a></li>' for section in sections
    )
    parts = "".join(
        f'<section aria-labelledby="{section.anchor}"><h2 id="{section.anchor}">'
        f"{html(section.title)}</h2>{section.body}</section>\n"
        for section in sections
    )
    head, state = origin.head, f"{origin.head.space}/@c{origin.head.number}"
    about = (
        f"State {state} {head.id} of {time_text(head.time)} UTC, store {origin.store}. "
        f"Made by share-registry {origin.release}."
    )
    content = (
        f'{BEGINNING}<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html(rules)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{html(subject)} - share-registry report</title>\n"
        f"<style>{style}</style>\n</head>\n<body>\n"
        f'<header class="frame"><h1>{heading}</h1><p class="muted">{html(lead)}</p>'
        f"{_figures(figures)}"
        f'<nav aria-label="Contents"><ul class="contents">{links}</ul></nav></header>\n'
        f"<main>\n{parts}</main>\n"
        f'<footer class="frame"><p class="muted">{html(about)}</p></footer>\n</body>\n</html>\n'
    )
    return ReportPage(subject=subject, state=state, content=content)


def _figures(figures: Mapping[str, tuple[str, str]]) -> str:
    cells = "".join(
        f"<div><dt>{html(name)}</dt><dd>{html(value)} <small>{html(of)}</small></dd></div>"
        for name, (value, of) in figures.items()
    )
    return f'<dl class="figures">{cells}</dl>'


def _figure(drawn: str, caption: str) -> str:
    """Return a drawing that scrolls in a box of its own, with what it shows."""
    return (
        f"<figure>{_scrolling('picture', drawn)}<figcaption>{html(caption)}</figcaption></figure>"
    )


def _scrolling(name: str, body: str) -> str:
    """Return what may be wider than the window in a box, which the keyboard reaches."""
    return f'<div class="scroll" role="group" aria-label="{name}" tabindex="0">{body}</div>'


def _version_figures(material: VersionMaterial) -> dict[str, tuple[str, str]]:
    kept = material.kept
    limit = "without a limit" if kept.budget is None else f"of {typed_percent(kept.budget)}"
    share = f" ({percent(kept.bytes_added / kept.raw_bytes)})" if kept.raw_bytes else ""
    figures = {
        "error of dW": (measured(kept.error, bound=kept.bound), limit),
        "stored": (size(kept.bytes_added), f"of {size(kept.raw_bytes)}{share}"),
    }
    report = material.commit.report
    if report is not None and report.bits_per_parameter is not None:
        bound = "" if report.bits_bound is None else f"{report.bits_bound:.2f} for Gaussian rows"
        figures["bits per parameter"] = (f"{report.bits_per_parameter:.2f}", bound)
    listed = len(material.versions)
    of = "of the task" if listed == material.total else f"of the task, {listed} listed"
    figures["versions"] = (str(material.total), of)
    return figures


def _space_figures(material: SpaceMaterial) -> dict[str, tuple[str, str]]:
    space = material.space
    share = f" ({percent(space.bytes_added / space.raw_bytes)})" if space.raw_bytes else ""
    figures = {
        "tasks": (str(space.tasks), ""),
        "commits": (str(space.commits), ""),
        "stored": (size(space.bytes_added), f"of {size(space.raw_bytes)}{share}"),
    }
    if material.retention.rows:
        figures["largest error"] = (percent(material.retention.worst), "of any task at any commit")
    return figures


def _commit_facts(commit: Commit) -> str:
    return as_html(replace(commit.sheet(), title=""))


def _versions_section(material: VersionMaterial) -> _Section:
    drawn = _figure(
        timeline(material.history),
        "A point is a version, a ring one that a refit made, a cross where the task was dropped. "
        "A bar is the version that an alias stood for, from commit to commit.",
    )
    table = as_html(sheet_of(list(material.versions)))
    return _Section(anchor="versions", title="Versions", body=f"{drawn}{table}")


def _lineage_section(lineage: Lineage) -> _Section:
    drawn = _figure(
        lineage_graph(lineage), "Each version stands above what it came from; a ring was removed."
    )
    table = _folded(
        f"As a table of {count(len(lineage.nodes), 'row')}",
        as_html(replace(lineage.sheet(), title="")),
    )
    return _Section(anchor="lineage", title="Lineage", body=drawn + table)


def _modules_section(commit: Commit, report: AdapterReport) -> _Section:
    worst = report.worst_module
    said = f"The largest error is that of {worst.module}." if worst else ""
    maps = _figure(bits_map(report), "What each module takes, estimated.") + _figure(
        error_map(report), said
    )
    sheet = modules_sheet(commit)
    table = as_html(replace(sheet, title="", facts=(), total="", notes=()))
    rows = f"As a table of {count(len(report.modules), 'factor')}"
    return _Section(
        anchor="modules",
        title="Modules",
        body=f'<div class="beside">{maps}</div>{_folded(rows, table)}',
    )


def _spectra_section(spectra: Sequence[Spectrum]) -> _Section:
    # of one adapter, both sides have the singular values of dW
    side = [spectrum for spectrum in spectra if spectrum.side == "a"]
    drawn = _figure(directions_map(side), "Of dW as stored, of this version alone.")
    curves = _figure(
        spectrum_map(side, "a", of="dW"), "How the energy of dW spreads over directions."
    )
    body = f'<div class="beside">{drawn}{curves}</div>'
    if len(side) > _MOST_CURVES:
        body = drawn + _folded("By number of directions", curves)
    return _Section(anchor="spectra", title="Spectra", body=body)


def _loading_section(commit: Commit, space: SpaceSummary) -> _Section:
    first, *others = (
        (snippet.program, _code(snippet))
        for snippet in snippets(commit, base_model=space.base_model)
    )
    folded = "".join(_folded(program, text) for program, text in others)
    body = f"<p>{html(first[0])}</p>{first[1]}{folded}"
    return _Section(anchor="loading", title="Load it", body=body)


def _code(snippet: Snippet) -> str:
    box = f'<pre tabindex="0" role="group" aria-label="{html(snippet.program)}">'
    return f"{box}<code>{html(snippet.text)}</code></pre>"


def _tasks_section(material: SpaceMaterial) -> _Section:
    tasks = material.tasks
    if not tasks:
        return _Section(anchor="tasks", title="Tasks", body="<p>There is no live task.</p>")
    rows = "".join(_task_row(task, material.versions[task.name]) for task in tasks)
    heads = "".join(
        f'<th scope="col"{look}>{name}</th>'
        for name, look in (
            ("task", ""),
            ("error over versions", ""),
            ("error", _NUMBER),
            ("budget", _NUMBER),
            ("bytes over versions", ""),
            ("bytes", _NUMBER),
            ("raw", _NUMBER),
            ("aliases", ""),
            ("labels", ""),
            ("metrics", ""),
            ("commit", ""),
            ("time (UTC)", ""),
        )
    )
    left_out = material.space.tasks - len(tasks)
    note = (
        f"<p>{count(left_out, 'task')} that changed before are not listed.</p>" if left_out else ""
    )
    table = f'<table class="drawn"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    box = _scrolling("table", table)
    return _Section(
        anchor="tasks",
        title="Tasks",
        body=f'<div class="share-registry">{box}</div>{note}',
    )


def _task_row(task: Task, versions: Sequence[Task]) -> str:
    labels = {name: value for name, value in task.labels.items() if name not in AUTOMATIC_LABELS}
    aliases = (f"{alias} v{version}" for alias, version in sorted(task.aliases.items()))
    budget = NOTHING if task.budget is None else typed_percent(task.budget)
    cells = (
        ("", html(task.ref.partition("/")[2])),
        ("", sparkline(versions)),
        (_NUMBER, html(measured(task.error, bound=task.bound))),
        (_NUMBER, html(budget)),
        ("", sparkline(versions, measure="bytes")),
        (_NUMBER, html(size(task.bytes_added))),
        (_NUMBER, html(size(task.raw_bytes))),
        ("", html(", ".join(aliases) or NOTHING)),
        ("", html(pairs(labels) or NOTHING)),
        ("", html(metric_pairs(task.metrics) or NOTHING)),
        ("", f"c{task.number}"),
        ("", time_text(task.time)),
    )
    return f"<tr>{''.join(f'<td{look}>{cell}</td>' for look, cell in cells)}</tr>"


def _aliases_section(material: SpaceMaterial) -> _Section:
    lists = (material.aliases, material.tags)
    tables = "".join(as_html(sheet_of(listed)) for listed in lists if listed)
    return _Section(
        anchor="aliases",
        title="Aliases and tags",
        body=tables or "<p>No alias stands for a version, and no tag names a commit.</p>",
    )


def _retention_section(retention: Retention) -> _Section:
    return _Section(
        anchor="retention",
        title="Retention",
        body=_figure(
            retention_map(retention),
            "The error of every task after every commit that changed one. By default a row changes "
            "only where its own task is committed again.",
        )
        + as_html(replace(retention.sheet(), tables=())),
    )


def _log_section(log: Log, said: str) -> _Section:
    return _Section(anchor="log", title="Log", body=f"<p>{html(said)}</p>{as_html(log.sheet())}")


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{html(summary)}</summary>{body}</details>"


def _base_model(space: SpaceSummary) -> str:
    return (
        f"{space.base_model} ({space.base_revision})" if space.base_revision else space.base_model
    )
