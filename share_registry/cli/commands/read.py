"""Verbs that read: none of them writes anything into the registry."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from share_registry.cli.output import Printed, emit, say, watching
from share_registry.cli.verb import (
    checkpoint_or_time,
    commit_of,
    free_verb,
    label_option,
    session,
    verb,
)
from share_registry.errors import ShareRegistryError
from share_registry.values.commits import Log, modules_sheet
from share_registry.values.sheet import count, percent, with_note
from share_registry.values.tasks import Task

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry

_Listed = TypeVar("_Listed", Log, list[Task])


@verb("r", doing="reading")
@click.argument("ref")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Directory to write the adapter into.",
)
@click.option(
    "--device", default="cpu", metavar="DEVICE", help="Where it is decoded; the bytes are the same."
)
@click.option(
    "--dtype", metavar="DTYPE", help="float32, float16, bfloat16 or float64. [as committed]"
)
@click.option("--exact", is_flag=True, help="The original bytes, where they were kept.")
@click.option("--overwrite", is_flag=True, help="Replace what stands there.")
def checkout(
    registry: "Registry", /, ref: str, *, output: Path, overwrite: bool, **options: Any
) -> Printed:
    """Save the version REF as a PEFT directory.

    \b
    share-registry checkout cola@v1 -o work/cola
    """
    adapter = registry.checkout(ref, **options)
    adapter.save(output, overwrite=overwrite)
    return Printed(
        title=str(output),
        members={
            "ref": adapter.ref or ref,
            "path": output,
            "error": adapter.error,
            "tensors": len(adapter.tensors),
        },
        refs=(adapter.ref or ref,),
        detailed=True,
        shown={} if adapter.error is None else {"error": percent(adapter.error)},
    )


@verb("r", doing="exporting")
@click.argument("ref")
@click.argument("root", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--name",
    metavar="NAME",
    help="Directory below ROOT; '' writes into ROOT itself. "
    "[<task>-v<N>-<digest>, or <task>-v<N>-portable-<digest>]",
)
@click.option(
    "--profile",
    type=click.Choice(["native", "portable"]),
    default="native",
    help="Same keys and ranks, or the form that every server reads alike.",
)
@click.option("--overwrite", is_flag=True, help="Replace what stands there.")
def export(registry: "Registry", /, ref: str, root: Path, **options: Any) -> object:
    """Place the version REF below ROOT.

    It becomes a PEFT directory with an immutable name; the same digest already there is success.

    \b
    share-registry export cola@prod serve/
    share-registry export cola@v3 serve/ --profile portable
    """
    return registry.export(ref, root, **options)


@verb("r")
@click.option("--task", metavar="[SPACE/]TASK", help="Only commits of this task.")
@click.option(
    "--kind",
    metavar="KIND",
    help="Only commits of this kind: absorb (an adapter was committed), refit, merge, alias, tag, "
    "annotate, drop, restore, rename, policy, create.",
)
@click.option("--author", metavar="NAME", help="Only commits of this author.")
@label_option
@click.option(
    "--metric",
    metavar="CONDITION",
    help="Only commits that recorded such a metric, like acc or 'acc>0.8'.",
)
@click.option(
    "--since", metavar="TIME", help="Only commits at or after this date or time (its beginning)."
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
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
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
def checkpoint(registry: "Registry", /) -> object:
    """Print the last commit of every space, as lines to be kept elsewhere.

    \b
    share-registry checkpoint > checkpoint.txt
    share-registry audit --since checkpoint.txt
    """
    return registry.checkpoint()


@verb("r", doing="reading the records")
@click.option(
    "--since",
    type=checkpoint_or_time,
    metavar="FILE|TIME",
    help="Only what came behind this checkpoint, which must be on the way, or from this time on.",
)
@click.option(
    "--until", metavar="TIME", help="Only commits at or before this date or time (its end)."
)
@click.option("--actor", metavar="NAME", help="Only commits of this author.")
@click.option("--action", metavar="KIND", help="Only commits of this kind, as `log --kind`.")
def audit(registry: "Registry", /, **options: Any) -> object:
    """List what was done, oldest first, as the records say; the catalog is not believed.

    Exits with code 5 where a record is damaged or missing, or the checkpoint is not on the way:
    history was rewritten.
    """
    return registry.audit(**options)


@verb("r")
@click.argument("ref")
@click.option("--modules", is_flag=True, help="Also list its modules.")
def show(registry: "Registry", /, ref: str, *, modules: bool) -> None:
    """Show the version REF with its report, or a whole commit.

    Of a version, its aliases, labels and metrics of now.

    \b
    share-registry show cola@prod --modules
    share-registry show @c12
    """
    commit = registry.show(ref)
    emit(commit, session(), sheet=modules_sheet(commit) if modules else None)


@verb("r")
@click.argument("ref")
def resolve(registry: "Registry", /, ref: str) -> object:
    """Say which version and commit REF means now."""
    return registry.resolve(ref)


@verb("r", doing="reading")
@click.argument("adapter", metavar="ADAPTER")
def identify(registry: "Registry", /, adapter: str) -> object:
    """Say which versions ADAPTER is, as committed or as exported in the native profile.

    \b
    share-registry identify serve/cola
    """
    return registry.identify(adapter)


@verb("r")
@label_option
@click.option("--alias", metavar="NAME", help="Only tasks that have this alias.")
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
        from share_registry.catalog.queries.task_pages import TaskQuery, unknown_names

        query = TaskQuery(
            space=registry.scope, labels=labels, alias=options["alias"], where=options["where"]
        )
        with registry.context.reading() as catalog:
            for text in unknown_names(catalog, query):
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
@click.argument("ref")
def lineage(registry: "Registry", /, ref: str) -> object:
    """Show where the version REF came from."""
    return registry.lineage(ref)


@verb("r", doing="comparing")
@click.argument("a")
@click.argument("b")
def diff(registry: "Registry", /, a: str, b: str) -> object:
    """Compare two versions, or two states of a space.

    \b
    share-registry diff cola@v1 cola@v2
    share-registry diff @c10 @c20
    """
    return registry.diff(a, b)


@verb("r", lists="aliases")
@click.option("--task", metavar="[SPACE/]TASK", help="Only those of this task.")
def aliases(registry: "Registry", /, *, task: str | None) -> object:
    """List the aliases of the space."""
    return registry.aliases(task=task)


@verb("r", lists="moves")
@click.argument("task")
@click.argument("alias")
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


@free_verb
@click.option(
    "--level",
    default="data",
    show_default=True,
    help="quick: the chains; data: every byte; deep: every version rebuilt.",
)
@click.option(
    "--shard", metavar="K/N", help="Only the K-th of N shares, for N workers: 3/8. [the whole]"
)
@click.option(
    "--raise-on-damage/--no-raise-on-damage",
    default=True,
    help="Exit with code 5, 6 or 7 where something is wrong. [default: yes]",
)
def verify(*, level: str, shard: str | None, raise_on_damage: bool) -> None:
    """Check that the registry is what its records say.

    Names every version that cannot be trusted, and exits with code 5 where something is damaged,
    else 6 where a record is of a later release, else 7 where a version is too large to be decoded.
    Notes that are not there are listed as removed.
    """
    asked = session()
    with watching("verifying", asked) as progress, asked.open("r") as registry:
        report = registry.verify(level, shard=shard, raise_on_damage=False, progress=progress)
    emit(report, asked)
    if raise_on_damage:
        from share_registry.registry.audit.verify import require_sound

        try:
            require_sound(report)
        except ShareRegistryError as error:
            wrong = count(len(report.wrong), "thing that is", "things that are")
            message = f"verify ({report.extent}) found {wrong} wrong."
            raise type(error)(message, hint=error.hint) from error
