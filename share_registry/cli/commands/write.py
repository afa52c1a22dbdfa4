"""Verbs that make commits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from share_registry.cli.completion import ALIAS, FILES, REF, TASK
from share_registry.cli.output import emit, say_unless_new
from share_registry.cli.session import Session, session
from share_registry.cli.typed_path import TypedPath
from share_registry.cli.verb import (
    author_option,
    budget_of,
    check_option,
    dry_run_option,
    expected_of,
    expected_option,
    format_option,
    key_option,
    label_option,
    message_option,
    metric_option,
    named_of,
    reason_option,
    verb,
    with_options,
)
from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.look.units import count
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry
    from share_registry.values.commits import Commit

_base_mismatch_option: Final = click.option(
    "--allow-base-mismatch",
    is_flag=True,
    help="Commit although the config names another base model than the space.",
)
# Options of every verb that commits adapters
_adapter_options: Final = with_options(
    click.option(
        "--budget",
        type=budget_of,
        metavar="ERROR",
        help="Largest relative error of dW, like 0.05 or 5%; 0 is lossless. [the space's policy]",
    ),
    message_option,
    author_option,
    check_option,
    label_option,
    metric_option,
    click.option(
        "--derived-from",
        multiple=True,
        metavar="REF",
        help="Version this one was made from; may be repeated.",
    ),
    click.option(
        "--keep-original/--no-keep-original",
        default=None,
        help="Also keep the files as they are. [the space's policy]",
    ),
    format_option,
)
# Those that `commit` and `commit-many` have besides
_commit_options: Final = with_options(
    _adapter_options,
    key_option,
    _base_mismatch_option,
    click.option(
        "--allow-duplicate",
        is_flag=True,
        help="Make a new version although the source is that of the latest one.",
    ),
    dry_run_option,
)
# What is said of a commit that was there before
_ALREADY: Final = "already committed as {}; --allow-duplicate makes a new version"


def _present(_: click.Context, __: click.Parameter, adapter: str) -> str:
    if adapter.startswith("hf://") or Outside().exists(Path(adapter)):
        return adapter
    from share_registry.exchange.adapter_files import not_there

    raise not_there(adapter)


def _by_task(_: click.Context, __: click.Parameter, pairs: Sequence[str]) -> dict[str, str]:
    from share_registry.exchange.base_model import derive_task

    named = [pair if "=" in pair else f"{derive_task(pair)}={pair}" for pair in pairs]
    return named_of(named, hint="Name every task once: cola=adapters/cola.")


def _check_first(asked: Session, options: Mapping[str, Any]) -> None:
    from share_registry.registry.commands.commit import check_first

    several = options.get("adapters")
    check_first(
        list(several.items()) if several else [(options["task"], options["adapter"])],
        asked.space or Outside().environment("SHARE_REGISTRY_SPACE"),
        adapter_name=options.get("adapter_name"),
        format=options["format"],
        outside=Outside(),
    )


@verb("w", doing="committing", first=_check_first)
@click.argument("adapter", type=FILES, metavar="ADAPTER", callback=_present)
@click.option("--task", type=TASK, metavar="NAME", help="Task name. [from the directory's name]")
@_commit_options
@click.option(
    "--adapter-name", metavar="NAME", help="Which adapter, where the source holds several."
)
@expected_option
def commit(registry: "Registry", /, adapter: str, **options: Any) -> "Commit":
    """Commit ADAPTER as the next version of a task.

    ADAPTER is a PEFT directory, a directory or file of another program, or
    hf://owner/repo[@revision]. Labels git.sha, ci.run, mlflow.run_id and wandb.run are added where
    the environment has them.

    \b
    share-registry commit adapters/cola
    share-registry commit runs/41/best --task cola -m "run 41" --metric accuracy=0.93
    share-registry commit hf://owner/repo@main --task cola --budget 0
    """
    return say_unless_new(
        registry.commit(adapter, **options), session(), dry_run=options["dry_run"], already=_ALREADY
    )


@verb("w", doing="committing", first=_check_first)
@click.argument(
    "adapters", type=FILES, metavar="[TASK=]ADAPTER...", nargs=-1, required=True, callback=_by_task
)
@_commit_options
def commit_many(registry: "Registry", /, adapters: dict[str, str], **options: Any) -> "Commit":
    """Commit several adapters, all or nothing.

    A task that is not named has the name of its directory. Labels are added as by commit.

    \b
    share-registry commit-many cola=adapters/cola sst2=adapters/sst2 -m nightly
    """
    result = registry.commit_many(adapters, **options)
    return say_unless_new(result, session(), dry_run=options["dry_run"], already=_ALREADY)


def _check_import(asked: Session, options: Mapping[str, Any]) -> None:
    from share_registry.registry.commands.import_many import check_first_import

    check_first_import(
        options["sources"],
        options["from_file"],
        asked.space or Outside().environment("SHARE_REGISTRY_SPACE"),
        format=options["format"],
        outside=Outside(),
    )


@verb("w", doing="importing", first=_check_import)
@click.argument("sources", type=FILES, metavar="[DIRECTORY]...", nargs=-1)
@click.option(
    "--from-file",
    type=TypedPath(),
    metavar="CSV",
    help="A list of adapters, one row each; its first row names the columns.",
)
@_adapter_options
@_base_mismatch_option
@click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Processes that prepare adapters. [the number of processors]",
)
@click.option(
    "--on-error",
    type=click.Choice(["skip", "stop"]),
    default="skip",
    show_default=True,
    help="Go on without what is refused, or end at the first.",
)
@dry_run_option
def import_(registry: "Registry", /, sources: tuple[str, ...], **options: Any) -> None:
    """Commit every adapter of each DIRECTORY, with several processes.

    A DIRECTORY is an adapter, hf://owner/repo[@revision], or one with adapters anywhere below it,
    of whichever program. What is committed already is left as it is: an import that was killed is
    run again. A CSV file says more of each adapter: its columns are source, and any of task, space,
    message, labels, metrics, source_time, derived_from, format, label.NAME and metric.NAME.

    Exits with code 7 where an adapter was refused.

    \b
    share-registry import adapters/ --dry-run
    share-registry import adapters/ -m "first import"
    share-registry import --from-file list.csv --workers 8
    """
    report = registry.import_many(list(sources), **options)
    emit(report, session())
    ensure(
        not report.refused,
        RefusedError(
            f"{report.refused} of {count(len(report.outcomes), 'adapter')} "
            f"{'was' if report.refused == 1 else 'were'} refused.",
            hint="Mend them and run it again: what is committed stays as it is.",
        ),
    )


@verb("w")
@click.argument("ref", type=REF)
@click.argument("alias", type=ALIAS)
@click.option(
    "--expected",
    type=expected_of,
    metavar="VERSION",
    help="Version the alias must be at now, or 'absent'; otherwise exit code 4.",
)
@reason_option
@author_option
def set_alias(registry: "Registry", /, ref: str, alias: str, **options: Any) -> "Commit":
    """Point ALIAS of a task at the version REF.

    \b
    share-registry set-alias cola@v3 prod --reason CAB-77
    share-registry set-alias cola@prod~1 prod --reason "roll back"
    """
    return registry.set_alias(ref, alias, **options)


@verb("w")
@click.argument("task", type=TASK)
@click.argument("alias", type=ALIAS)
@click.option(
    "--expected",
    type=expected_of,
    metavar="VERSION",
    help="Version the alias must be at now; otherwise exit code 4.",
)
@reason_option
@author_option
def remove_alias(registry: "Registry", /, task: str, alias: str, **options: Any) -> "Commit":
    """Remove ALIAS from TASK; its history stays."""
    return registry.remove_alias(task, alias, **options)


@verb("w")
@click.argument("name")
@click.argument("ref", type=REF)
@reason_option
@author_option
def tag(registry: "Registry", /, name: str, ref: str, **said: Any) -> "Commit":
    """Name the commit of REF, for ever.

    \b
    share-registry tag release-1 @c412
    """
    return registry.tag(name, ref, **said)


@verb("w")
@click.argument("ref", type=REF)
@label_option
@metric_option
@click.option(
    "--remove", multiple=True, metavar="NAME", help="Label or metric to remove; may be repeated."
)
@reason_option
@author_option
def annotate(registry: "Registry", /, ref: str, **changes: Any) -> "Commit":
    """Change labels and metrics of a version.

    \b
    share-registry annotate cola@v3 --metric f1=0.91 --remove draft
    """
    ensure(
        any(changes[name] for name in ("labels", "metrics", "remove")),
        InvalidInputError(
            "annotate was given nothing to change.", hint="Give --label, --metric or --remove."
        ),
    )
    return registry.annotate(ref, **changes)


@verb("w")
@click.argument("task", type=TASK)
@reason_option
@author_option
def drop(registry: "Registry", /, task: str, **said: Any) -> "Commit":
    """Take TASK off the list.

    Its versions stay, and one of them can be restored.
    """
    return registry.drop(task, **said)


@verb("w")
@click.argument("ref", type=REF)
@reason_option
@author_option
def restore(registry: "Registry", /, ref: str, **said: Any) -> "Commit":
    """Make an old version the newest again.

    \b
    share-registry restore cola@v2
    """
    return registry.restore(ref, **said)


@verb("w")
@click.argument("task", type=TASK)
@click.argument("new")
@reason_option
@author_option
def rename(registry: "Registry", /, task: str, new: str, **said: Any) -> "Commit":
    """Rename a task; the old name still leads to it."""
    return registry.rename(task, new, **said)
