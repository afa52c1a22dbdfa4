"""Verbs that copy a registry between stores, and a version to the Hub."""

from typing import TYPE_CHECKING, Any

import click

from share_registry.cli.completion import REF
from share_registry.cli.output import emit, watching
from share_registry.cli.session import session
from share_registry.cli.verb import (
    author_option,
    free_verb,
    reason_option,
    record_option,
    verb,
)
from share_registry.errors import ConflictError, IntegrityError, ensure

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry
    from share_registry.values.transfers import TransferReport

_dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Write nothing; say what would be copied."
)


@free_verb
@click.argument("from_", metavar="SOURCE")
@click.argument("to", metavar="TARGET")
@_dry_run_option
def clone(*, from_: str, to: str, **options: Any) -> None:
    """Copy the registry at SOURCE to a new place, TARGET, or go on with such a copy.

    Both are directories, buckets or repositories of the Hub. Every object is checked on the way.
    Exits with code 5 where something damaged was left out.

    \b
    share-registry clone registry /backup/registry
    share-registry clone registry hf://acme/registry
    share-registry clone s3://bucket/registry registry --dry-run
    """
    from share_registry import clone

    with watching("copying", session()) as progress:
        report = clone(from_, to, progress=progress, **options)
    _emit(report)


@free_verb
@click.argument("to", metavar="TARGET")
@_dry_run_option
def push(*, to: str, **options: Any) -> None:
    """Copy to TARGET, a copy of the registry, the commits that it lacks.

    Where somebody committed to TARGET what is not here, that space is left as it is; the others are
    copied, and the exit code is 4. `clone` makes the copy; `upload` brings one version to the Hub.

    \b
    share-registry push /backup/registry --dry-run
    share-registry push s3://bucket/registry
    share-registry push hf://acme/registry
    """
    with watching("copying", session()) as progress, session().open("r") as registry:
        report = registry.push(to, progress=progress, **options)
    _emit(report)


@free_verb
@click.argument("from_", metavar="SOURCE")
@_dry_run_option
def pull(*, from_: str, dry_run: bool) -> None:
    """Copy from SOURCE, a copy of the registry, the commits that are lacking here.

    Where somebody committed here what SOURCE has not, that space is left as it is; the others are
    copied, and the exit code is 4.

    \b
    share-registry pull s3://bucket/registry --dry-run
    share-registry pull s3://bucket/registry
    """
    mode = "r" if dry_run else "w"
    with watching("copying", session()) as progress, session().open(mode) as registry:
        report = registry.pull(from_, dry_run=dry_run, progress=progress)
    _emit(report)


@verb("r", doing="uploading", writing="record")
@click.argument("ref", type=REF)
@click.argument("location", metavar="hf://OWNER/REPO[@BRANCH][/FOLDER]")
@click.option(
    "--profile",
    type=click.Choice(["native", "portable"]),
    default="native",
    show_default=True,
    help="Same keys and ranks, or the form that every server reads alike.",
)
@click.option(
    "--base-model",
    metavar="OWNER/NAME",
    help="What config and card name as base model, a model of the Hub. [what they named]",
)
@click.option(
    "--private/--no-private",
    default=True,
    help="A repository that is created is seen by its owner alone. [default: yes]",
)
@click.option(
    "--create/--no-create",
    default=True,
    help="Create the repository and the branch where they are not there. [default: yes]",
)
@click.option(
    "-m", "--message", default="", metavar="TEXT", help="What the commit on the Hub says besides."
)
@click.option(
    "--expected",
    metavar="COMMIT",
    help="Commit that the branch must be at; otherwise exit code 4. With it, files of others "
    "are replaced.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be uploaded.")
@record_option
@reason_option
@author_option
def upload(registry: "Registry", /, ref: str, location: str, **options: Any) -> object:
    """Upload the version REF to the Hugging Face Hub.

    It becomes one commit there, with the files that `export` writes; the same files already there
    are success. Files of others are neither removed nor replaced, and a branch that moved
    meanwhile is refused with exit code 4. (`push` and `clone` copy a whole registry, to a directory
    or bucket.)

    \b
    share-registry upload cola@v3 hf://acme/cola-lora
    share-registry upload cola@prod hf://acme/adapters@main/cola --dry-run
    """
    return registry.upload(ref, location, **options)


def _emit(report: "TransferReport") -> None:
    """Print what was copied. Raises ConflictError, IntegrityError where that is not everything."""
    emit(report, session())
    refused = [space for space in report.spaces if space.refused]
    for space in refused:
        ensure(
            not space.has_diverged,
            ConflictError(
                space.refused,
                hint="Commit on one side what only the other one has, in a registry of its own "
                "(`export`, `commit`), and make a new copy.",
            ),
        )
    for space in refused:
        on_hub = any(place.startswith("hf://") for place in (report.source, report.target))
        raise IntegrityError(
            space.refused,
            hint="Run verify on the registry; in the repository of the Hub, revert the commit that "
            "changed it."
            if on_hub
            else "Run verify on both, and repair each from the other one.",
        )
