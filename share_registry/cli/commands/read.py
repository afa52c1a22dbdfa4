"""Verbs that read: none writes anything into the registry, unless `export` is to record it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from share_registry.cli.completion import ALIAS, FILES, REF, TASK
from share_registry.cli.output import Printed, emit, say, watching
from share_registry.cli.session import session
from share_registry.cli.verb import (
    DIFFERENT,
    author_option,
    base_config_option,
    checkpoint_or_time,
    commit_of,
    format_option,
    free_verb,
    label_option,
    reason_option,
    record_option,
    sign_option,
    signatory_options,
    target_options,
    verb,
)
from share_registry.errors import (
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    ensure,
)
from share_registry.look.units import count, percent, size
from share_registry.values.commits import Log, modules_sheet
from share_registry.values.sheet import with_note
from share_registry.values.tasks import Task

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry

_Listed = TypeVar("_Listed", Log, list[Task])


@verb("r", doing="reading")
@click.argument("ref", type=REF)
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
    registry.context.require_apart(output)
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


@verb("r", doing="exporting", writing="record")
@click.argument("ref", type=REF)
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--name",
    metavar="NAME",
    help="Directory below ROOT; '' writes into ROOT itself. "
    "[<task>-v<N>-<digest>, or <task>-v<N>-portable-<digest>]",
)
@target_options
@base_config_option
@click.option("--dtype", metavar="DTYPE", help="For llama.cpp: float32 or float16. [float32]")
@click.option("--overwrite", is_flag=True, help="Replace what stands there.")
@sign_option
@record_option
@reason_option
@author_option
def export(registry: "Registry", /, ref: str, root: Path, **options: Any) -> object:
    """Place the version REF below ROOT.

    It becomes a PEFT directory with an immutable name; the same digest already there is success.
    What a --target refuses or misreads is refused before anything is written. For llama.cpp it
    becomes one GGUF file, which ROOT names where it ends in .gguf; for diffusers, the directory
    has a file for pipelines.

    \b
    share-registry export cola@prod serve/
    share-registry export cola@v3 serve/ --profile portable
    share-registry export cola@v3 serve/ --target vllm
    share-registry export cola@v3 cola.gguf --target llama.cpp --base-config models/llama/
    share-registry export cola@v3 serve/ --sign key.pem --record
    """
    return registry.export(ref, root, **options)


@free_verb
@click.argument("root", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--alias", type=ALIAS, default="prod", show_default=True, metavar="NAME", help="Of what."
)
@target_options
@click.option(
    "--base-model",
    metavar="NAME",
    help="What the configs name as base model: what the server calls it. [what they named]",
)
@base_config_option
@click.option("--prune", is_flag=True, help="Remove what has not been served for --grace-days.")
@click.option(
    "--grace-days",
    type=float,
    default=1.0,
    show_default=True,
    metavar="DAYS",
    help="How long what is served no longer stays, for requests in flight; 0.04 is an hour.",
)
def sync(root: Path, **options: Any) -> None:
    """Keep everything that is behind an alias below ROOT, for servers to load from.

    Each version becomes a directory under a name of its own, and index.json lists those that are
    served. Safe to run again and again, and on several hosts at once. Exits with code 7 where a
    version could not be exported, or is refused by the --target: the one before it is served on.

    \b
    share-registry sync serve/
    share-registry sync serve/ --target vllm --base-model meta-llama/Llama-3.1-8B
    share-registry sync serve/ --alias canary --profile portable --prune --grace-days 0.04
    """
    asked = session()
    with watching("syncing", asked) as progress, asked.open("r") as registry:
        report = registry.sync(root, progress=progress, **options)
    emit(report, asked)
    ensure(
        not report.failed,
        RefusedError(
            f"{count(report.failed, 'version')} of {len(report.tasks)} could not be exported.",
            hint="What was served before is served on. The reasons say what to do.",
        ),
    )


@free_verb
@click.argument("directory", type=click.Path(path_type=Path))
@signatory_options
@click.option("--signature", metavar="FILE", help="File of the signature. [DIRECTORY.sig]")
def verify_export(directory: Path, **options: Any) -> object:
    """Check that DIRECTORY is what somebody signed, every byte of it; needs no registry.

    Exits with code 5 where a file was changed, added or removed, or somebody else signed it.

    \b
    share-registry verify-export serve/cola-v3-1a2b3c4d --key key.pub
    """
    from share_registry import verify_export

    return verify_export(directory, **options)


@verb("r")
@click.option("--task", type=TASK, metavar="[SPACE/]TASK", help="Only commits of this task.")
@click.option(
    "--kind",
    metavar="KIND",
    help="Only commits of this kind: absorb (an adapter was committed), refit, merge, alias, tag, "
    "annotate, drop, restore, rename, policy, create, export.",
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
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write it into this file, and the signature into FILE.sig.",
)
@sign_option
@click.option(
    "--expires", metavar="LENGTH", help="Refuse it after 30d, 12h, ...: there must be a later one."
)
def checkpoint(
    registry: "Registry", /, *, output: Path | None, sign: str | None, expires: str | None
) -> object:
    """Print the last commit of every space, as lines to be kept elsewhere.

    \b
    share-registry checkpoint -o checkpoint.txt
    share-registry audit --since checkpoint.txt
    share-registry checkpoint -o head.txt --sign key.pem --expires 30d
    share-registry audit --since head.txt --key key.pub
    """
    ensure(
        sign is None or output is not None or session().json,
        InvalidInputError(
            "a signature is a file of its own, and no file is named.", hint="Add -o FILE."
        ),
    )
    result = registry.checkpoint(sign=sign, expires=expires)
    if output is not None:
        result.save(output)
    return result


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
@signatory_options
def audit(registry: "Registry", /, **options: Any) -> object:
    """List what was done, oldest first, as the records say; the catalog is not believed.

    Exits with code 5 where a record is damaged or missing, the checkpoint is not on the way
    (history was rewritten) or not by whom it must be; with 7 where it has expired.
    """
    return registry.audit(**options)


@verb("r")
@click.argument("ref", type=REF)
@click.option("--modules", is_flag=True, help="Also list its modules.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
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


@verb("r", doing="reading")
@click.argument("ref", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="HTML file to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace another report that stands there.")
def report(registry: "Registry", /, ref: str | None, *, output: Path, overwrite: bool) -> Printed:
    """Write a report of the version REF, or of the space, as one HTML file to hand on.

    Of a version it has modules, spectra, lineage and history; of a space its tasks, aliases,
    retention and log, and whether the registry is sound. The file needs no script and no network.

    \b
    share-registry report cola@prod -o cola.html
    share-registry -s minilm report -o minilm.html
    """
    registry.context.require_apart(output)
    page = registry.report(ref)
    path = page.save(output, overwrite=overwrite)
    size_bytes = len(page.content.encode())
    return Printed(
        title=f"{path}: {page.subject} at {page.state}, {size(size_bytes)}",
        members={
            "subject": page.subject,
            "state": page.state,
            "path": path,
            "size_bytes": size_bytes,
        },
        refs=(str(path),),
    )


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
@click.argument("ref", type=REF)
def lineage(registry: "Registry", /, ref: str) -> object:
    """Show where the version REF came from."""
    return registry.lineage(ref)


@verb("r", doing="reading")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("refs", metavar="[REF]...", nargs=-1, type=REF)
@click.option(
    "--alias",
    type=ALIAS,
    metavar="NAME",
    help="The version behind this alias of every task that has it.",
)
@click.option(
    "--modules",
    metavar="EXPRESSION",
    help="Only modules whose whole path this regular expression matches, like '.*query'.",
)
@click.option(
    "--max-rank",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most so many rows of a task and module, the strongest. [all]",
)
def routing_index(
    registry: "Registry", /, file: Path, refs: tuple[str, ...], **options: Any
) -> Printed:
    """Write an index of versions into FILE, that says which of them answers an input best.

    Of the versions REF, or of the newest version of every task. An earlier FILE is replaced.

    \b
    share-registry routing-index routes.safetensors --alias prod
    share-registry routing-index routes.safetensors cola@v2 sst2 --modules '.*query' --max-rank 4
    """
    ensure(
        file.suffix == ".safetensors",
        InvalidInputError(
            f"{str(file)!r} is no name of a safetensors file.",
            hint="Name the file first, then versions: routes.safetensors cola@prod.",
        ),
    )
    registry.context.require_apart(file)
    index = registry.routing_index(refs or None, **options)
    place = index.save(file)
    size_bytes = registry.context.outside.size(place) or 0
    return Printed(
        title=str(place),
        members={
            "path": place,
            "tasks": [task.ref for task in index.tasks],
            "modules": list(index.modules),
            "size_bytes": size_bytes,
        },
        refs=tuple(task.ref for task in index.tasks),
        detailed=True,
        shown={
            "tasks": str(len(index.tasks)),
            "modules": str(len(index.modules)),
            "size_bytes": size(size_bytes),
        },
    )


@free_verb
@click.argument("ref", type=REF)
@click.option(
    "--target",
    metavar="SERVER",
    help="peft, vllm, sglang, lorax, llama.cpp, openvino, onnxruntime or diffusers.  [default: all"
    " that serve models of its kind]",
)
@click.option(
    "--profile",
    type=click.Choice(["native", "portable"]),
    default="native",
    help="Same keys and ranks, or the form that every server reads alike.",
)
def lint(*, ref: str, target: str | None, profile: str) -> None:
    """Show what servers refuse, misread or need of an export of the version REF.

    Of one server, exit code 7 where it refuses or misreads it.

    \b
    share-registry lint cola@prod
    share-registry lint cola@prod --target vllm --profile portable
    """
    asked = session()
    with watching("checking", asked), asked.open("r") as registry:
        report = registry.lint(ref, target=target, profile=profile)
    emit(report, asked)
    if target is not None and not report.ok:
        hints = dict.fromkeys(verdict.hint for verdict in report.verdicts if verdict.hint)
        raise RefusedError(
            f"{target} does not serve {report.ref} as it is.",
            hint=" ".join(hints) or f"`share-registry lint {report.ref}` shows who does.",
        )


@free_verb
@click.argument("a", type=REF)
@click.argument("b", type=REF)
@click.option("--exit-code", is_flag=True, help="Exit with code 9 where they differ.")
def diff(*, a: str, b: str, exit_code: bool) -> None:
    """Compare two versions, or two states of a space.

    With --exit-code the exit code is 0 where they are the same, 9 where they differ; others are
    errors.

    \b
    share-registry diff cola@v1 cola@v2
    share-registry diff @c10 @c20
    share-registry diff cola@prod cola@latest --exit-code -q
    """
    asked = session()
    with watching("comparing", asked), asked.open("r") as registry:
        difference = registry.diff(a, b)
    emit(difference, asked)
    if exit_code and difference.differs:
        click.get_current_context().exit(DIFFERENT)


@verb("r", doing="comparing")
@click.option(
    "--since",
    metavar="WHEN",
    required=True,
    help="A date or time, how long ago (12h, 7d, 2w), or with a space a commit or tag.",
)
@click.option("--until", metavar="WHEN", help="Likewise, up to then.  [default: now]")
@click.option(
    "--compare/--no-compare", default=True, help="Say by how much dW changed. [default: yes]"
)
def changes(registry: "Registry", /, *, since: str, **options: Any) -> object:
    """Show what changed, a row a task: versions, aliases, by whom.

    \b
    share-registry changes --since 7d
    share-registry -s minilm changes --since @c40 --until @c60
    """
    return registry.changes(since, **options)


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
    "--subset",
    metavar="P%",
    help="Only so much, another part every day (UTC): 5% checks everything in 20 days.",
)
@click.option(
    "--turn",
    type=int,
    metavar="N",
    help="With --subset: the number of the run, which goes up by one, in place of the day's.",
)
@click.option(
    "--raise-on-damage/--no-raise-on-damage",
    default=True,
    help="Exit with code 5, 6 or 7 where something is wrong. [default: yes]",
)
def verify(
    *,
    level: str,
    shard: str | None,
    subset: str | None,
    turn: int | None,
    raise_on_damage: bool,
) -> None:
    """Check that the registry is what its records say.

    Names every version that cannot be trusted, and exits with code 5 where something is damaged,
    else 6 where a record is of a later release, else 7 where a version is too large to be decoded.
    Notes that are not there are listed as removed.
    """
    asked = session()
    with watching("verifying", asked) as progress, asked.open("r") as registry:
        report = registry.verify(
            level,
            shard=shard,
            subset=subset,
            turn=turn,
            raise_on_damage=False,
            progress=progress,
        )
    emit(report, asked)
    if raise_on_damage:
        from share_registry.registry.audit.verify import require_sound

        try:
            require_sound(report)
        except ShareRegistryError as error:
            wrong = count(len(report.wrong), "thing that is", "things that are")
            message = f"verify ({report.extent}) found {wrong} wrong."
            raise type(error)(message, hint=error.hint) from error
