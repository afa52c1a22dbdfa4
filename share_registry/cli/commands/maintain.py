"""Verbs that create, configure and look after a registry; those of `db` never touch the store."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from share_registry.cli.completion import REF, SPACE, TASK
from share_registry.cli.output import Printed, emit, say, watching
from share_registry.cli.session import session
from share_registry.cli.verb import (
    author_option,
    budget_of,
    free_verb,
    reason_option,
    verb,
    with_common_options,
    with_options,
)
from share_registry.errors import IntegrityError, InvalidInputError
from share_registry.look.units import count
from share_registry.values.policy import Policy

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry
    from share_registry.values.commits import Commit


# An option per member of `Policy`; those not given keep their value
_policy_options: Final = with_options(
    click.option(
        "--budget",
        type=budget_of,
        metavar="ERROR",
        help="Largest relative error of dW, like 0.05 or 5%; 0 is lossless.",
    ),
    click.option(
        "--keep-original/--no-keep-original", default=None, help="Also keep the files as they are."
    ),
    click.option(
        "--references/--no-references", default=None, help="Code adapters against earlier ones."
    ),
    click.option(
        "--refit/--no-refit", default=None, help="Fit a basis unasked, once it is seen to pay."
    ),
    click.option(
        "--pseudo-rank",
        type=click.IntRange(min=0),
        metavar="P",
        help="Keep at most P directions of every module; 0: as many as the budget takes.",
    ),
    click.option(
        "--k",
        type=click.IntRange(min=0),
        metavar="K",
        help="The paper's protocol: coefficients over a basis of K directions, without a budget; "
        "0: not.",
    ),
    click.option(
        "--phi",
        type=click.IntRange(min=0),
        metavar="PHI",
        help="Directions that training adds beside the basis.",
    ),
    click.option(
        "--max-dependents",
        type=click.IntRange(min=0),
        metavar="N",
        help="How many versions at most need the object of another one; 0: any number.",
    ),
    click.option(
        "--require",
        multiple=True,
        metavar="NAME",
        help="A check that every adapter must pass (see commit --check); repeatable; '': none.",
    ),
)
# Stands for every space behind --accept-loss
_EVERYWHERE: Final = "everywhere"
# Members of a policy that 0 switches off
_OFF: Final = frozenset({"pseudo_rank", "k", "max_dependents"})


@verb("c")
def init(registry: "Registry", /) -> Printed:
    """Create the registry, if it is not there."""
    return Printed(
        title=f"registry at {registry.location}",
        members={"location": registry.location},
        refs=(str(registry.location),),
    )


@verb("w", first=lambda _, __: None)
@click.argument("name")
@click.option("--base-model", metavar="LABEL", help="Base model, as in base_model_name_or_path.")
@click.option("--base-revision", metavar="REVISION", help="Revision of the base model.")
@click.option(
    "--base-label",
    "base_labels",
    multiple=True,
    metavar="LABEL",
    help="Another label of the same base model; may be repeated.",
)
@_policy_options
@author_option
@click.option("--exist-ok", is_flag=True, help="Fine if it is there with the same base model.")
def create_space(
    registry: "Registry",
    /,
    name: str,
    *,
    base_model: str | None,
    base_revision: str | None,
    base_labels: tuple[str, ...],
    author: str | None,
    exist_ok: bool,
    **policy: Any,
) -> Printed:
    """Create a space for one base model.

    \b
    share-registry create-space minilm --budget 0.02 \\
        --base-model sentence-transformers/all-MiniLM-L6-v2
    """
    registry.create_space(
        name,
        base_model=base_model,
        base_revision=base_revision,
        base_labels=base_labels,
        policy=_changed(Policy(), policy),
        author=author,
        exist_ok=exist_ok,
    )
    if base_model is None:
        say(
            f"note: the base model label is the space's name, {name!r}; --base-model gives another",
            session(),
        )
    return Printed(
        title=name,
        members={"space": name, "base_model": base_model, "base_revision": base_revision},
        refs=(name,),
    )


@verb("w")
@click.argument("space", type=SPACE)
@_policy_options
@author_option
def set_policy(
    registry: "Registry", /, space: str, *, author: str | None, **options: Any
) -> "Commit":
    """Change what SPACE does by default, from now on.

    \b
    share-registry set-policy minilm --budget 0.02
    """
    policy = _changed(registry.space(space).summary.policy, options)
    return registry.set_policy(policy, space=space, author=author)


@verb("w", doing="rebuilding the catalog")
@click.option(
    "--accept-loss",
    is_flag=False,
    flag_value=_EVERYWHERE,
    metavar="[SPACE@cN]",
    help="Forget commits that the catalog knows and the store lost; with SPACE@cN, only in that "
    "space, and give up its damaged records behind cN.",
)
def rebuild(registry: "Registry", /, *, accept_loss: str | None) -> Printed:
    """Make the catalog again from the store alone.

    Where the log of a space is damaged, --accept-loss SPACE@cN goes on from cN: the records behind
    it are moved to the directory quarantine in the store, and each is named.

    \b
    share-registry rebuild --accept-loss minilm@c6
    """
    accepted = accept_loss is not None if accept_loss in (None, _EVERYWHERE) else accept_loss
    registry.rebuild(accept_loss=accepted)
    return Printed(title="the catalog was rebuilt from the store", members={"rebuilt": True})


@free_verb
@click.option(
    "--grace-days",
    type=float,
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="Spare what was put within so many days.",
)
@click.option(
    "--dry-run/--no-dry-run", default=True, help="Only say what would be removed. [default: yes]"
)
def gc(*, grace_days: float, dry_run: bool) -> None:
    """Remove the objects that no record needs; by itself only say which.

    They are what writers left that died or lost a race, and what was prepared and never published.

    \b
    share-registry gc
    share-registry gc --no-dry-run
    """
    asked, mode = session(), "r" if dry_run else "w"
    with watching("collecting garbage", asked) as progress, asked.open(mode) as registry:
        report = registry.gc(grace_days=grace_days, dry_run=dry_run, progress=progress)
    emit(report, asked)


@free_verb
@click.argument("refs", metavar="[REF]...", nargs=-1, type=REF)
@click.option(
    "--keep-last",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    metavar="N",
    help="Keep the N newest versions of each task.",
)
@click.option(
    "--keep-days",
    type=float,
    default=0.0,
    show_default=True,
    metavar="DAYS",
    help="Keep what was committed within so many days.",
)
@click.option(
    "--keep-tagged/--no-keep-tagged",
    default=True,
    help="Keep what was the newest version of its task at a tag. [default: yes]",
)
@click.option("--dry-run/--no-dry-run", default=True, help="Only say what would go. [default: yes]")
@reason_option
@author_option
def expire(*, refs: tuple[str, ...], dry_run: bool, **options: Any) -> None:
    """Remove versions that are not needed any more; by itself only say which.

    REF is a task, all of whose versions are looked at, or a version; without any, every task is
    looked at. The newest version of a task, versions with an alias or a tag, and those that others
    are built upon stay. `share-registry gc` then frees the space.

    \b
    share-registry expire --keep-last 5 --keep-days 30
    share-registry expire cola --no-dry-run --reason "checkpoints of last week"
    """
    asked, mode = session(), "r" if dry_run else "w"
    with watching("expiring", asked) as progress, asked.open(mode) as registry:
        report = registry.expire(refs, dry_run=dry_run, progress=progress, **options)
    emit(report, asked)


@free_verb
@click.argument("task", type=TASK)
@click.option("--dry-run/--no-dry-run", default=True, help="Only say what would go. [default: yes]")
@reason_option
@author_option
def purge(*, task: str, dry_run: bool, **options: Any) -> None:
    """Remove all that was kept of TASK, for good; by itself only say what.

    Versions of other tasks that were built upon it are stored anew, bit for bit. Names, digests and
    sizes stay in the records.

    \b
    share-registry purge cola
    share-registry purge cola --no-dry-run --reason "request 1234"
    """
    asked, mode = session(), "r" if dry_run else "w"
    with watching("purging", asked) as progress, asked.open(mode) as registry:
        report = registry.purge(task, dry_run=dry_run, progress=progress, **options)
    emit(report, asked)


@free_verb
@click.option(
    "--from",
    "from_",
    metavar="DIRECTORY",
    help="The store of the copy; only read.  [default: what the store has twice]",
)
@click.option("--dry-run", is_flag=True, help="Write nothing; say what would be brought back.")
def repair(*, from_: str | None, dry_run: bool) -> None:
    """Bring back from a copy what is damaged or missing; exit code 5 where something is left.

    \b
    share-registry repair
    share-registry repair --from /backup/registry --dry-run
    """
    asked, mode = session(), "r" if dry_run else "w"
    with watching("repairing", asked) as progress, asked.open(mode) as registry:
        report = registry.repair(from_, dry_run=dry_run, progress=progress)
    emit(report, asked)
    if not report.ok:
        left = len(report.files) - report.repaired
        raise IntegrityError(
            f"{count(left, 'file was', 'files were')} not brought back.",
            hint="Another copy may have a sound one; `share-registry verify` names what needs it.",
        )


@verb("w")
@click.argument("digests", metavar="DIGEST...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Move also what is sound.")
def quarantine(registry: "Registry", /, digests: tuple[str, ...], **options: Any) -> object:
    """Move damaged objects out of the way, never delete them.

    The 8 digits that `verify` shows of a digest suffice, unless several begin with them.

    Their names are free then for sound bytes: commit the adapter again, or copy the files.
    """
    return registry.quarantine(digests, **options)


@with_common_options
@click.group()
def db() -> None:
    """Look at or upgrade the schema of the catalog."""


def current() -> Printed:
    """Say which schema the catalog has."""
    from share_registry.catalog import catalog

    version = catalog.current(_url())
    return Printed(title=version or "no catalog", members={"schema": version})


def check() -> Printed:
    """Check that this release can use the catalog; exit code 6 otherwise."""
    from share_registry.catalog import catalog

    return _is_current(catalog.check(_url()))


def upgrade() -> Printed:
    """Bring the catalog to the newest schema, creating it where there is none."""
    from share_registry.catalog import catalog

    return _is_current(catalog.upgrade(_url()))


for _function in (upgrade, current, check):
    db.add_command(free_verb(_function))


def _changed(policy: Policy, options: dict[str, Any]) -> Policy:
    members = {name: value for name, value in options.items() if value not in (None, ())}
    if "require" in members:
        members["require"] = tuple(filter(None, members["require"]))
    return replace(policy, **members | {name: None for name in _OFF if members.get(name) == 0})


def _is_current(version: str) -> Printed:
    return Printed(
        title=f"schema {version} is current", members={"schema": version, "current": True}
    )


def _url() -> str:
    url = session().locate().catalog_url
    if url is None:
        raise InvalidInputError("a registry in memory keeps no catalog.", hint="Name a directory.")
    return url
