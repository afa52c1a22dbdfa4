"""Verbs that read: lists, single versions and commits, and where they came from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from share_registry.cli.completion import ALIAS, FILES, REF, TASK
from share_registry.cli.output import emit, say
from share_registry.cli.session import session
from share_registry.cli.typed_path import TypedPath
from share_registry.cli.verb import (
    commit_of,
    format_option,
    label_option,
    verb,
)
from share_registry.errors import (
    NotFoundError,
)
from share_registry.values.commits import KINDS, Log, modules_sheet
from share_registry.values.sheet import with_note
from share_registry.values.tasks import Task

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry

_Listed = TypeVar("_Listed", Log, list[Task])


@verb("r")
@click.option("--task", type=TASK, metavar="[SPACE/]TASK", help="Only commits of this task.")
@click.option(
    "--kind",
    metavar="KIND",
    help=f"Only commits of this kind: {', '.join(KINDS)}. Adapters are committed by absorb.",
)
@click.option("--author", metavar="NAME", help="Only commits of this author.")
@label_option
@click.option(
    "--metric",
    metavar="CONDITION",
    help="Only commits that recorded such a metric, like acc or 'acc>0.8'.",
)
@click.option(
    "--since",
    metavar="TIME",
    help="Only commits at or after this date or time (its beginning), or since 7d ago.",
)
@click.option(
    "--until", metavar="TIME", help="Only commits at or before this date or time (its end)."
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="At most so many, the newest; 0: all.",
)
@click.option(
    "--before",
    type=commit_of,
    metavar="COMMIT",
    help="Only commits before this one (12, c12 or a reference): the next page.",
)
@click.option(
    "--graph", is_flag=True, help="Also draw lines to the listed commits that each builds on."
)
@click.option(
    "--plot",
    type=TypedPath(is_output=True),
    metavar="FILE",
    help="Also draw versions and aliases over these commits, as PNG, SVG or PDF.",
)
def log(
    registry: "Registry",
    /,
    *,
    plot: Path | None,
    labels: dict[str, str],
    limit: int,
    **options: Any,
) -> None:
    """List the commits of the space, newest first.

    \b
    share-registry log --task cola --kind absorb
    share-registry log --task cola --limit 0 --plot cola.png
    """
    commits, more = _page(registry.log(labels=labels or None, limit=_ask(limit), **options), limit)
    if plot is not None:
        commits.plot(plot)
    note = f"more follow: --before {commits[-1].space}/@c{commits[-1].number}" if more else ""
    emit(commits, session(), lists="commits", sheet=with_note(commits.sheet(), note))


@verb("r")
@click.argument("ref", type=REF)
@click.option("--modules", is_flag=True, help="Also list its modules.")
@click.option(
    "--plot",
    type=TypedPath(is_output=True),
    metavar="FILE",
    help="Also draw bits and errors of its modules, as PNG, SVG or PDF.",
)
def show(registry: "Registry", /, ref: str, *, modules: bool, plot: Path | None) -> None:
    """Show the version REF with its report, or a whole commit.

    Of a version, its aliases, labels and metrics of now.

    \b
    share-registry show cola@prod --modules
    share-registry show @c12
    """
    commit = registry.show(ref)
    if plot is not None:
        if commit.report is None:
            raise NotFoundError(
                f"{commit.ref} has no report of one adapter to draw.",
                hint="Name a version that a commit made, such as cola@v3.",
            )
        commit.report.plot(plot)
    emit(commit, session(), sheet=modules_sheet(commit) if modules else None)


@verb("r")
@click.argument("ref", type=REF)
def resolve(registry: "Registry", /, ref: str) -> object:
    """Say which version and commit REF means now."""
    return registry.resolve(ref)


@verb("r", doing="reading")
@click.argument("adapter", type=FILES, metavar="ADAPTER")
@format_option
def identify(registry: "Registry", /, adapter: str, **options: Any) -> object:
    """Say which versions ADAPTER is, as committed or as exported in the native profile.

    \b
    share-registry identify serve/cola
    """
    return registry.identify(adapter, **options)


@verb("r")
@label_option
@click.option("--alias", type=ALIAS, metavar="NAME", help="Only tasks that have this alias.")
@click.option("--name", metavar="PATTERN", help="Only tasks whose name matches, like 'wn-*'.")
@click.option("--at", metavar="WHEN", help="As of a commit (c412), tag, date or time.")
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Only those of which it holds, like 'acc>0.8', of a metric or of error, bytes, raw, "
    "version, commit, time where no metric is called so; may be repeated.",
)
@click.option(
    "--sort", metavar="METRIC", help="By such a number; -METRIC has the largest first. [by name]"
)
@click.option("--all-versions", is_flag=True, help="Every version of each task, the newest first.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=0,
    show_default="all",
    help="At most so many, by name; 0: all.",
)
@click.option("--after", metavar="TASK", help="Only tasks after this one: the next page.")
def tasks(registry: "Registry", /, *, labels: dict[str, str], limit: int, **options: Any) -> None:
    """List the tasks of the space.

    Labels that commits get from their environment, like git.sha, are shown where --label names
    them.

    \b
    share-registry ls --label team=search --at 2026-11-16
    share-registry ls --limit 50 --after cola
    share-registry ls --where 'acc>0.8,loss<1' --sort -acc --all-versions
    """
    listed, more = _page(registry.tasks(labels=labels or None, limit=_ask(limit), **options), limit)
    if not listed:
        from share_registry.registry.browsing import why_no_task

        asked = {name: options[name] for name in ("alias", "where")}
        for text in why_no_task(registry.context, registry.scope, labels=labels, **asked):
            say(text, session())
    note = f"more follow: --after {listed[-1].ref}" if more else ""
    sheet = Task.listing(listed, labels=labels)
    emit(listed, session(), lists="tasks", sheet=with_note(sheet, note))


ls = tasks


def _ask(limit: int) -> int | None:
    """Return how many to ask for: one more than are shown tells whether more follow."""
    return limit + 1 if limit else None


def _page(listed: _Listed, limit: int) -> tuple[_Listed, bool]:
    """Return what is shown of a list, and whether more follows."""
    if not limit or len(listed) <= limit:
        return listed, False
    return listed[:limit], True


@verb("r")
@click.argument("ref", type=REF)
def lineage(registry: "Registry", /, ref: str) -> object:
    """Show where the version REF came from."""
    return registry.lineage(ref)


@verb("r", lists="aliases")
@click.option("--task", type=TASK, metavar="[SPACE/]TASK", help="Only those of this task.")
def aliases(registry: "Registry", /, *, task: str | None) -> object:
    """List the aliases of the space."""
    return registry.aliases(task=task)


@verb("r", lists="moves")
@click.argument("task", type=TASK)
@click.argument("alias", type=ALIAS)
@click.option("--at", metavar="WHEN", help="As of a commit, tag, date or time.")
def alias_history(registry: "Registry", /, task: str, alias: str, *, at: str | None) -> object:
    """List every move of ALIAS of TASK, newest first."""
    return registry.alias_history(task, alias, at=at)


@verb("r", lists="tags")
def tags(registry: "Registry", /) -> object:
    """List the tags of the space."""
    return registry.tags()


@verb("r", lists="spaces")
def spaces(registry: "Registry", /) -> object:
    """List the spaces, one per base model."""
    return registry.spaces()
