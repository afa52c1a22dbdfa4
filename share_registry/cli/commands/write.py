"""Verbs that make commits."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from share_registry.cli.options import (
    budget_of,
    expected_of,
    label_option,
    labels_of,
    metric_option,
    metrics_of,
)
from share_registry.cli.output import say
from share_registry.cli.verb import session, verb
from share_registry.errors import InvalidInputError, NotFoundError
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry
    from share_registry.values.commits import Commit


def _commit_options(function: "click.decorators.FC") -> "click.decorators.FC":
    """Add the options that `commit` and `commit-many` share."""
    for option in reversed(_COMMIT_OPTIONS):
        function = option(function)
    return function


_COMMIT_OPTIONS: Final = (
    click.option(
        "--budget",
        type=budget_of,
        metavar="ERROR",
        help="Largest relative error of dW, like 0.05 or 5%; 0 is lossless. [the space's policy]",
    ),
    click.option(
        "-m", "--message", default="", metavar="TEXT", help="What this commit is, for the log."
    ),
    click.option("--author", metavar="NAME", help="Who commits; self-declared."),
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
    click.option(
        "--idempotency-key",
        metavar="KEY",
        help="Running again with the same key never commits twice.",
    ),
    click.option(
        "--allow-base-mismatch",
        is_flag=True,
        help="Commit although the config names another base model than the space.",
    ),
    click.option(
        "--allow-duplicate",
        is_flag=True,
        help="Make a new version although the source is that of the latest one.",
    ),
    click.option("--dry-run", is_flag=True, help="Measure and report; commit nothing."),
)


def _present(_: click.Context, __: click.Parameter, adapter: str) -> str:
    """Check that there is something at the place before a registry is made for it."""
    if not adapter.startswith("hf://") and not Outside().exists(Path(adapter)):
        raise NotFoundError(f"adapter directory {adapter} does not exist.", hint="Check the path.")
    return adapter


@verb("c", doing="absorbing")
@click.argument("adapter", metavar="ADAPTER", callback=_present)
@click.option("--task", metavar="NAME", help="Task name. [from the directory's name]")
@_commit_options
@click.option(
    "--adapter-name", metavar="NAME", help="Which adapter, where the source holds several."
)
@click.option(
    "--expected",
    metavar="VERSION",
    help="Version that must be the task's latest, or 'absent'; otherwise exit code 4.",
)
def commit(
    registry: "Registry",
    /,
    adapter: str,
    *,
    labels: Sequence[str],
    metrics: Sequence[str],
    expected: str | None,
    **options: Any,
) -> "Commit":
    """Commit ADAPTER as the next version of a task.

    ADAPTER is a PEFT directory or hf://owner/repo[@revision].

    \b
    share-registry commit adapters/cola
    share-registry commit runs/41/best --task cola -m "run 41" --metric accuracy=0.93
    share-registry commit hf://owner/repo@main --task cola --budget 0
    """
    made = registry.commit(
        adapter,
        labels=labels_of(labels),
        metrics=metrics_of(metrics),
        expected=expected_of(expected),
        **options,
    )
    return _told(made, dry_run=bool(options["dry_run"]))


@verb("c", name="commit-many", doing="absorbing")
@click.argument("adapters", metavar="TASK=ADAPTER...", nargs=-1, required=True)
@_commit_options
def commit_many(
    registry: "Registry",
    /,
    adapters: Sequence[str],
    *,
    labels: Sequence[str],
    metrics: Sequence[str],
    **options: Any,
) -> "Commit":
    """Commit several adapters, all or nothing.

    \b
    share-registry commit-many cola=adapters/cola sst2=adapters/sst2 -m nightly
    """
    made = registry.commit_many(
        labels_of(adapters, hint="Name every task once: cola=adapters/cola."),
        labels=labels_of(labels),
        metrics=metrics_of(metrics),
        **options,
    )
    return _told(made, dry_run=bool(options["dry_run"]))


@verb("w", name="set-alias")
@click.argument("ref")
@click.argument("alias")
@click.option(
    "--expected",
    metavar="VERSION",
    help="Version the alias must be at now, or 'absent'; otherwise exit code 4.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def set_alias(
    registry: "Registry", /, ref: str, alias: str, *, expected: str | None, reason: str
) -> "Commit":
    """Point ALIAS of a task at the version REF.

    \b
    share-registry set-alias cola@v3 prod --reason CAB-77
    share-registry set-alias cola@prod~1 prod --reason "roll back"
    """
    return registry.set_alias(ref, alias, expected=expected_of(expected), reason=reason)


@verb("w", name="remove-alias")
@click.argument("task")
@click.argument("alias")
@click.option(
    "--expected", metavar="VERSION", help="Version the alias must be at now; otherwise exit code 4."
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def remove_alias(
    registry: "Registry", /, task: str, alias: str, *, expected: str | None, reason: str
) -> "Commit":
    """Remove ALIAS from TASK; its history stays."""
    return registry.remove_alias(task, alias, expected=expected_of(expected), reason=reason)


@verb("w")
@click.argument("name")
@click.argument("ref")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def tag(registry: "Registry", /, name: str, ref: str, *, reason: str) -> "Commit":
    """Name the commit of REF, for ever.

    \b
    share-registry tag release-1 @c412
    """
    return registry.tag(name, ref, reason=reason)


@verb("w")
@click.argument("ref")
@label_option
@metric_option
@click.option(
    "--remove", multiple=True, metavar="NAME", help="Label or metric to remove; may be repeated."
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def annotate(
    registry: "Registry",
    /,
    ref: str,
    *,
    labels: Sequence[str],
    metrics: Sequence[str],
    remove: Sequence[str],
    reason: str,
) -> "Commit":
    """Change labels and metrics of a version.

    \b
    share-registry annotate cola@v3 --metric f1=0.91 --remove draft
    """
    if not labels and not metrics and not remove:
        raise InvalidInputError(
            "annotate was given nothing to change.", hint="Give --label, --metric or --remove."
        )
    return registry.annotate(
        ref,
        labels=labels_of(labels),
        metrics=metrics_of(metrics),
        remove=tuple(remove),
        reason=reason,
    )


@verb("w")
@click.argument("task")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def drop(registry: "Registry", /, task: str, *, reason: str) -> "Commit":
    """Take TASK off the list.

    Its versions stay, and one of them can be restored.
    """
    return registry.drop(task, reason=reason)


@verb("w")
@click.argument("ref")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def restore(registry: "Registry", /, ref: str, *, reason: str) -> "Commit":
    """Make an old version the newest again.

    \b
    share-registry restore cola@v2
    """
    return registry.restore(ref, reason=reason)


@verb("w")
@click.argument("task")
@click.argument("new")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the log.")
def rename(registry: "Registry", /, task: str, new: str, *, reason: str) -> "Commit":
    """Rename a task; the old name still leads to it."""
    return registry.rename(task, new, reason=reason)


def _told(made: "Commit", *, dry_run: bool) -> "Commit":
    if dry_run:
        if session().json:
            say("dry run: nothing was written", session())
    elif not made.created:
        say(
            f"already committed as c{made.number}; --allow-duplicate makes a new version", session()
        )
    return made
